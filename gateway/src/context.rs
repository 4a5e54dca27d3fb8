//! What one streamed request carries through pingora's phases. Dropping it gives everything back.

use std::sync::Arc;
use std::time::Instant;

use forebay_proto::status::Code;
use smallvec::SmallVec;

use crate::fleet::{Lease, Outcome};
use crate::gateway::{Gateway, InFlight, Route, Snapshot};
use crate::refusal::Refusal;
use crate::telemetry::trace::{AttemptSpan, RequestTrace};
use crate::traffic::budget::RetryToken;
use crate::traffic::deadline::Deadline;

pub struct Context {
    pub started: Instant,
    pub is_grpc: bool,
    /// The request was answered by another data path, which has counted it.
    pub handled: bool,
    /// Set once a route is found; the snapshot keeps it alive.
    pub routed: Option<Routed>,
    pub trace: RequestTrace,
    pub lease: Option<Lease>,
    pub attempt: Option<AttemptSpan>,
    pub tried: SmallVec<[usize; 4]>,
    pub token: Option<RetryToken>,
    /// Why the gateway answers by itself, where an error of pingora's would say less.
    pub refusal: Option<Refusal>,
    /// What the answer's head or trailers said.
    pub status: Option<Code>,
    pub counted: Option<InFlight>,
}

pub struct Routed {
    snapshot: Arc<Snapshot>,
    index: usize,
    pub deadline: Option<Deadline>,
}

impl Context {
    pub fn new(gateway: &Arc<Gateway>) -> Self {
        Self {
            started: Instant::now(),
            is_grpc: false,
            handled: false,
            routed: None,
            trace: RequestTrace::Untouched,
            lease: None,
            attempt: None,
            tried: SmallVec::new(),
            token: None,
            refusal: None,
            status: None,
            counted: Some(gateway.enter()),
        }
    }

    pub fn route(&self) -> Option<&Route> {
        self.routed.as_ref().map(Routed::route)
    }

    /// Ends the current attempt, if there is one.
    pub fn end_attempt(&mut self, outcome: Outcome, described: Result<u16, &str>) {
        if let Some(lease) = self.lease.take() {
            lease.finish(outcome, Instant::now());
        }
        if let Some(span) = self.attempt.take() {
            span.end(described);
        }
    }
}

impl Routed {
    pub fn new(snapshot: Arc<Snapshot>, index: usize, deadline: Option<Deadline>) -> Self {
        Self {
            snapshot,
            index,
            deadline,
        }
    }

    pub fn route(&self) -> &Route {
        &self.snapshot.routes[self.index]
    }
}
