//! `[[clusters]]`: endpoints that serve the same thing, and how one is chosen and watched.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::{Affinity, Discovery, Limit, Prefer, SlowStart};
use crate::problem::Problems;
use crate::read;

#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    pub name: String,
    pub protocol: Protocol,
    pub policy: Policy,
    pub load_reports: LoadReports,
    /// Set for `Policy::RingHash` and for no other.
    pub affinity: Option<Affinity>,
    /// None: all endpoints are the same.
    pub prefer: Option<Prefer>,
    /// At least one, unless there is a discovery; addresses are unique within the cluster.
    pub endpoints: Vec<Endpoint>,
    /// Where more endpoints come from; None: there are no others.
    pub discovery: Option<Discovery>,
    pub connect_timeout: Duration,
    /// None: endpoints get whatever comes.
    pub limit: Option<Limit>,
    /// None: endpoints count as healthy from the start.
    pub health: Option<Health>,
    /// When a smaller share of the endpoints, by weight, can take requests, those that fail their checks are used too; 0.0:
    /// never.
    pub panic_below: f64,
    /// None: no circuit breaker.
    pub breaker: Option<Breaker>,
    /// None: endpoints are not compared with each other.
    pub outlier: Option<Outlier>,
    /// None: an endpoint has its full share at once.
    pub slow_start: Option<SlowStart>,
    /// None: plain text (h2c or HTTP/1.1).
    pub tls: Option<UpstreamTls>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2 to the endpoints: gRPC, and REST inference mapped to it.
    Grpc,
    /// HTTP/1.1 to the endpoints.
    Http,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    RoundRobin,
    Random,
    LeastRequest,
    PeakEwma,
    LeastWork,
    RingHash,
}

impl Policy {
    /// As it is written in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::Random => "random",
            Self::LeastRequest => "least_request",
            Self::PeakEwma => "peak_ewma",
            Self::LeastWork => "least_work",
            Self::RingHash => "ring_hash",
        }
    }
}

/// Which load reports of workers `least_work` goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadReports {
    /// None: only by what the gateway measures itself.
    Ignore,
    /// Those that come with answers.
    Answers,
    /// These, and a stream of reports from each endpoint.
    Stream,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `host:port`; the host is a name or an address ([v6] in brackets). Resolved by the shell.
    pub address: String,
    /// 1 to 1000; twice the weight, twice the share.
    pub weight: u32,
    /// What routes select and clusters prefer endpoints by.
    pub labels: BTreeMap<String, String>,
}

impl Endpoint {
    /// Without labels.
    pub fn new(address: impl Into<String>, weight: u32) -> Self {
        Self {
            address: address.into(),
            weight,
            labels: BTreeMap::new(),
        }
    }

    /// One that a source names, without labels; no weight: the default one.
    ///
    /// # Errors
    /// What would be right.
    pub fn named(address: &str, weight: Option<u64>) -> Result<Self, String> {
        read::endpoint_named(address, weight)
    }

    /// The same with labels that a source gives.
    ///
    /// # Errors
    /// What would be right.
    pub fn with_labels(mut self, labels: BTreeMap<String, String>) -> Result<Self, String> {
        for (name, value) in &labels {
            Self::check_label(name, value)?;
        }
        self.labels = labels;
        Ok(self)
    }

    /// # Errors
    /// What would be right.
    pub fn check_label(name: &str, value: &str) -> Result<(), String> {
        read::endpoint_label(name, value)
    }

    /// The text of a discovery file; every problem at once.
    pub fn parse_file(text: &str) -> Result<Vec<Self>, Problems> {
        read::endpoints_file(text)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Health {
    pub probe: HealthProbe,
    /// Models that a gRPC probe asks about too; at most 64, none twice. An endpoint that is not ready for one of them gets
    /// none of its requests.
    pub models: Vec<String>,
    pub interval: Duration,
    pub timeout: Duration,
    /// Passes in a row that make an unhealthy endpoint healthy; the first pass of a new one suffices.
    pub healthy_threshold: u32,
    /// Failures in a row that make a healthy endpoint unhealthy.
    pub unhealthy_threshold: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HealthProbe {
    /// `grpc.health.v1.Health/Check` of this service; empty: the whole server.
    Grpc { service: String },
    /// GET of this path (HTTP/1.1 for http clusters, HTTP/2 for grpc clusters); any 2xx passes.
    Http { path: String },
    /// A connection that opens passes.
    Tcp,
}

/// Closed until a trip condition holds, open for `open_for`, then one probe request decides.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Breaker {
    /// Failures in a row that open it; 0: this condition is off.
    pub consecutive_failures: u32,
    /// Success rate over `window` below which it opens, 0.0 to 1.0; 0.0: this condition is off.
    pub success_rate: f64,
    pub window: Duration,
    /// Requests in the window below which `success_rate` is not looked at.
    pub minimum_requests: u32,
    pub open_for: Duration,
}

/// Endpoints that fail much more often than the others of their cluster are left out for a while.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outlier {
    /// What endpoints are compared by.
    pub window: Duration,
    /// Requests in the window below which an endpoint is not compared, nor the others with it; 1 or more.
    pub minimum_requests: u32,
    /// Least difference between its share of failures and that of all others together, 0.0 to 1.0.
    pub margin: f64,
    /// Length of the first ejection; one more of it each time that it is ejected again.
    pub eject_for: Duration,
    pub eject_max: Duration,
    /// Share of the endpoints that may be out at the same time, 0.0 to 1.0; one at least, and never all.
    pub max_ejected: f64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamTls {
    /// Never empty: it is what the certificate is verified against.
    pub server_name: String,
    /// PEM bundle of trusted roots; None: those that the system trusts.
    pub ca: Option<PathBuf>,
    /// What the gateway shows to endpoints that ask for a certificate (mTLS); None: it shows none.
    pub identity: Option<Identity>,
}

/// A certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// PEM, leaf first.
    pub certificate: PathBuf,
    /// PEM: PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
}
