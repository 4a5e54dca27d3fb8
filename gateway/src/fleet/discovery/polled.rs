//! Sources that are looked at: a file, and names in DNS.

use std::time::Duration;

use forebay_config::gateway::{Discovery, DiscoverySource, Endpoint};
use tokio::time::Instant;

use super::dns::DnsSource;
use super::file;

pub struct Polled {
    discovery: Discovery,
    /// Of the last answer; None: there is none, or the last look failed.
    fresh_until: Option<Instant>,
}

/// What a look found.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// Sorted by address, none twice.
    pub endpoints: Vec<Endpoint>,
    /// Until the next look is worth it.
    pub fresh_for: Duration,
}

impl Polled {
    pub fn new(discovery: &Discovery) -> Self {
        Self {
            discovery: discovery.clone(),
            fresh_until: None,
        }
    }

    pub async fn next(&mut self) -> Result<Vec<Endpoint>, String> {
        if let Some(fresh_until) = self.fresh_until.take() {
            tokio::time::sleep_until(fresh_until).await;
        }
        let found = self.look().await?;
        self.fresh_until = Some(Instant::now() + found.fresh_for);
        Ok(found.endpoints)
    }

    async fn look(&self) -> Result<Found, String> {
        match &self.discovery.source {
            DiscoverySource::File(path) => file::look(path, self.discovery.interval).await,
            // Anew each time: the system's name servers may have changed.
            _ => DnsSource::new(&self.discovery)?.look().await,
        }
    }
}
