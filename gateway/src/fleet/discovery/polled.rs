//! A source that has to be looked at again when what it said is old: names in DNS.

use std::time::Duration;

use forebay_config::gateway::{Discovery, Endpoint};
use tokio::time::Instant;

use super::dns::DnsSource;

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
        // Anew each time: the system's name servers may have changed.
        let found = DnsSource::new(&self.discovery)?.look().await?;
        self.fresh_until = Some(Instant::now() + found.fresh_for);
        Ok(found.endpoints)
    }
}
