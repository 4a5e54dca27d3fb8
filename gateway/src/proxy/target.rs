//! Which of its route's clusters a streamed request goes to, attempt by attempt.

use std::sync::Arc;
use std::time::Instant;

use pingora::proxy::Session;

use super::turn;
use crate::context::Context;
use crate::fleet::{Ask, Bearings, Cluster, Lease, NoLease, Unserved};
use crate::gateway::Route;
use crate::refusal::Refusal;
use crate::traffic::retry::{Failure, Outcome};
use crate::traffic::split::Order;

/// The endpoint of the next attempt. The first attempt settles the target; when the target has no endpoint left, the
/// fallback takes over. A target whose endpoints merely have no room is waited for.
pub async fn lease(
    session: &mut Session,
    ctx: &mut Context,
    now: Instant,
) -> Result<Lease, Refusal> {
    let no_route = || Refusal::BadRequest("the request has no route".into());
    let route = ctx.routed.as_ref().ok_or_else(no_route)?.route();
    let Some(targets) = &route.targets else {
        return lease_of(None, session, ctx, now).await;
    };
    let (order, spare) = match ctx.target {
        Some(settled) => (Order::from_elem(settled, 1), targets.fallback(settled)),
        None => {
            let source = targets.source(&session.downstream_session);
            let order = targets.order(&session.req_header().headers, source);
            let spare = order.first().and_then(|first| targets.fallback(*first));
            (order, spare)
        }
    };
    // Settled before anything was tried: by `fall_back`.
    let taken_over = ctx.target.is_some() && ctx.tried.is_empty();
    let mut none_left = no_route();
    for position in &order {
        match lease_of(Some(*position), session, ctx, now).await {
            Err(refusal) if refusal.is_down() => none_left = refusal,
            outcome => {
                ctx.target = Some(*position);
                if taken_over && outcome.is_ok() {
                    count_takeover(ctx);
                }
                return outcome;
            }
        }
    }
    ctx.target = order.first().copied();
    let Some(spare) = spare else {
        return Err(none_left);
    };
    ctx.start_over();
    let lease = lease_of(Some(spare), session, ctx, now).await?;
    ctx.target = Some(spare);
    count_takeover(ctx);
    Ok(lease)
}

fn count_takeover(ctx: &Context) {
    if let Some(targets) = ctx.route().and_then(|route| route.targets.as_ref()) {
        targets.fallbacks.to_cluster();
    }
}

/// `position`: of one of several targets, whose endpoints were asked only if it is the settled one.
async fn lease_of(
    position: Option<usize>,
    session: &mut Session,
    ctx: &mut Context,
    now: Instant,
) -> Result<Lease, Refusal> {
    let no_route = || Refusal::BadRequest("the request has no route".into());
    let routed = ctx.routed.as_ref().ok_or_else(no_route)?;
    let route = routed.route();
    let target = position.and_then(|position| Some(route.targets.as_ref()?.at(position)));
    let cluster = target.map_or(&route.cluster, |target| &target.cluster);
    let tried = match position == ctx.target {
        true => &ctx.tried[..],
        false => &[],
    };
    let bearings = bearings(session, ctx, route, cluster);
    let ask = Ask::new(tried, now).with(bearings);
    match cluster.lease(&ask) {
        Ok(lease) => Ok(lease),
        Err(NoLease::NoEndpoint) => Err(Refusal::unserved(cluster, Unserved::nobody(bearings))),
        Err(NoLease::Busy(room)) => {
            let (lease, waited) = turn::wait(room, session, (routed, cluster), &ask).await?;
            ctx.waited = waited;
            Ok(lease)
        }
    }
}

/// An endpoint beside the one that is asked, of the same cluster; None: there is no other, or it has no room.
pub fn lease_other(session: &Session, ctx: &Context, now: Instant) -> Option<Lease> {
    let (route, cluster) = (ctx.route()?, ctx.cluster()?);
    let bearings = bearings(session, ctx, route, cluster);
    cluster.lease_other(&Ask::new(&ctx.tried, now).with(bearings))
}

/// They were taken for the route's first cluster.
fn bearings(session: &Session, ctx: &Context, route: &Route, cluster: &Arc<Cluster>) -> Bearings {
    let wish = route.wish_at(cluster, route.wish(&session.req_header().headers));
    if Arc::ptr_eq(&route.cluster, cluster) {
        return Bearings {
            wish,
            ..ctx.bearings
        };
    }
    let same_key = route.cluster.config.affinity == cluster.config.affinity;
    Bearings {
        key: ctx.bearings.key.filter(|_| same_key),
        wish,
        ..ctx.bearings
    }
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
    ctx.start_over();
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
        Refusal::NoHealthyEndpoint(_)
        | Refusal::NobodyInSubset(_)
        | Refusal::Upstream { .. }
        | Refusal::TimedOut { .. } => {
            targets.fallbacks.to_answer();
            Refusal::Degraded(answer.clone())
        }
        other => other,
    }
}
