//! A stand-in for the API of Kubernetes, as far as EndpointSlices of one namespace go: lists, watches with resource versions
//! and bookmarks, history that is forgotten, and whom it does not know or does not let in.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::upstream::Listener;

const NAMESPACE: &str = "inference";
const SERVICE: &str = "workers";
const TOKEN: &str = "a-token";

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

pub struct Kubernetes {
    pub address: SocketAddr,
    api: Arc<Api>,
    listener: Option<Listener>,
}

struct Api {
    state: Mutex<State>,
    /// Counts what watches have to look at.
    news: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    version: u64,
    slices: BTreeMap<String, Value>,
    /// With the versions that they made.
    history: Vec<(u64, Value)>,
    /// Versions up to here are forgotten.
    forgotten: u64,
    /// Versions at which all watches ended, one after the other.
    ends: Vec<u64>,
    forbidden: bool,
    lists: usize,
    /// Versions that watches began at.
    watched_from: Vec<u64>,
}

/// One endpoint of a slice.
#[derive(Clone, Copy)]
pub enum Pod {
    Ready(SocketAddr),
    /// Takes nothing more but what it has.
    Terminating(SocketAddr),
    Unready(SocketAddr),
}

impl Kubernetes {
    pub async fn start() -> anyhow::Result<Self> {
        let api = Arc::new(Api {
            state: Mutex::new(State {
                version: 100,
                ..State::default()
            }),
            news: watch::Sender::new(0),
        });
        let mut kubernetes = Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            api,
            listener: None,
        };
        kubernetes.restart().await?;
        Ok(kubernetes)
    }

    /// Cuts every connection and takes no more.
    pub fn stop(&mut self) {
        self.listener = None;
    }

    /// Where it was.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        let api = self.api.clone();
        let listener = Listener::start(self.address, None, move |request| {
            let answer = answer(&api, &request);
            async move { answer }
        });
        let listener = listener.await?;
        self.address = listener.address;
        self.listener = Some(listener);
        Ok(())
    }

    /// The text of a kubeconfig that leads here.
    pub fn kubeconfig(&self) -> String {
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{ "name": "test", "cluster": { "server": format!("http://{}", self.address) } }],
            "users": [{ "name": "gateway", "user": { "token": TOKEN } }],
            "contexts": [{
                "name": "test",
                "context": { "cluster": "test", "user": "gateway", "namespace": NAMESPACE },
            }],
        })
        .to_string()
    }

    /// Makes a slice, or replaces it; all pods have the port of the first.
    pub fn put(&self, name: &str, pods: &[Pod]) {
        let mut state = self.api.state.lock();
        state.version += 1;
        let version = state.version;
        let slice = slice(name, version, pods);
        let known = state.slices.insert(name.to_owned(), slice.clone());
        let kind = if known.is_some() { "MODIFIED" } else { "ADDED" };
        let event = json!({ "type": kind, "object": slice });
        state.history.push((version, event));
        self.tell();
    }

    pub fn delete(&self, name: &str) -> anyhow::Result<()> {
        let mut state = self.api.state.lock();
        state.version += 1;
        let version = state.version;
        let mut slice = state.slices.remove(name).context("a slice")?;
        slice["metadata"]["resourceVersion"] = json!(version.to_string());
        let event = json!({ "type": "DELETED", "object": slice });
        state.history.push((version, event));
        self.tell();
        Ok(())
    }

    /// Tells watches a newer version at which nothing is different; which one.
    pub fn bookmark(&self) -> u64 {
        let mut state = self.api.state.lock();
        state.version += 10;
        let version = state.version;
        let event = json!({ "type": "BOOKMARK", "object": {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": { "resourceVersion": version.to_string() },
        }});
        state.history.push((version, event));
        self.tell();
        version
    }

    /// Nobody can go on from what was up to now.
    pub fn forget(&self) {
        let mut state = self.api.state.lock();
        state.version += 1;
        state.forgotten = state.version;
        state.history.clear();
    }

    /// Ends watches in peace, as servers do from time to time.
    pub fn end_watches(&self) {
        let mut state = self.api.state.lock();
        let version = state.version;
        state.ends.push(version);
        self.tell();
    }

    /// Whether the account may do anything.
    pub fn forbid(&self, forbidden: bool) {
        self.api.state.lock().forbidden = forbidden;
    }

    pub fn lists(&self) -> usize {
        self.api.state.lock().lists
    }

    pub fn watched_from(&self) -> Vec<u64> {
        self.api.state.lock().watched_from.clone()
    }

    fn tell(&self) {
        self.api.news.send_modify(|news| *news += 1);
    }
}

fn slice(name: &str, version: u64, pods: &[Pod]) -> Value {
    let mut port = None;
    let mut endpoints = Vec::new();
    for pod in pods {
        let (address, [ready, serving, terminating]) = match pod {
            Pod::Ready(address) => (address, [true, true, false]),
            Pod::Terminating(address) => (address, [false, true, true]),
            Pod::Unready(address) => (address, [false, false, false]),
        };
        port = port.or(Some(address.port()));
        endpoints.push(json!({
            "addresses": [address.ip().to_string()],
            "conditions": { "ready": ready, "serving": serving, "terminating": terminating },
            "zone": "a",
        }));
    }
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "resourceVersion": version.to_string(),
            "labels": { "kubernetes.io/service-name": SERVICE },
        },
        "addressType": "IPv4",
        "ports": [{ "name": "grpc", "port": port.unwrap_or(1), "protocol": "TCP" }],
        "endpoints": endpoints,
    })
}

fn answer(api: &Arc<Api>, request: &Request<Incoming>) -> Answer {
    let wanted = format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices");
    let query = request.uri().query().unwrap_or_default();
    let parameter = |name: &str| {
        query
            .split('&')
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    };
    let bearer = format!("Bearer {TOKEN}");
    let shown = request.headers().get(AUTHORIZATION);
    let selector = format!("kubernetes.io%2Fservice-name%3D{SERVICE}");
    let mut state = api.state.lock();
    if shown.is_none_or(|shown| shown.as_bytes() != bearer.as_bytes()) {
        return refusal(401, "Unauthorized", "Unauthorized");
    }
    if state.forbidden {
        let message = format!(
            "endpointslices.discovery.k8s.io is forbidden: User \"system:serviceaccount:{NAMESPACE}:gateway\" cannot list resource \"endpointslices\" in API group \"discovery.k8s.io\" in the namespace \"{NAMESPACE}\""
        );
        return refusal(403, "Forbidden", &message);
    }
    if request.uri().path() != wanted || parameter("labelSelector") != Some(&selector) {
        let message = format!("nothing is known of {}", request.uri());
        return refusal(404, "NotFound", &message);
    }
    if parameter("watch") != Some("true") {
        state.lists += 1;
        let items: Vec<&Value> = state.slices.values().collect();
        let list = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSliceList",
            "metadata": { "resourceVersion": state.version.to_string() },
            "items": items,
        });
        return document(200, &list);
    }
    let from = parameter("resourceVersion").and_then(|version| version.parse().ok());
    let from: u64 = from.unwrap_or(0);
    state.watched_from.push(from);
    if from < state.forgotten {
        let message = format!("too old resource version: {from} ({})", state.forgotten);
        return refusal(410, "Expired", &message);
    }
    let (events, body) = unbounded_channel();
    tokio::spawn(follow(api.clone(), from, state.ends.len(), events));
    let frames = UnboundedReceiverStream::new(body).map(|line| Ok(Frame::data(line)));
    Response::new(StreamBody::new(frames).boxed_unsync())
}

/// Sends what is newer than `from`, until the next of the ends, `end`, or until nobody listens.
async fn follow(api: Arc<Api>, mut from: u64, end: usize, events: UnboundedSender<Bytes>) {
    let mut news = api.news.subscribe();
    loop {
        {
            let state = api.state.lock();
            let last = state.ends.get(end).copied();
            for (version, event) in &state.history {
                if *version > from && *version <= last.unwrap_or(u64::MAX) {
                    from = *version;
                    if events.send(Bytes::from(format!("{event}\n"))).is_err() {
                        return;
                    }
                }
            }
            if last.is_some() {
                return;
            }
        }
        tokio::select! {
            changed = news.changed() => if changed.is_err() { return },
            () = events.closed() => return,
        }
    }
}

fn refusal(code: u16, reason: &str, message: &str) -> Answer {
    let status = json!({
        "apiVersion": "v1",
        "kind": "Status",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    });
    document(code, &status)
}

fn document(code: u16, document: &Value) -> Answer {
    let body = Full::new(Bytes::from(document.to_string())).boxed_unsync();
    let mut answer = Response::new(body);
    *answer.status_mut() = http::StatusCode::from_u16(code).unwrap_or_default();
    answer
}
