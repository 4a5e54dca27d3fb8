//! Sources of endpoints that come and go: what each of them says now, and for how long that holds.
//!
//! A source only looks and reports; whether anything changed, and what becomes of it, is `membership`'s. A look that
//! fails changes nothing: the endpoints that were named last stay. A DNS name without records counts as failed too,
//! since that is what a name server says when it lost its zone.

mod dns;
mod file;

use std::time::Duration;

use forebay_config::gateway as config;

use dns::DnsSource;
use file::FileSource;

/// What a look found.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// Sorted by address, none twice.
    pub endpoints: Vec<config::Endpoint>,
    /// Until the next look is worth it.
    pub fresh_for: Duration,
}

pub enum Source {
    File(FileSource),
    Dns(Box<DnsSource>),
}

impl Source {
    /// # Errors
    /// The system's name servers are asked for and not configured.
    pub fn new(discovery: &config::Discovery) -> Result<Self, String> {
        match &discovery.source {
            config::DiscoverySource::File(path) => {
                Ok(Self::File(FileSource::new(path, discovery.interval)))
            }
            config::DiscoverySource::Dns { .. } | config::DiscoverySource::Srv(_) => {
                DnsSource::new(discovery).map(|source| Self::Dns(Box::new(source)))
            }
        }
    }

    /// # Errors
    /// Why the source says nothing, in one line.
    pub async fn look(&self) -> Result<Found, String> {
        match self {
            Self::File(source) => source.look().await,
            Self::Dns(source) => source.look().await,
        }
    }
}
