//! The course of a call on its route: from a whole request to an answer, over as many clusters as that takes.
//!
//! A side of a split without a healthy endpoint leaves the call to the next one. The fallback comes in when no endpoint
//! could answer, by the endpoints' fault: its cluster first, where the call may be repeated, then its static answer.

use std::pin::pin;
use std::time::Instant;

use forebay_proto::status::Code;

use super::attempts::{self, Answered, Call, Unanswered};
use crate::gateway::Route;
use crate::refusal::Refusal;
use crate::targets::Targets;
use crate::telemetry::trace::RequestTrace;
use crate::traffic::retry::{Failure, Outcome};

type Outcomes = Result<Answered, Unanswered>;

/// Runs the call to its end. Errors are the gateway's own; a worker's error status is an answer.
pub async fn run(route: &Route, call: Call, trace: &RequestTrace) -> Result<Answered, Refusal> {
    let Some(targets) = &route.targets else {
        let outcome = pin!(attempts::run(route, &route.cluster, &call, trace)).await;
        return outcome.map_err(|unanswered| unanswered.refusal);
    };
    // On the heap, so that the calls of other routes do not carry its room.
    Box::pin(over(route, targets, &call, trace)).await
}

async fn over(
    route: &Route,
    targets: &Targets,
    call: &Call,
    trace: &RequestTrace,
) -> Result<Answered, Refusal> {
    let ask = async |position: usize| {
        let started = Instant::now();
        let target = targets.at(position);
        let outcome = attempts::run(route, &target.cluster, call, trace).await;
        if !is_down(&outcome) {
            target.metrics.record(code(&outcome), started.elapsed());
        }
        outcome
    };
    let mut order = targets.order(&call.headers, call.source).into_iter();
    let mut position = order.next().unwrap_or_default();
    let mut outcome = ask(position).await;
    for next in order {
        if !is_down(&outcome) {
            break;
        }
        position = next;
        outcome = ask(next).await;
    }
    if may_be_taken_over(route, &outcome)
        && let Some(spare) = targets.fallback(position)
        && call.deadline.remaining(Instant::now()).is_some()
    {
        let taken_over = ask(spare).await;
        // A fallback that is down itself has nothing to say.
        if !is_down(&taken_over) {
            targets.fallbacks.to_cluster();
            outcome = taken_over;
        }
    }
    match &targets.answer {
        Some(answer) if is_outage(&outcome) => {
            targets.fallbacks.to_answer();
            Err(Refusal::Degraded(answer.clone()))
        }
        _ => outcome.map_err(|unanswered| unanswered.refusal),
    }
}

/// No endpoint could be asked.
fn is_down(outcome: &Outcomes) -> bool {
    let unanswered = outcome.as_ref().err();
    unanswered.is_some_and(|unanswered| matches!(unanswered.refusal, Refusal::NoHealthyEndpoint(_)))
}

/// No endpoint could answer, by their fault.
fn is_outage(outcome: &Outcomes) -> bool {
    let blamed = |failure: Failure| failure.outcome() == Outcome::Failure;
    is_down(outcome) || failure(outcome).is_some_and(blamed)
}

/// The same, and another cluster may be asked instead.
fn may_be_taken_over(route: &Route, outcome: &Outcomes) -> bool {
    let idempotent = route.config.retry.idempotent;
    let repeatable = |failure: Failure| failure.is_retryable(idempotent);
    is_outage(outcome) && failure(outcome).is_none_or(repeatable)
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
