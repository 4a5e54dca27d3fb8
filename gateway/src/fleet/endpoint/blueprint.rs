//! What an endpoint is made from, and what of it a reload may change without making another one.

use std::net::SocketAddr;
use std::time::Duration;

use forebay_config::gateway as config;
use http::uri::Authority;

/// All that makes two endpoints the same across a reload, apart from the weight.
#[derive(Clone)]
pub struct EndpointBlueprint {
    pub cluster: String,
    /// As written in the configuration.
    pub address: String,
    pub resolved: SocketAddr,
    pub protocol: config::Protocol,
    pub health: Option<config::Health>,
    pub breaker: Option<config::Breaker>,
    pub outlier: Option<config::Outlier>,
    pub tls: Option<config::UpstreamTls>,
    /// What roots, client certificate and key were when they were read; rotated ones make another endpoint.
    pub trust: Option<u64>,
    pub connect_timeout: Duration,
    pub load_reports: config::LoadReports,
    /// What `:authority` and `Host` say to it.
    pub authority: Authority,
}

impl EndpointBlueprint {
    /// The same in all: the endpoint itself lives on.
    pub fn same_as(&self, other: &Self) -> bool {
        self.same_place_as(other)
            && self.health == other.health
            && self.breaker == other.breaker
            && self.outlier == other.outlier
            && self.connect_timeout == other.connect_timeout
            && self.load_reports == other.load_reports
            && self.trust == other.trust
    }

    /// The same server, looked at differently: what was learned about it lives on.
    pub fn same_place_as(&self, other: &Self) -> bool {
        self.cluster == other.cluster
            && self.address == other.address
            && self.resolved == other.resolved
            && self.protocol == other.protocol
            && self.tls == other.tls
    }
}
