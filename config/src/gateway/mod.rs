//! The validated gateway configuration: a file per table.

mod affinity;
mod cluster;
mod discovery;
mod limit;
mod listener;
mod prefer;
mod rate_limit;
mod redis;
mod route;
mod shadow;
mod slow_start;
mod subset;
mod targets;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use affinity::Affinity;
pub use cluster::{
    Breaker, Cluster, Endpoint, Health, HealthProbe, Identity, LoadReports, Outlier, Policy,
    Protocol, UpstreamTls,
};
pub use discovery::{Consul, Discovery, DiscoverySource, Etcd, Kubernetes, Login, SourceTls};
pub use limit::{Limit, Queue};
pub use listener::{Listener, ListenerTls};
pub use prefer::Prefer;
pub use rate_limit::{RateKey, RateLimit};
pub use redis::{Redis, RedisTls};
pub use route::{
    AdaptiveLimit, Cache, HeaderMatch, HeaderValueMatch, Hedge, HostMatch, Match, Mode, ModelMatch,
    PathMatch, Retry, Route,
};
pub use shadow::Shadow;
pub use slow_start::SlowStart;
pub use subset::{LabelValue, Subset, SubsetFallback};
pub use targets::{Fallback, Side, Split, StaticAnswer, StaticBody, Sticky};

use crate::problem::Problems;
use crate::read;
use crate::telemetry::Telemetry;

/// Everything `forebay-gateway --config FILE` needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Gateway {
    /// Worker threads; 1 or more. Default: the number of cores, resolved by the shell when `None`.
    pub threads: Option<usize>,
    /// How long readiness says "no" while requests are still accepted, before listeners close.
    pub drain_delay: Duration,
    /// How long requests in flight may take to finish after listeners close.
    pub drain_timeout: Duration,
    /// Where the next version asks for the listening sockets; no upgrade without a gap when `None`.
    pub upgrade_socket: Option<PathBuf>,
    /// Bytes of request bodies and held-back answers that all requests together may keep in memory; at least twice the
    /// largest body that a route takes. None: what suits the machine, resolved by the shell.
    pub max_buffered: Option<u64>,
    /// Metrics, health and state over HTTP; off when `None`.
    pub admin: Option<SocketAddr>,
    pub telemetry: Telemetry,
    /// None: nothing is shared between gateways.
    pub redis: Option<Redis>,
    /// At least one; names and addresses are unique.
    pub listeners: Vec<Listener>,
    /// Sorted as written; each names a cluster that exists.
    pub routes: Vec<Route>,
    /// At least one; names are unique.
    pub clusters: Vec<Cluster>,
}

impl Gateway {
    /// Every problem at once, or a configuration that needs no rechecking.
    pub fn parse(text: &str) -> Result<Self, Problems> {
        read::gateway(text)
    }
}
