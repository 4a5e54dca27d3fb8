//! `[[routes.rate_limits]]`: how many requests a route takes over time, from whom.

use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimit {
    /// In each `per`, on average; 1 or more.
    pub requests: u32,
    pub per: Duration,
    /// At once, after a pause; 1 or more.
    pub burst: u32,
    pub by: RateKey,
    /// By all gateways that use the same Redis; where there is one.
    pub shared: bool,
}

/// What requests share a limit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum RateKey {
    /// All of the route.
    Route,
    /// Those of one client address, of one /64 network if that is of IPv6.
    Client,
    /// Those with the same value of this header, in lower case; those without it share one limit.
    Header(String),
}
