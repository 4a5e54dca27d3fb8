//! `[clusters.discovery]`: a source that says which endpoints a cluster has, beside those that are written.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::Identity;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovery {
    pub source: DiscoverySource,
    /// How often the source is looked at. DNS answers that live shorter are asked for again when they expire,
    /// those that live longer are not asked for before this. Sources that tell changes by themselves are not looked
    /// at. The longest wait before a source that failed is asked again.
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
    /// Every key under a prefix is an endpoint, as its value says.
    Etcd(Etcd),
    /// Every instance of a service whose checks pass is an endpoint.
    Consul(Consul),
    /// Every ready endpoint of a service's EndpointSlices is one.
    Kubernetes(Kubernetes),
}

impl DiscoverySource {
    /// As it is written in the configuration.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::Dns { .. } => "dns",
            Self::Srv(_) => "srv",
            Self::Etcd(_) => "etcd",
            Self::Consul(_) => "consul",
            Self::Kubernetes(_) => "kubernetes",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Etcd {
    /// `host:port` of members of one etcd cluster; at least one, none twice.
    pub servers: Vec<String>,
    /// Never empty.
    pub prefix: String,
    /// None: etcd is asked without a name, or knows it from the certificate that it is shown.
    pub login: Option<Login>,
    /// None: plain text.
    pub tls: Option<SourceTls>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    pub user: String,
    /// Its first line is the password.
    pub password_file: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consul {
    /// `host:port` of an agent's HTTP API.
    pub server: String,
    /// Never empty.
    pub service: String,
    /// An instance has all of them.
    pub tags: Vec<String>,
    /// None: the agent's own.
    pub datacenter: Option<String>,
    /// Its first line is an ACL token; None: the agent is asked without one.
    pub token_file: Option<PathBuf>,
    /// None: plain text.
    pub tls: Option<SourceTls>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kubernetes {
    pub service: String,
    /// None: that of the gateway's pod, or of the kubeconfig's context.
    pub namespace: Option<String>,
    /// Its name; None: the only one that the service has.
    pub port: Option<String>,
    /// None: the gateway is a pod, and has an account.
    pub kubeconfig: Option<PathBuf>,
}

/// TLS to the server of a source. Files are read at each connection, so that new ones are used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceTls {
    /// What the certificate is verified against; None: the host that is connected to.
    pub server_name: Option<String>,
    /// PEM bundle of trusted roots; None: those that the system trusts.
    pub ca: Option<PathBuf>,
    /// What the gateway shows to servers that ask for a certificate (mTLS); None: it shows none.
    pub identity: Option<Identity>,
}
