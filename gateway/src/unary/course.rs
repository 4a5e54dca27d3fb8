//! The course of a call on its route: from a whole request to an answer.

use std::pin::pin;

use super::attempts::{self, Answered, Call};
use super::cached;
use crate::gateway::Route;
use crate::refusal::Refusal;
use crate::telemetry::trace::RequestTrace;

/// Runs the call to its end. Errors are the gateway's own; a worker's error status is an answer.
pub async fn run(route: &Route, call: Call, trace: &RequestTrace) -> Result<Answered, Refusal> {
    match &route.cache {
        None => pin!(direct(route, call, trace)).await,
        // Boxed, so that its size is not carried by calls on routes without a cache.
        Some(cache) => Box::pin(cached::run(cache, route, call, trace)).await,
    }
}

/// Past the cache.
pub(super) async fn direct(
    route: &Route,
    call: Call,
    trace: &RequestTrace,
) -> Result<Answered, Refusal> {
    pin!(attempts::run(route, &route.cluster, &call, trace)).await
}
