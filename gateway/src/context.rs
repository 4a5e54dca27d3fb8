//! What one streamed request carries through pingora's phases. Dropping it gives everything back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_config::gateway::Protocol;
use forebay_proto::status::Code;
use http::StatusCode;
use smallvec::SmallVec;

use crate::fleet::{Bearings, Cluster, Lease};
use crate::gateway::{Gateway, InFlight, Route, Snapshot};
use crate::head_timer::HeadTimer;
use crate::limits::Permit;
use crate::refusal::Refusal;
use crate::targets::Target;
use crate::telemetry::trace::{AttemptSpan, RequestTrace};
use crate::traffic::budget::RetryToken;
use crate::traffic::deadline::Deadline;
use crate::traffic::retry::Outcome;

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
    /// Position of the cluster among the route's targets, once one is chosen; None where there is but one.
    pub target: Option<usize>,
    /// Endpoints of that cluster that were asked.
    pub tried: SmallVec<[usize; 4]>,
    /// How many of them beside another.
    pub hedges: usize,
    pub bearings: Bearings,
    pub token: Option<RetryToken>,
    /// For the endpoint of the current attempt.
    pub waited: Duration,
    /// Bounds the wait for the head of an HTTP/1 answer.
    pub head_timer: Option<HeadTimer>,
    /// The last attempt failed for lack of time.
    pub timed_out: bool,
    /// The last attempt was declined, and another one follows.
    pub declined: bool,
    /// Why the gateway answers by itself, where an error of pingora's would say less.
    pub refusal: Option<Refusal>,
    /// What the answer's head or trailers said.
    pub status: Option<Code>,
    /// Of a plain HTTP answer.
    pub http_status: Option<StatusCode>,
    pub counted: Option<InFlight>,
    pub permit: Option<Permit>,
}

pub struct Routed {
    snapshot: Arc<Snapshot>,
    index: usize,
    /// What the client of a gRPC stream allows for all of it.
    pub stream_deadline: Option<Deadline>,
    /// By when the head of a plain HTTP answer must be here, whatever the attempts.
    head_deadline: Option<Deadline>,
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
            target: None,
            tried: SmallVec::new(),
            hedges: 0,
            bearings: Bearings::default(),
            token: None,
            waited: Duration::ZERO,
            head_timer: None,
            timed_out: false,
            declined: false,
            refusal: None,
            status: None,
            http_status: None,
            counted: Some(gateway.enter()),
            permit: None,
        }
    }

    pub fn route(&self) -> Option<&Route> {
        self.routed.as_ref().map(Routed::route)
    }

    /// The one of several targets that was chosen.
    pub fn target(&self) -> Option<&Target> {
        let targets = self.route()?.targets.as_ref()?;
        Some(targets.at(self.target?))
    }

    /// Where the request goes, as far as that is known.
    pub fn cluster(&self) -> Option<&Arc<Cluster>> {
        match self.target() {
            Some(target) => Some(&target.cluster),
            None => self.route().map(|route| &route.cluster),
        }
    }

    /// Attempts that were made one after the other.
    pub fn attempts(&self) -> usize {
        self.tried.len() - self.hedges
    }

    /// From here on it goes to another cluster.
    pub fn start_over(&mut self) {
        self.tried.clear();
        self.hedges = 0;
    }

    /// Ends the current attempt without a verdict on the endpoint.
    pub fn give_up_attempt(&mut self) {
        self.head_timer = None;
        self.lease = None;
        self.attempt = None;
    }

    /// Ends the current attempt, if there is one.
    pub fn end_attempt(&mut self, outcome: Outcome, described: Result<u16, &str>) {
        self.head_timer = None;
        if let Some(lease) = self.lease.take() {
            lease.finish(outcome, Instant::now());
        }
        if let Some(span) = self.attempt.take() {
            span.end(described);
        }
    }
}

impl Routed {
    pub fn new(
        snapshot: Arc<Snapshot>,
        index: usize,
        started: Instant,
        client: Option<Duration>,
        is_grpc: bool,
    ) -> Self {
        let route = &snapshot.routes[index];
        // Ending the wait ends the connection, which HTTP/2 requests share.
        let alone = route.cluster.config.protocol == Protocol::Http && !is_grpc;
        let timeout = route.config.timeout;
        let stream = client.map(|own| Deadline::from(started, Duration::MAX, Some(own)));
        Self {
            head_deadline: alone.then(|| Deadline::from(started, timeout, None)),
            stream_deadline: stream.filter(|_| is_grpc),
            snapshot,
            index,
        }
    }

    pub fn route(&self) -> &Route {
        &self.snapshot.routes[self.index]
    }

    /// By when the answer must have begun, of a gRPC stream when it must be over.
    pub fn deadline(&self) -> Deadline {
        self.head_deadline
            .or(self.stream_deadline)
            .unwrap_or(Deadline::NEVER)
    }

    /// How long this attempt may wait for the head of a plain HTTP answer. None: not bounded.
    pub fn head_time(&self, now: Instant) -> Option<Duration> {
        let per_try = self.route().config.retry.per_try_timeout;
        let deadline = self.head_deadline?;
        Some(deadline.attempt_timeout(now, per_try).unwrap_or_default())
    }

    /// No time is left for another attempt.
    pub fn is_late(&self, now: Instant) -> bool {
        let over = |deadline: Deadline| deadline.remaining(now).is_none();
        self.head_deadline.is_some_and(over) || self.stream_deadline.is_some_and(over)
    }
}
