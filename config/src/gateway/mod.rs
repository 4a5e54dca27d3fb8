//! The validated gateway configuration: a file per table.

mod cluster;
mod discovery;
mod listener;
mod route;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use cluster::{
    Breaker, Cluster, Endpoint, Health, HealthProbe, Identity, Policy, Protocol, UpstreamTls,
};
pub use discovery::{Discovery, DiscoverySource};
pub use listener::{Listener, ListenerTls};
pub use route::{
    Cache, HeaderMatch, HeaderValueMatch, Hedge, HostMatch, Match, Mode, ModelMatch, PathMatch,
    Retry, Route,
};

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
    /// Metrics, health and state over HTTP; off when `None`.
    pub admin: Option<SocketAddr>,
    pub telemetry: Telemetry,
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
