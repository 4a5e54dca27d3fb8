//! A stand-in for Consul, as far as the health endpoint of one service goes: blocking queries with index and wait, the
//! filters for passing checks and for tags, and a token.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::upstream::Listener;

const SERVICE: &str = "workers";
const TOKEN: &str = "a-token";

pub struct Consul {
    pub address: SocketAddr,
    state: Arc<State>,
    listener: Option<Listener>,
}

struct State {
    catalog: watch::Sender<Catalog>,
    queries: Mutex<usize>,
}

struct Catalog {
    index: u64,
    instances: Vec<Instance>,
    leaderless: bool,
}

#[derive(Clone)]
pub struct Instance {
    pub address: SocketAddr,
    pub passing: bool,
    pub weight: u64,
    pub tag: &'static str,
}

impl Instance {
    pub fn passing(address: SocketAddr) -> Self {
        Self {
            address,
            passing: true,
            weight: 1,
            tag: "live",
        }
    }
}

impl Consul {
    pub async fn start() -> anyhow::Result<Self> {
        let catalog = Catalog {
            index: 10,
            instances: Vec::new(),
            leaderless: false,
        };
        let mut consul = Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            state: Arc::new(State {
                catalog: watch::Sender::new(catalog),
                queries: Mutex::new(0),
            }),
            listener: None,
        };
        consul.restart().await?;
        Ok(consul)
    }

    pub fn stop(&mut self) {
        self.listener = None;
    }

    /// Where it was.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        let state = self.state.clone();
        let listener = Listener::start(self.address, None, move |request| {
            answer(state.clone(), request)
        });
        let listener = listener.await?;
        self.address = listener.address;
        self.listener = Some(listener);
        Ok(())
    }

    /// These are all there are from now on.
    pub fn set(&self, instances: &[Instance]) {
        self.state.catalog.send_modify(|catalog| {
            catalog.index += 1;
            catalog.instances = instances.to_vec();
        });
    }

    /// As after a snapshot was restored: older than what clients have seen.
    pub fn set_back(&self, instances: &[Instance]) {
        self.state.catalog.send_modify(|catalog| {
            catalog.index = 2;
            catalog.instances = instances.to_vec();
        });
    }

    pub fn lose_leader(&self, leaderless: bool) {
        self.state
            .catalog
            .send_modify(|catalog| catalog.leaderless = leaderless);
    }

    pub fn queries(&self) -> usize {
        *self.state.queries.lock()
    }
}

pub fn token() -> &'static str {
    TOKEN
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    *state.queries.lock() += 1;
    let shown = request.headers().get("x-consul-token");
    if shown.is_none_or(|shown| shown != TOKEN) {
        return text(
            403,
            "Permission denied: token lacks permission 'service:read'",
        );
    }
    let query = request.uri().query().unwrap_or_default().to_owned();
    let parameters = |name: &'static str| {
        query
            .split('&')
            .filter_map(move |pair| pair.strip_prefix(name)?.strip_prefix('='))
    };
    if request.uri().path() != format!("/v1/health/service/{SERVICE}") {
        return text(404, "Invalid URL path");
    }
    let number = |name| {
        parameters(name)
            .next()
            .and_then(|text| text.trim_end_matches('s').parse().ok())
    };
    let (index, wait): (u64, u64) = (number("index").unwrap_or(0), number("wait").unwrap_or(300));
    let mut catalog = state.catalog.subscribe();
    // A store that was set back wakes everybody.
    let seen = catalog.borrow_and_update().index;
    let is_news =
        |catalog: &Catalog| catalog.leaderless || catalog.index > index || catalog.index != seen;
    let wait = Duration::from_secs(wait);
    let _ = tokio::time::timeout(wait, catalog.wait_for(is_news)).await;
    let catalog = state.catalog.borrow();
    if catalog.leaderless {
        return text(500, "No cluster leader");
    }
    let only_passing = parameters("passing").next() == Some("true");
    let chosen = catalog.instances.iter().filter(|instance| {
        (instance.passing || !only_passing) && parameters("tag").all(|tag| tag == instance.tag)
    });
    let entries: Vec<Value> = chosen.map(entry).collect();
    let mut answer = Response::new(Full::new(Bytes::from(json!(entries).to_string())));
    answer
        .headers_mut()
        .insert("x-consul-index", catalog.index.into());
    answer
}

fn entry(instance: &Instance) -> Value {
    json!({
        "Node": { "ID": "n", "Node": "node-1", "Address": "192.0.2.1", "Datacenter": "dc1" },
        "Service": {
            "ID": instance.address.to_string(),
            "Service": SERVICE,
            "Tags": [instance.tag],
            "Address": instance.address.ip().to_string(),
            "Meta": {},
            "Port": instance.address.port(),
            "Weights": { "Passing": instance.weight, "Warning": 1 },
        },
        "Checks": [{ "CheckID": "grpc", "Status": if instance.passing { "passing" } else { "critical" } }],
    })
}

fn text(code: u16, message: &'static str) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from_static(message.as_bytes())));
    *answer.status_mut() = StatusCode::from_u16(code).unwrap_or_default();
    answer
}
