//! Sources of endpoints that come and go: what each of them says now, and when it says something else.
//!
//! A source is asked for its next answer, and takes its time: what can only be looked at is looked at again when the
//! last answer is old, and what tells changes by itself is listened to. Whether anything changed, and what becomes of
//! it, is `membership`'s. A source that fails changes nothing: the endpoints that were named last stay. A DNS name
//! without records counts as failed too, since that is what a name server says when it lost its zone. The others can
//! tell "there are none" from "I do not know", so an empty answer of theirs is believed.

mod consul;
mod dns;
mod etcd;
mod file;
mod kubernetes;
mod patience;
mod polled;
mod server;

use forebay_config::gateway as config;

use consul::ConsulSource;
use etcd::EtcdSource;
use file::FileSource;
use kubernetes::KubernetesSource;
pub use patience::Patience;
use polled::Polled;

pub enum Source {
    File(Box<FileSource>),
    Polled(Box<Polled>),
    Etcd(Box<EtcdSource>),
    Consul(Box<ConsulSource>),
    Kubernetes(Box<KubernetesSource>),
}

impl Source {
    pub fn new(discovery: &config::Discovery) -> Self {
        match &discovery.source {
            config::DiscoverySource::File(path) => {
                Self::File(Box::new(FileSource::new(path, discovery.interval)))
            }
            config::DiscoverySource::Dns { .. } | config::DiscoverySource::Srv(_) => {
                Self::Polled(Box::new(Polled::new(discovery)))
            }
            config::DiscoverySource::Etcd(settings) => {
                Self::Etcd(Box::new(EtcdSource::new(settings)))
            }
            config::DiscoverySource::Consul(settings) => {
                Self::Consul(Box::new(ConsulSource::new(settings)))
            }
            config::DiscoverySource::Kubernetes(settings) => {
                Self::Kubernetes(Box::new(KubernetesSource::new(settings)))
            }
        }
    }

    /// All endpoints, sorted by address, none twice: the first time as soon as they are known, then when they may
    /// have changed, and after a failure as soon as the source answers again.
    ///
    /// # Errors
    /// Why the source says nothing, in one line. When it is asked again it goes on where it was.
    pub async fn next(&mut self) -> Result<Vec<config::Endpoint>, String> {
        match self {
            Self::File(source) => source.next().await,
            Self::Polled(source) => source.next().await,
            Self::Etcd(source) => source.next().await,
            Self::Consul(source) => source.next().await,
            Self::Kubernetes(source) => source.next().await,
        }
    }

    /// What it says may be another thing already. Never, where that shows only in the next answer.
    pub async fn changed(&mut self) {
        match self {
            Self::File(source) => source.changed().await,
            Self::Polled(_) | Self::Etcd(_) | Self::Consul(_) | Self::Kubernetes(_) => {
                std::future::pending().await
            }
        }
    }
}
