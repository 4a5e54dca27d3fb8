//! The right to one request on one endpoint, counted for exactly as long as it is held.
//!
//! Whatever happens to the call (answer, error, retry, a client that goes away in mid-flight), dropping the
//! lease takes the count back. Counters that leak are how balancers end up sending everything to one endpoint.

use std::sync::Arc;
use std::time::Instant;

use super::endpoint::Endpoint;
use crate::traffic::breaker::Permit;

/// What an answered call says about the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Success,
    /// The endpoint's fault: it counts against it.
    Failure,
    /// The caller's fault (bad argument, unknown model): the endpoint works, but the latency says nothing.
    Neutral,
}

pub struct Lease {
    endpoint: Arc<Endpoint>,
    /// Position in the cluster, so that a retry can avoid it.
    pub index: usize,
    permit: Option<Permit>,
    started: Instant,
    outcome: Option<(Outcome, Instant)>,
}

impl Lease {
    /// None when the endpoint's breaker admits nothing now.
    pub(super) fn take(endpoint: &Arc<Endpoint>, index: usize, now: Instant) -> Option<Self> {
        let permit = endpoint.enter(now)?;
        Some(Self { endpoint: endpoint.clone(), index, permit, started: now, outcome: None })
    }

    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Ends the lease with what was learnt; a lease that is merely dropped counts as cancelled.
    pub fn finish(mut self, outcome: Outcome, now: Instant) {
        self.outcome = Some((outcome, now));
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let (outcome, now) = match self.outcome {
            Some((outcome, now)) => (Some(outcome), now),
            None => (None, self.started),
        };
        self.endpoint.leave(self.permit.take(), self.started, now, outcome);
    }
}
