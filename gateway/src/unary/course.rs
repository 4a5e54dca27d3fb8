//! The course of a call on its route: from a whole request to an answer, over as many clusters as that takes.
//!
//! A side of a split without a healthy endpoint leaves the call to the next one. The fallback comes in when no endpoint
//! could answer, by the endpoints' fault: its cluster first, where the call may be repeated, then its static answer.
//! A request of many rows goes that way in parts. What was answered may be copied to the route's shadow.

use std::pin::pin;
use std::time::Instant;

use forebay_proto::status::Code;

use super::attempts::{self, Answered, Call, Unanswered};
use super::{cached, scatter};
use crate::gateway::Route;
use crate::refusal::Refusal;
use crate::targets::Targets;
use crate::telemetry::trace::RequestTrace;
use crate::traffic::retry::{Failure, Outcome};
use crate::traffic::split::Order;

type Outcomes = Result<Answered, Unanswered>;

/// Runs the call to its end. Errors are the gateway's own; a worker's error status is an answer.
pub async fn run(route: &Route, call: Call, trace: &RequestTrace) -> Result<Answered, Refusal> {
    match &route.cache {
        None => pin!(direct(route, call, trace)).await,
        // On the heap here and below, so that the calls of other routes do not carry its room.
        Some(cache) => Box::pin(cached::run(cache, route, call, trace)).await,
    }
}

/// Past the cache.
pub(super) async fn direct(
    route: &Route,
    mut call: Call,
    trace: &RequestTrace,
) -> Result<Answered, Refusal> {
    let targets = route.targets.as_ref();
    let order = targets.map(|targets| targets.order(&call.headers, call.source));
    let result = match route.config.max_rows {
        None => pin!(reach(route, &call, trace, order)).await,
        Some(most) => Box::pin(scatter::run(route, &mut call, trace, order, most as usize)).await,
    };
    if let (Some(shadow), Ok(answered)) = (&route.shadow, &result) {
        shadow.follow(&call, answered, fastrand::f64());
    }
    result
}

/// `order`: of the route's targets, if it has several.
pub(super) async fn reach(
    route: &Route,
    call: &Call,
    trace: &RequestTrace,
    order: Option<Order>,
) -> Result<Answered, Refusal> {
    let (Some(targets), Some(order)) = (&route.targets, order) else {
        let outcome = pin!(attempts::run(route, &route.cluster, call, trace)).await;
        return outcome.map_err(|unanswered| unanswered.refusal);
    };
    let over = Over {
        route,
        targets,
        call,
        trace,
    };
    Box::pin(over.run(order)).await
}

/// A call on a route with several targets.
struct Over<'a> {
    route: &'a Route,
    targets: &'a Targets,
    call: &'a Call,
    trace: &'a RequestTrace,
}

impl Over<'_> {
    async fn run(&self, order: Order) -> Result<Answered, Refusal> {
        let mut order = order.into_iter();
        let mut position = order.next().unwrap_or_default();
        let mut outcome = self.ask(position).await;
        for next in order {
            if !is_down(&outcome) {
                break;
            }
            position = next;
            outcome = self.ask(next).await;
        }
        if self.may_be_taken_over(&outcome)
            && let Some(spare) = self.targets.fallback(position)
            && self.call.deadline.remaining(Instant::now()).is_some()
        {
            let taken_over = self.ask(spare).await;
            // A fallback that is down itself has nothing to say.
            if !is_down(&taken_over) {
                self.targets.fallbacks.to_cluster();
                outcome = taken_over;
            }
        }
        match &self.targets.answer {
            Some(answer) if is_outage(&outcome) => {
                self.targets.fallbacks.to_answer();
                Err(Refusal::Degraded(answer.clone()))
            }
            _ => outcome.map_err(|unanswered| unanswered.refusal),
        }
    }

    async fn ask(&self, position: usize) -> Outcomes {
        let started = Instant::now();
        let target = self.targets.at(position);
        let outcome = attempts::run(self.route, &target.cluster, self.call, self.trace).await;
        if !is_down(&outcome) {
            target.metrics.record(code(&outcome), started.elapsed());
        }
        outcome
    }

    /// No endpoint could answer, and another cluster may be asked instead.
    fn may_be_taken_over(&self, outcome: &Outcomes) -> bool {
        let idempotent = self.route.config.retry.idempotent;
        let repeatable = |failure: Failure| failure.is_retryable(idempotent);
        is_outage(outcome) && failure(outcome).is_none_or(repeatable)
    }
}

/// No endpoint could be asked.
fn is_down(outcome: &Outcomes) -> bool {
    let unanswered = outcome.as_ref().err();
    unanswered.is_some_and(|unanswered| unanswered.refusal.is_down())
}

/// No endpoint could answer, by their fault.
fn is_outage(outcome: &Outcomes) -> bool {
    let blamed = |failure: Failure| failure.outcome() == Outcome::Failure;
    is_down(outcome) || failure(outcome).is_some_and(blamed)
}

fn failure(outcome: &Outcomes) -> Option<Failure> {
    match outcome {
        Ok(answered) => answered.failure,
        Err(unanswered) => unanswered.failure,
    }
}

fn code(outcome: &Outcomes) -> Code {
    match outcome {
        Ok(answered) => Code::from_i32(i32::from(answered.status)),
        Err(unanswered) => unanswered.refusal.code(),
    }
}
