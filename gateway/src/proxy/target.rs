//! Which of its route's clusters a streamed request goes to, attempt by attempt.

use std::time::{Duration, Instant};

use pingora::proxy::Session;

use super::turn;
use crate::context::{Context, Routed};
use crate::fleet::{Ask, Cluster, Lease, NoLease, Unserved};
use crate::refusal::Refusal;
use crate::traffic::retry::{Failure, Outcome};

/// The endpoint of the next attempt, waited for where that has to be. The first attempt settles the target; when the
/// target has no endpoint left, the fallback takes over.
///
/// # Errors
/// There is none; what the target that was preferred said of it.
pub async fn lease(
    session: &mut Session,
    ctx: &mut Context,
    now: Instant,
) -> Result<Lease, Refusal> {
    let Some(routed) = &ctx.routed else {
        return Err(Refusal::BadRequest("it has no route".to_owned()));
    };
    let route = routed.route();
    let ask = Ask::new(&ctx.tried, now).with_key(ctx.key);
    let Some(targets) = &route.targets else {
        let (lease, waited) = take(&route.cluster, session, routed, &ask).await?;
        ctx.waited = waited;
        return Ok(lease);
    };
    let order = match ctx.target {
        Some(settled) => std::iter::once(settled).collect(),
        None => {
            let source = targets.source(&session.downstream_session);
            targets.order(&session.req_header().headers, source)
        }
    };
    let mut position = order.first().copied().unwrap_or_default();
    let mut taken = take(&targets.at(position).cluster, session, routed, &ask).await;
    for other in order.into_iter().skip(1) {
        if !is_down(&taken) {
            break;
        }
        let asked = take(&targets.at(other).cluster, session, routed, &ask).await;
        if !is_down(&asked) {
            (position, taken) = (other, asked);
        }
    }
    // Settled by `fall_back`, or here.
    let mut fell_back = ctx.target.is_some() && ctx.tried.is_empty();
    if is_down(&taken)
        && let Some(spare) = targets.fallback(position)
    {
        let untried = Ask { tried: &[], ..ask };
        let asked = take(&targets.at(spare).cluster, session, routed, &untried).await;
        if !is_down(&asked) {
            (position, taken, fell_back) = (spare, asked, true);
            ctx.tried.clear();
        }
    }
    ctx.target = Some(position);
    let (lease, waited) = taken?;
    if fell_back {
        targets.fallbacks.to_cluster();
    }
    ctx.waited = waited;
    Ok(lease)
}

type Taken = Result<(Lease, Duration), Refusal>;

/// An endpoint of this cluster, and how long it was waited for.
async fn take(cluster: &Cluster, session: &mut Session, routed: &Routed, ask: &Ask<'_>) -> Taken {
    match cluster.lease(ask) {
        Ok(lease) => Ok((lease, Duration::ZERO)),
        Err(NoLease::NoEndpoint) => Err(Refusal::unserved(cluster, Unserved::NoEndpoint)),
        Err(NoLease::Busy(room)) => turn::wait((room, cluster), session, routed, ask).await,
    }
}

fn is_down(taken: &Taken) -> bool {
    matches!(taken, Err(Refusal::NoHealthyEndpoint(_)))
}

/// After an attempt that is not retried where it was: whether the fallback gets one. `repeatable`: the request can be
/// sent again.
pub fn fall_back(ctx: &mut Context, failure: Failure, repeatable: bool, now: Instant) -> bool {
    let Some(routed) = &ctx.routed else {
        return false;
    };
    let targets = routed.route().targets.as_ref();
    let spare = targets.and_then(|targets| targets.fallback(ctx.target?));
    if spare.is_none()
        || !repeatable
        || failure.outcome() != Outcome::Failure
        || routed.is_late(now)
    {
        return false;
    }
    ctx.target = spare;
    ctx.tried.clear();
    true
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
