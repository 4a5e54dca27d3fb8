//! `[clusters.discovery]`: a source that says which endpoints a cluster has, beside those that are written.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovery {
    pub source: DiscoverySource,
    /// How often the source is looked at. DNS answers that live shorter are asked for again when they expire,
    /// those that live longer are not asked for before this.
    pub interval: Duration,
    /// DNS server to ask; None: those of the system. Only with DNS sources.
    pub nameserver: Option<SocketAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiscoverySource {
    /// A file with `endpoints = [...]` as in a cluster, read again when it changes.
    File(PathBuf),
    /// Every A and AAAA record of `host` is an endpoint on `port`.
    Dns { host: String, port: u16 },
    /// Every SRV record of this name is an endpoint, with the weight it says; of several priorities the first.
    Srv(String),
}

impl DiscoverySource {
    /// As it is written in the configuration.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::Dns { .. } => "dns",
            Self::Srv(_) => "srv",
        }
    }
}
