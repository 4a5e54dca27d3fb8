//! `max_requests` of a cluster and `[clusters.queue]`: how much each endpoint gets at a time, and who waits for a turn.

use std::time::Duration;

#[derive(Debug, Clone, PartialEq)]
pub struct Limit {
    /// Requests that each endpoint may have in flight from this gateway; 1 or more.
    pub max_requests: u32,
    pub queue: Queue,
}

/// Where requests wait while every endpoint has all that it may have.
#[derive(Debug, Clone, PartialEq)]
pub struct Queue {
    /// Requests that may wait; 0: none does, and what finds no free endpoint is refused.
    pub size: u32,
    /// The longest wait; None: only the request's own deadline bounds it.
    pub max_wait: Option<Duration>,
    /// Lower case; the header that says how urgent a request is. None: all are alike.
    pub priority_header: Option<String>,
    /// Lower case; requests with equal values of this header are one tenant's. None: all are of one.
    pub tenant_header: Option<String>,
}
