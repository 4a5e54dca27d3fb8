//! What all requests share: the current configuration in its running form, and what is in flight.
//!
//! A `Snapshot` never changes; a reload puts a new one in its place, and requests keep the one that they
//! started with. Endpoints are shared between snapshots.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use forebay_config::gateway as config;
use http::HeaderMap;
use parking_lot::Mutex;

use crate::cache::ResponseCache;
use crate::fleet::Cluster;
use crate::limits::{Concurrency, RateLimits};
use crate::memory::Memory;
use crate::redis::Redis;
use crate::targets::Targets;
use crate::telemetry::discovery::Discoveries;
use crate::telemetry::metrics::RouteMetrics;
use crate::telemetry::trace::Tracing;
use crate::traffic::budget::RetryBudget;
use crate::traffic::hedge::Hedging;
use crate::traffic::retry::Backoff;
use crate::traffic::route::{RequestHead, Router};
use crate::traffic::subset::{Selector, Wish};
use crate::unary::Shadow;

pub struct Gateway {
    snapshot: ArcSwap<Snapshot>,
    /// What requests that began before a reload still tell of themselves.
    former_tracings: Mutex<Vec<Arc<Tracing>>>,
    pub discoveries: Discoveries,
    pub memory: Arc<Memory>,
    in_flight: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
    unrouted: AtomicU64,
    draining: AtomicBool,
    closing: AtomicBool,
}

pub struct Snapshot {
    pub config: config::Gateway,
    router: Router,
    pub routes: Vec<Route>,
    pub clusters: Vec<Arc<Cluster>>,
    /// None: no route shares anything with other gateways.
    pub redis: Option<Arc<Redis>>,
    pub tracing: Arc<Tracing>,
    /// Largest of all routes: how much is read before the route is known.
    pub max_request_bytes: u64,
    /// Longest of all routes: how long that may take.
    pub max_timeout: Duration,
    /// Some cluster goes by what stands in the messages of gRPC calls.
    pub reads_messages: bool,
    /// Some cluster or split goes by the client's address.
    pub reads_source: bool,
}

/// A route ready to serve.
pub struct Route {
    pub config: config::Route,
    pub cluster: Arc<Cluster>,
    /// None: there is no other cluster, and no answer without one.
    pub targets: Option<Targets>,
    /// None: its requests may go to any endpoint.
    selector: Option<Selector>,
    /// None: no call is copied.
    pub shadow: Option<Arc<Shadow>>,
    pub budget: Arc<RetryBudget>,
    pub backoff: Backoff,
    /// None: the route does not hedge.
    pub hedging: Option<Arc<Hedging>>,
    /// None: the route keeps no answers.
    pub cache: Option<Arc<ResponseCache>>,
    /// Where its answers are shared with other gateways; None: they are not.
    pub redis: Option<Arc<Redis>>,
    /// None: it takes whatever comes, over time and at a time.
    pub rates: Option<Arc<RateLimits>>,
    /// Where its limits over time are shared with other gateways; None: none is.
    pub rates_redis: Option<Arc<Redis>>,
    pub concurrency: Option<Arc<Concurrency>>,
    pub metrics: Arc<RouteMetrics>,
}

/// Counts one request, or one client connection, for as long as it is there.
pub struct InFlight(Arc<AtomicUsize>);

impl Gateway {
    pub fn new(snapshot: Snapshot) -> Self {
        snapshot.take_over();
        Self {
            memory: Memory::new(snapshot.config.max_buffered),
            snapshot: ArcSwap::from_pointee(snapshot),
            former_tracings: Mutex::default(),
            discoveries: Discoveries::default(),
            in_flight: Arc::new(AtomicUsize::new(0)),
            connections: Arc::new(AtomicUsize::new(0)),
            unrouted: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            closing: AtomicBool::new(false),
        }
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    pub fn replace(&self, snapshot: Snapshot) {
        self.memory.resize(snapshot.config.max_buffered);
        let snapshot = Arc::new(snapshot);
        let former = self.snapshot.swap(snapshot.clone());
        snapshot.take_over();
        if !Arc::ptr_eq(&former.tracing, &snapshot.tracing) {
            self.retire(former.tracing.clone());
        }
    }

    /// The last request that uses it may end on a serving thread, which must not wait for a collector: it is kept until
    /// somebody comes by who may. Blocks while those send their last spans that nobody uses any more.
    fn retire(&self, tracing: Arc<Tracing>) {
        let mut former = self.former_tracings.lock();
        former.retain(|tracing| {
            let is_used = Arc::strong_count(tracing) > 1;
            if !is_used {
                tracing.flush();
            }
            is_used
        });
        former.push(tracing);
    }

    /// Sends the spans that are still held. Blocks, for two seconds at most for each collector.
    pub fn flush(&self) {
        self.snapshot().tracing.flush();
        for tracing in self.former_tracings.lock().iter() {
            tracing.flush();
        }
    }

    pub fn enter(&self) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(self.in_flight.clone())
    }

    pub fn connect(&self) -> InFlight {
        self.connections.fetch_add(1, Ordering::Relaxed);
        InFlight(self.connections.clone())
    }

    /// Client connections that are open.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub fn count_unrouted(&self) {
        self.unrouted.fetch_add(1, Ordering::Relaxed);
    }

    pub fn unrouted(&self) -> u64 {
        self.unrouted.load(Ordering::Relaxed)
    }

    /// From now on readiness says no.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// From now on every HTTP/1 answer is the last on its connection.
    pub fn start_closing(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Ready: not draining, and at least one cluster that a route leads to could answer.
    pub fn is_ready(&self) -> bool {
        let snapshot = self.snapshot.load();
        !self.is_draining() && snapshot.routes.iter().any(Route::has_healthy)
    }
}

impl Snapshot {
    /// Routes and clusters of `config`, `clusters` in its order. Routes of `previous` hand on what they counted.
    pub fn new(
        config: config::Gateway,
        clusters: Vec<Arc<Cluster>>,
        redis: Option<Arc<Redis>>,
        tracing: Arc<Tracing>,
        previous: Option<&Snapshot>,
    ) -> Self {
        let former_routes: HashMap<&str, &Route> = previous
            .into_iter()
            .flat_map(|snapshot| &snapshot.routes)
            .map(|route| (route.config.name.as_str(), route))
            .collect();
        let routes: Vec<Route> = config
            .routes
            .iter()
            .filter_map(|route| {
                let former = former_routes.get(route.name.as_str());
                let named = |name: &str| {
                    let mut all = clusters.iter();
                    all.find(|cluster| cluster.config.name == name).cloned()
                };
                let cluster = named(&route.cluster)?;
                let shadow = route.shadow.as_ref().and_then(|config| {
                    let former = former.and_then(|former| former.shadow.as_deref());
                    let shadow = Shadow::new(config.clone(), named(&config.cluster)?, former);
                    Some(Arc::new(shadow))
                });
                let retry = &route.retry;
                let same_retry = former.filter(|former| former.config.retry == *retry);
                let former_targets = former.and_then(|former| former.targets.as_ref());
                Some(Route {
                    targets: Targets::new(route, &clusters, former_targets),
                    selector: route.subset.as_ref().map(Selector::new),
                    cluster,
                    shadow,
                    budget: same_retry.map_or_else(
                        || Arc::new(RetryBudget::new(retry.budget_ratio, retry.budget_min)),
                        |former| former.budget.clone(),
                    ),
                    hedging: hedging(route, former.copied()),
                    cache: cache(route, former.copied()),
                    redis: redis.clone().filter(|_| shares_answers(route)),
                    rates: rates(route, former.copied()),
                    rates_redis: redis.clone().filter(|_| shares_rates(route)),
                    concurrency: concurrency(route, former.copied()),
                    metrics: former
                        .map(|former| former.metrics.clone())
                        .unwrap_or_default(),
                    backoff: Backoff {
                        first: retry.backoff,
                        max: retry.backoff_max,
                    },
                    config: route.clone(),
                })
            })
            .collect();
        assert_eq!(
            routes.len(),
            config.routes.len(),
            "a validated route names a cluster that exists"
        );
        Self {
            router: Router::new(&config.routes),
            max_request_bytes: config
                .routes
                .iter()
                .map(|route| route.max_request_bytes)
                .max()
                .unwrap_or(0),
            max_timeout: config
                .routes
                .iter()
                .map(|route| route.timeout)
                .max()
                .unwrap_or_default(),
            reads_messages: clusters.iter().any(|cluster| cluster.reads_messages()),
            reads_source: clusters
                .iter()
                .filter_map(|cluster| cluster.affinity.as_ref())
                .any(|affinity| affinity.source)
                || routes
                    .iter()
                    .filter_map(|route| route.targets.as_ref())
                    .any(Targets::looks_at_source),
            routes,
            clusters,
            redis,
            tracing,
            config,
        }
    }

    /// It is in force: whoever waits is served from its clusters.
    fn take_over(&self) {
        let now = Instant::now();
        for cluster in &self.clusters {
            cluster.take_over(now);
        }
    }

    pub fn route(&self, head: &RequestHead<'_>) -> Option<&Route> {
        self.find(head).and_then(|index| self.routes.get(index))
    }

    /// The position of the route that takes this request.
    pub fn find(&self, head: &RequestHead<'_>) -> Option<usize> {
        self.router.find(head)
    }

    /// Whether any route looks at the model's name.
    pub fn routes_by_model(&self) -> bool {
        self.router.needs_model()
    }
}

impl Route {
    /// What a request with these headers asks of its endpoint.
    pub fn wish(&self, headers: &HeaderMap) -> Wish {
        let selector = self.selector.as_ref();
        selector.map_or(Wish::Nothing, |selector| selector.wish(headers))
    }

    /// The same of the endpoints of `cluster`: what only stands in for the others takes all requests.
    pub fn wish_at(&self, cluster: &Cluster, wish: Wish) -> Wish {
        match wish {
            Wish::Nothing => Wish::Nothing,
            wish if self.config.sends_to(&cluster.config.name) => wish,
            _ => Wish::Nothing,
        }
    }

    /// Some endpoint that it leads to is healthy; those of its shadow answer nobody.
    fn has_healthy(&self) -> bool {
        let mut others = self.targets.iter().flat_map(Targets::all);
        self.cluster.has_healthy() || others.any(|target| target.cluster.has_healthy())
    }
}

/// What was learned lives on while the settings are the same.
fn hedging(route: &config::Route, former: Option<&Route>) -> Option<Arc<Hedging>> {
    let config = route.hedge?;
    let same = former.filter(|former| former.config.hedge == route.hedge);
    let kept = same.and_then(|former| former.hedging.clone());
    Some(kept.unwrap_or_else(|| Arc::new(Hedging::new(config, Instant::now()))))
}

fn shares_answers(route: &config::Route) -> bool {
    route.cache.as_ref().is_some_and(|cache| cache.shared)
}

fn shares_rates(route: &config::Route) -> bool {
    route.rate_limits.iter().any(|limit| limit.shared)
}

/// Answers live on while the settings and the cluster are the same.
fn cache(route: &config::Route, former: Option<&Route>) -> Option<Arc<ResponseCache>> {
    let config = route.cache.as_ref()?;
    let same = former.filter(|former| {
        former.config.cache.as_ref() == Some(config)
            && former.config.cluster == route.cluster
            && former.config.split == route.split
    });
    let kept = same.and_then(|former| former.cache.clone());
    Some(kept.unwrap_or_else(|| Arc::new(ResponseCache::new(config.clone()))))
}

/// Buckets stay as full as they are while the limits are the same.
fn rates(route: &config::Route, former: Option<&Route>) -> Option<Arc<RateLimits>> {
    let same = former.filter(|former| former.config.rate_limits == route.rate_limits);
    match same {
        Some(former) => former.rates.clone(),
        None => RateLimits::new(&route.name, &route.rate_limits, Instant::now()).map(Arc::new),
    }
}

/// What was learned stays while the settings are the same; whoever is served counts on while there is a limit.
fn concurrency(route: &config::Route, former: Option<&Route>) -> Option<Arc<Concurrency>> {
    let same = former.filter(|former| {
        former.config.adaptive_limit == route.adaptive_limit
            && former.config.max_concurrent == route.max_concurrent
    });
    if let Some(same) = same {
        return same.concurrency.clone();
    }
    let former = former.and_then(|former| former.concurrency.as_deref());
    let (most, adaptive) = (route.max_concurrent, route.adaptive_limit);
    Concurrency::new(most, adaptive, former, Instant::now()).map(Arc::new)
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
