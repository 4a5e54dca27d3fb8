//! The attempts of one call: lease an endpoint, exchange, and decide from the outcome whether to go again.
//!
//! One deadline bounds all attempts. A retry goes to an endpoint that was not tried while there is one, waits
//! a jittered backoff, and needs leave from the route's retry budget. A full queue is passed on unless one other endpoint
//! has room: from then on no endpoint is asked twice, and a second full one ends the call. Each attempt may have a second one beside it,
//! see `hedge`.

use std::net::IpAddr;
use std::pin::pin;
use std::time::{Duration, Instant};

use forebay_proto::status::Code;
use http::header::{HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, StatusCode, Uri, Version};
use opentelemetry::KeyValue;
use smallvec::SmallVec;

use super::answerer::Answerer;
use super::tail::Tail;
use super::{affinity, headers, hedge, rows};
use crate::fleet::{Ask, Bearings, Caller, Cluster, Endpoint, Lease, NoLease, Unserved};
use crate::gateway::Route;
use crate::memory::Held;
use crate::protocol::server_timing;
use crate::refusal::Refusal;
use crate::telemetry::trace::RequestTrace;
use crate::traffic::deadline::Deadline;
use crate::traffic::retry::{Failure, Outcome, Stage};
use crate::traffic::subset::Wish;
use crate::upstream::{Answer, Message, exchange};

/// A call, ready to be sent as often as it takes.
pub struct Call {
    pub path: PathAndQuery,
    pub headers: HeaderMap,
    pub body: Message,
    pub deadline: Deadline,
    /// What the client itself allows.
    pub client_timeout: Option<Duration>,
    /// Answers up to this many bytes are held back until they are complete.
    pub hold_back: usize,
    /// What the request itself takes.
    pub held: Held,
    /// The client's address, where some cluster or split goes by it.
    pub source: Option<IpAddr>,
    /// Which endpoints of the route's own clusters may take it.
    pub wish: Wish,
}

impl Call {
    /// All attempts together may take this long.
    fn allowed(&self, route: &Route) -> Duration {
        self.client_timeout
            .map_or(route.config.timeout, |own| own.min(route.config.timeout))
    }

    /// The client's own deadline is what bounds the call: missing it is not held against the endpoint.
    fn is_impatient(&self, route: &Route) -> bool {
        self.client_timeout
            .is_some_and(|own| own < route.config.timeout)
    }
}

pub struct Answered {
    pub answer: Answer,
    pub status: u16,
    pub endpoint: Answerer,
    /// What the endpoint's error was taken for, when no further attempt was made.
    pub failure: Option<Failure>,
    /// With an answer that was too large to be held back: what its rest still needs.
    pub tail: Option<Tail>,
}

/// No endpoint answered.
pub struct Unanswered {
    pub refusal: Refusal,
    /// What the last attempt came to; None: none was made, or the client's own deadline ended it.
    pub failure: Option<Failure>,
}

impl From<Refusal> for Unanswered {
    fn from(refusal: Refusal) -> Self {
        Self {
            refusal,
            failure: None,
        }
    }
}

/// Endpoints that were asked, by their place in the cluster.
pub(super) type Tried = SmallVec<[usize; 4]>;

/// What one attempt came to, when it did not succeed.
pub(super) struct Failed {
    failure: Failure,
    /// The worker's own error answer: passed on when there is no further attempt.
    answer: Option<Answered>,
    /// The deadline of the whole call has passed.
    out_of_time: bool,
}

/// Runs the call to its end. Errors are the gateway's own; a worker's error status is an answer.
pub async fn run(
    route: &Route,
    cluster: &Cluster,
    call: &Call,
    trace: &RequestTrace,
) -> Result<Answered, Unanswered> {
    let retry = &route.config.retry;
    let bearings = Bearings {
        rows: rows::of(cluster, call),
        wish: route.wish_at(cluster, call.wish),
        ..affinity::bearings(cluster, call)
    };
    let mut tried = Tried::new();
    let mut last: Option<Failed> = None;
    let mut token = None;
    let mut full = false;
    for number in 1..=retry.attempts {
        let mut now = Instant::now();
        let ask = Ask::new(&tried, now).with(bearings);
        let mut waited = Duration::ZERO;
        let leased = match full {
            true => cluster.lease_other(&ask).ok_or(Unserved::nobody(bearings)),
            false => match cluster.lease(&ask) {
                Ok(lease) => Ok(lease),
                Err(NoLease::NoEndpoint) => Err(Unserved::nobody(bearings)),
                Err(NoLease::Busy(room)) => {
                    let caller = Caller {
                        headers: &call.headers,
                        route: &route.config.name,
                        deadline: call.deadline,
                        tried: &tried,
                        bearings,
                    };
                    // On the heap, as few calls wait and all would carry its room.
                    let turn = match room.join(&caller, now) {
                        Ok(waiting) => Box::pin(waiting.turn()).await,
                        Err(unserved) => Err(unserved),
                    };
                    now = Instant::now();
                    turn.map(|(lease, time)| {
                        waited = time;
                        lease
                    })
                }
            },
        };
        let time = call.deadline.attempt_timeout(now, retry.per_try_timeout);
        let (time, lease) = match (time, leased, last) {
            (Some(time), Ok(lease), _) => (time, lease),
            (_, _, Some(failed)) => return failed.into_result(route, cluster, call),
            (None, ..) | (_, Err(Unserved::Expired), _) => {
                return Err(timed_out(route, cluster, call));
            }
            (_, Err(unserved), _) => return Err(Refusal::unserved(cluster, unserved).into()),
        };
        let attempt = Attempt {
            route,
            cluster,
            call,
            trace,
            lease,
            started: now,
            time,
            number,
            waited,
            bearings,
        };
        let failed = match pin!(hedge::run(attempt, &mut tried)).await {
            Ok(answered) => {
                route.budget.succeeded(now);
                learn(route, &answered, now);
                return Ok(answered);
            }
            Err(failed) => failed,
        };
        if let (Some(concurrency), Failure::Full | Failure::TimedOut) =
            (&route.concurrency, failed.failure)
        {
            concurrency.overloaded(Instant::now());
        }
        let still_full = full && failed.failure == Failure::Full;
        full |= failed.failure == Failure::Full;
        if number == retry.attempts
            || failed.out_of_time
            || still_full
            || (full && tried.len() >= cluster.size())
            || !failed.failure.is_retryable(retry.idempotent)
        {
            return failed.into_result(route, cluster, call);
        }
        // The token of the attempt before goes back before another one is asked for.
        drop(token.take());
        token = route.budget.try_acquire(cluster.active(), Instant::now());
        if token.is_none() || !back_off(route, call, number).await {
            return failed.into_result(route, cluster, call);
        }
        route.metrics.retried();
        last = Some(failed);
    }
    Err(timed_out(route, cluster, call))
}

/// One attempt, about to be made.
pub(super) struct Attempt<'a> {
    pub(super) route: &'a Route,
    pub(super) cluster: &'a Cluster,
    pub(super) call: &'a Call,
    pub(super) trace: &'a RequestTrace,
    pub(super) lease: Lease,
    pub(super) started: Instant,
    /// What it may take.
    pub(super) time: Duration,
    /// From 1.
    pub(super) number: u32,
    /// For its endpoint.
    pub(super) waited: Duration,
    pub(super) bearings: Bearings,
}

impl Attempt<'_> {
    pub(super) async fn run(self) -> Result<Answered, Failed> {
        let mut request_headers = self.call.headers.clone();
        headers::set_timeout(&mut request_headers, self.time);
        let span = self
            .trace
            .attempt(&mut request_headers, || self.attributes());
        let Self {
            route,
            cluster,
            call,
            lease,
            started,
            time,
            ..
        } = self;
        let endpoint = lease.endpoint().clone();
        let request = request(&call.path, request_headers, &endpoint);
        let body = call.body.clone();
        let exchanging = exchange(
            &endpoint.channels,
            request,
            body,
            call.hold_back,
            call.held.another(),
        );
        let result = pin!(pingora::time::timeout(time, exchanging)).await;
        let now = Instant::now();
        let (failure, answer) = match result {
            Ok(Ok(answer)) => {
                if cluster.heeds_reports()
                    && let Some(report) = metadata(&answer, &headers::LOAD)
                {
                    endpoint.reported(report.as_bytes(), now);
                }
                let status = status_of(&answer);
                let mut answered = Answered {
                    answer,
                    status,
                    endpoint: Answerer::Endpoint(endpoint.clone()),
                    failure: None,
                    tail: None,
                };
                let failure = failure_of(&answered.answer, status);
                match failure.map(|failure| (failure, failure.outcome())) {
                    // An answer that is not gRPC at all is never passed on, whoever is to blame.
                    Some((failure, Outcome::Failure))
                    | Some((failure @ (Failure::HttpStatus(_) | Failure::Full), _)) => {
                        (failure, Some(answered))
                    }
                    _ if answered.answer.rest.is_some() => {
                        answered.tail = Some(Tail {
                            lease,
                            span,
                            deadline: call.deadline,
                        });
                        return Ok(answered);
                    }
                    outcome => {
                        lease.finish(
                            outcome.map_or(Outcome::Success, |(_, outcome)| outcome),
                            now,
                        );
                        if let Some(span) = span {
                            span.end(Ok(status));
                        }
                        return Ok(answered);
                    }
                }
            }
            Ok(Err(failure)) => (failure, None),
            Err(_) => {
                if endpoint.silent_since(started) {
                    // Nothing at all came back: the connection itself may be dead.
                    endpoint.channels.renew();
                }
                (Failure::TimedOut, None)
            }
        };
        let out_of_time =
            matches!(failure, Failure::TimedOut) && call.deadline.remaining(now).is_none();
        if matches!(failure, Failure::Stale) || (out_of_time && call.is_impatient(route)) {
            // Neither an idle connection's end nor the client's own deadline says anything about the endpoint:
            // the lease ends as cancelled.
            drop(lease);
        } else {
            lease.finish(failure.outcome(), now);
        }
        if let Some(span) = span {
            span.end(Err(failure.describe()));
        }
        Err(Failed {
            failure,
            answer,
            out_of_time,
        })
    }

    fn attributes(&self) -> Vec<KeyValue> {
        let mut attributes = vec![
            KeyValue::new(
                "server.address",
                self.lease.endpoint().blueprint.address.clone(),
            ),
            KeyValue::new("forebay.cluster", self.cluster.config.name.clone()),
            KeyValue::new("forebay.policy", self.cluster.config.policy.name()),
            KeyValue::new("forebay.retry", i64::from(self.number) - 1),
        ];
        if !self.waited.is_zero() {
            let waited = self.waited.as_secs_f64();
            attributes.push(KeyValue::new("forebay.queue.seconds", waited));
        }
        attributes
    }
}

impl Failed {
    pub(super) fn out_of_time(&self) -> bool {
        self.out_of_time
    }

    /// What the client gets when this was the last attempt.
    fn into_result(
        self,
        route: &Route,
        cluster: &Cluster,
        call: &Call,
    ) -> Result<Answered, Unanswered> {
        let name = || cluster.config.name.clone();
        let failure = self.failure;
        let refusal = match (self.answer, failure) {
            (Some(answered), Failure::HttpStatus(502..=504)) => Refusal::Upstream {
                cluster: name(),
                failure: match answered.answer.head.status.as_u16() {
                    502 => "it answered with http status 502",
                    503 => "it answered with http status 503",
                    _ => "it answered with http status 504",
                },
            },
            (Some(answered), Failure::HttpStatus(_)) => {
                let status = answered.answer.head.status;
                Refusal::BadAnswer {
                    cluster: name(),
                    reason: format!("http status {status}"),
                }
            }
            (Some(answered), _) => {
                return Ok(Answered {
                    failure: Some(failure),
                    ..answered
                });
            }
            (None, Failure::TimedOut) if self.out_of_time => {
                return Err(timed_out(route, cluster, call));
            }
            (None, Failure::TimedOut) => timed_out(route, cluster, call).refusal,
            (None, failure) => Refusal::Upstream {
                cluster: name(),
                failure: failure.describe(),
            },
        };
        Err(Unanswered {
            refusal,
            failure: Some(failure),
        })
    }
}

/// What the answer to an attempt that began `then` says about how much the route can take.
fn learn(route: &Route, answered: &Answered, then: Instant) {
    let Some(concurrency) = &route.concurrency else {
        return;
    };
    if answered.status == 0 && answered.tail.is_none() {
        let now = Instant::now();
        let trailers = answered.answer.trailers.as_ref();
        let timing = trailers.and_then(server_timing::timing);
        concurrency.answered(now.saturating_duration_since(then), timing, now);
    }
}

pub(super) fn timed_out(route: &Route, cluster: &Cluster, call: &Call) -> Unanswered {
    let refusal = Refusal::TimedOut {
        cluster: cluster.config.name.clone(),
        timeout: call.allowed(route),
    };
    Unanswered {
        refusal,
        failure: (!call.is_impatient(route)).then_some(Failure::TimedOut),
    }
}

/// Waits before the retry; false when the deadline would pass meanwhile.
async fn back_off(route: &Route, call: &Call, number: u32) -> bool {
    let delay = route.backoff.delay(number, fastrand::u64(..));
    match call.deadline.remaining(Instant::now()) {
        Some(left) if left > delay => {
            tokio::time::sleep(delay).await;
            true
        }
        _ => false,
    }
}

pub(super) fn request(
    path: &PathAndQuery,
    request_headers: HeaderMap,
    endpoint: &Endpoint,
) -> Request<()> {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(endpoint.scheme.clone());
    parts.authority = Some(endpoint.blueprint.authority.clone());
    parts.path_and_query = Some(path.clone());
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = Uri::from_parts(parts).expect("scheme, authority and path are all there");
    *request.headers_mut() = request_headers;
    request
}

/// `grpc-status` from the trailers, or from the head of an answer without messages. An answer too large to be
/// held back has its status still to come and counts as well so far.
pub(super) fn status_of(answer: &Answer) -> u16 {
    if answer.rest.is_some() {
        return 0;
    }
    let in_trailers = answer.trailers.as_ref().and_then(grpc_status);
    in_trailers
        .or_else(|| grpc_status(&answer.head.headers))
        .unwrap_or(Code::Unknown as u16)
}

pub fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// The failure that an answer with this `grpc-status` tells of, if it tells of one.
pub(super) fn failure_of(answer: &Answer, status: u16) -> Option<Failure> {
    let http = answer.head.status;
    if http != StatusCode::OK {
        return Some(Failure::HttpStatus(http.as_u16()));
    }
    let status = u8::try_from(status).unwrap_or(u8::MAX);
    (status != 0).then(|| Failure::answered(status, stage_of(answer)))
}

fn stage_of(answer: &Answer) -> Option<Stage> {
    Stage::parse(metadata(answer, &headers::STAGE)?.as_bytes())
}

/// From the trailers, or from the head of an answer without messages.
fn metadata<'a>(answer: &'a Answer, name: &HeaderName) -> Option<&'a HeaderValue> {
    let in_trailers = answer.trailers.as_ref().and_then(|t| t.get(name));
    in_trailers.or_else(|| answer.head.headers.get(name))
}
