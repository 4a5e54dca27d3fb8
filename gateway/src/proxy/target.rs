//! Which of its route's clusters a streamed request goes to, attempt by attempt.

use std::time::Instant;

use pingora::proxy::Session;

use crate::context::Context;
use crate::fleet::{Ask, Lease};
use crate::refusal::Refusal;
use crate::traffic::retry::{Failure, Outcome};

/// The endpoint of the next attempt. The first attempt settles the target; when the target has no endpoint left, the
/// fallback takes over.
pub fn lease(session: &Session, ctx: &mut Context, now: Instant) -> Option<Lease> {
    let route = ctx.routed.as_ref()?.route();
    let Some(targets) = &route.targets else {
        return route.cluster.lease(&Ask::new(&ctx.tried, now)).ok();
    };
    let lease_of = |position: usize, tried: &[usize]| {
        let cluster = &targets.at(position).cluster;
        cluster.lease(&Ask::new(tried, now)).ok()
    };
    let mut leased = None;
    let position = match ctx.target {
        Some(settled) => {
            leased = lease_of(settled, &ctx.tried);
            if leased.is_some() && ctx.tried.is_empty() {
                // It was settled by `fall_back`.
                targets.fallbacks.to_cluster();
            }
            settled
        }
        None => {
            let source = targets.source(&session.downstream_session);
            let order = targets.order(&session.req_header().headers, source);
            let first_up = order.iter().find(|position| {
                leased = lease_of(**position, &[]);
                leased.is_some()
            });
            first_up.or(order.first()).copied().unwrap_or_default()
        }
    };
    ctx.target = Some(position);
    if leased.is_none()
        && let Some(spare) = targets.fallback(position)
    {
        leased = lease_of(spare, &[]);
        if leased.is_some() {
            targets.fallbacks.to_cluster();
            ctx.target = Some(spare);
            ctx.tried.clear();
        }
    }
    leased
}

/// After an attempt that is not retried where it was: whether the fallback gets one. `repeatable`: the request can be
/// sent again, and there is time to.
pub fn fall_back(ctx: &mut Context, failure: Failure, repeatable: bool) -> bool {
    let Some(targets) = ctx.route().and_then(|route| route.targets.as_ref()) else {
        return false;
    };
    let spare = ctx.target.and_then(|failed| targets.fallback(failed));
    if !repeatable || failure.outcome() != Outcome::Failure || !failure.is_retryable(true) {
        return false;
    }
    if spare.is_some() {
        ctx.target = spare;
        ctx.tried.clear();
    }
    spare.is_some()
}

/// What the client is told instead, by the route's static answer, of an outage.
pub fn degraded(ctx: &Context, refusal: Refusal) -> Refusal {
    let targets = ctx.route().and_then(|route| route.targets.as_ref());
    let Some((targets, answer)) =
        targets.and_then(|targets| Some((targets, targets.answer.as_ref()?)))
    else {
        return refusal;
    };
    match refusal {
        // What bounds a gRPC stream is its client's own deadline.
        Refusal::TimedOut { .. } if ctx.is_grpc => refusal,
        Refusal::NoHealthyEndpoint(_) | Refusal::Upstream { .. } | Refusal::TimedOut { .. } => {
            targets.fallbacks.to_answer();
            Refusal::Degraded(answer.clone())
        }
        other => other,
    }
}
