//! Endpoints out of Kubernetes: the ready endpoints of a service, as its EndpointSlices say.
//!
//! The slices are listed once and watched from there on. A watch ends every few minutes, and goes on from the last
//! resource version that was heard; when the server has forgotten that (410 Gone), the slices are listed again. (How
//! clients are to behave: Kubernetes' "API Concepts", section "Efficient detection of changes".)

mod slices;

use std::time::Duration;

use forebay_config::gateway::{Endpoint, Kubernetes};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ListParams, WatchEvent, WatchParams};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use kube::{Client, Error};
use tokio::time::Instant;

use slices::Slices;

const CONNECT: Duration = Duration::from_secs(3);
/// From the configuration to the watch.
const OPEN: Duration = Duration::from_secs(15);
/// A watch is asked to last so long, and one that is silent for longer is dead.
const WATCH: u32 = 120;
const GRACE: Duration = Duration::from_secs(10);
/// One that ends sooner has failed.
const SHORTEST: Duration = Duration::from_secs(1);
const PAGE: u32 = 500;
const GONE: u16 = 410;

type Watch = BoxStream<'static, Result<WatchEvent<EndpointSlice>, Error>>;

pub struct KubernetesSource {
    settings: Kubernetes,
    slices: Slices,
    /// What was heard up to; None: a list is needed.
    version: Option<String>,
    open: Option<Open>,
}

struct Open {
    slices: Api<EndpointSlice>,
    namespace: String,
    watch: Watch,
    since: Instant,
}

/// What came over a watch.
enum Heard {
    Changed,
    /// It is over, and another one goes on.
    Ended,
}

impl KubernetesSource {
    pub fn new(settings: &Kubernetes) -> Self {
        Self {
            settings: settings.clone(),
            slices: Slices::default(),
            version: None,
            open: None,
        }
    }

    pub async fn next(&mut self) -> Result<Vec<Endpoint>, String> {
        let open = match self.open.take() {
            None => {
                let (slices, namespace) = connect(&self.settings).await?;
                self.watch(slices, namespace).await?
            }
            Some(mut open) => match self.listen(&mut open).await? {
                Heard::Changed => open,
                Heard::Ended => self.watch(open.slices, open.namespace).await?,
            },
        };
        self.open = Some(open);
        self.slices.endpoints(self.settings.port.as_deref())
    }

    async fn listen(&mut self, open: &mut Open) -> Result<Heard, String> {
        let mut changed = false;
        loop {
            let next = open.watch.next();
            let event = if changed {
                match next.now_or_never() {
                    Some(event) => event,
                    None => return Ok(Heard::Changed),
                }
            } else {
                let silence = Duration::from_secs(u64::from(WATCH)) + GRACE;
                let event = tokio::time::timeout(silence, next).await;
                event.map_err(|_| "nothing was heard of the watch, not even its end".to_owned())?
            };
            match event {
                Some(Ok(WatchEvent::Added(slice) | WatchEvent::Modified(slice))) => {
                    self.heard(slice.metadata.resource_version.clone());
                    self.slices.put(slice);
                    changed = true;
                }
                Some(Ok(WatchEvent::Deleted(slice))) => {
                    self.heard(slice.metadata.resource_version.clone());
                    self.slices.remove(&slice);
                    changed = true;
                }
                Some(Ok(WatchEvent::Bookmark(bookmark))) => {
                    self.heard(Some(bookmark.metadata.resource_version));
                }
                Some(Ok(WatchEvent::Error(status))) if status.code == GONE => {
                    self.version = None;
                    return Ok(Heard::Ended);
                }
                Some(Ok(WatchEvent::Error(status))) => {
                    return Err(describe(&Error::Api(status), &open.namespace));
                }
                Some(Err(error)) => return Err(describe(&error, &open.namespace)),
                None if changed => return Ok(Heard::Changed),
                None if open.since.elapsed() < SHORTEST => {
                    return Err("the watch ended as soon as it began".to_owned());
                }
                None => return Ok(Heard::Ended),
            }
        }
    }

    fn heard(&mut self, version: Option<String>) {
        self.version = version.or(self.version.take());
    }

    async fn watch(
        &mut self,
        slices: Api<EndpointSlice>,
        namespace: String,
    ) -> Result<Open, String> {
        let started = tokio::time::timeout(OPEN, self.start(&slices)).await;
        let watch = started
            .map_err(|_| format!("no answer within {OPEN:?}"))?
            .map_err(|error| describe(&error, &namespace))?;
        Ok(Open {
            slices,
            namespace,
            watch,
            since: Instant::now(),
        })
    }

    /// Lists where that is needed, and watches.
    async fn start(&mut self, slices: &Api<EndpointSlice>) -> Result<Watch, Error> {
        let selector = format!("kubernetes.io/service-name={}", self.settings.service);
        let watch = WatchParams::default().labels(&selector).timeout(WATCH);
        if let Some(version) = &self.version {
            match slices.watch(&watch, version).await {
                Err(Error::Api(status)) if status.code == GONE => {}
                outcome => return outcome.map(StreamExt::boxed),
            }
        }
        self.version = None;
        let version = self.list(slices, &selector).await?;
        let watch = slices.watch(&watch, &version).await?.boxed();
        self.version = Some(version);
        Ok(watch)
    }

    /// All slices, page by page; the version that they are of.
    async fn list(&mut self, slices: &Api<EndpointSlice>, selector: &str) -> Result<String, Error> {
        let mut all = Vec::new();
        let mut page = ListParams::default().labels(selector).limit(PAGE);
        loop {
            let list = slices.list(&page).await?;
            all.extend(list.items);
            let next = list.metadata.continue_.filter(|token| !token.is_empty());
            if next.is_none() {
                self.slices = Slices::of(all);
                return Ok(list.metadata.resource_version.unwrap_or_default());
            }
            page.continue_token = next;
        }
    }
}

/// The API as the settings say, and the namespace.
async fn connect(settings: &Kubernetes) -> Result<(Api<EndpointSlice>, String), String> {
    let mut config = match &settings.kubeconfig {
        None => Config::incluster().map_err(|error| {
            format!("this is no pod of Kubernetes, and there is no kubeconfig: {error}")
        })?,
        Some(path) => {
            let read = Kubeconfig::read_from(path);
            let read = read.map_err(|error| chain(&error))?;
            Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
                .await
                .map_err(|error| format!("'{}': {}", path.display(), chain(&error)))?
        }
    };
    config.connect_timeout = Some(CONNECT);
    // What fails is told, and asked again from without.
    config.default_retry = false;
    let namespace = settings.namespace.clone();
    let namespace = namespace.unwrap_or_else(|| config.default_namespace.clone());
    let client = Client::try_from(config).map_err(|error| chain(&error))?;
    Ok((Api::namespaced(client, &namespace), namespace))
}

/// In one line; who may not is told what is missing.
fn describe(error: &Error, namespace: &str) -> String {
    match error {
        Error::Api(status) => {
            let hint = match status.code {
                401 => "; is the token still good?".to_owned(),
                403 => format!(
                    "; the gateway's account needs get, list and watch on endpointslices (API group discovery.k8s.io) in namespace '{namespace}'"
                ),
                _ => String::new(),
            };
            format!("the API answers {}: {}{hint}", status.code, status.message)
        }
        other => chain(other),
    }
}

/// An error and what caused it, without what is said twice.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let said = inner.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = inner.source();
    }
    text
}
