//! A second attempt beside one that takes longer than most, as `unary::hedge` makes it for gRPC: the answer that comes
//! first counts, and the other attempt ends with its connection.

use std::pin::pin;
use std::time::{Duration, Instant};

use pingora::Result;
use pingora::prelude::HttpPeer;
use pingora::proxy::Session;

use super::attempt::{Answer, Attempt, Failed};
use super::{Whole, unless_gone};
use crate::context::Context;
use crate::fleet::Lease;
use crate::proxy::{peer, target};
use crate::telemetry::trace::AttemptSpan;
use crate::traffic::budget::RetryToken;
use crate::traffic::retry::Failure;

/// None: the client is gone.
type Ended = Option<Result<Box<Answer>, Failed>>;

/// What an attempt holds, other than the attempt of which the context says it.
struct Beside {
    lease: Option<Lease>,
    span: Option<AttemptSpan>,
}

impl Beside {
    fn take(ctx: &mut Context) -> Self {
        Self {
            lease: ctx.lease.take(),
            span: ctx.attempt.take(),
        }
    }

    /// From now on the context says this of it.
    fn give(self, ctx: &mut Context) {
        ctx.lease = self.lease;
        ctx.attempt = self.span;
    }
}

/// Runs the attempt that the context has a lease for, hedged if its route says so. Afterwards the lease is that of the
/// attempt whose result this is.
pub async fn run(
    whole: &Whole<'_>,
    session: &mut Session,
    ctx: &mut Context,
    first: Attempt<'_>,
) -> Result<Ended> {
    let started = Instant::now();
    let time = |ctx: &Context| ctx.routed.as_ref()?.head_time(Instant::now());
    let mut first = pin!(first.within(time(ctx)));
    let hedged = ctx
        .route()
        .and_then(|route| Some((route.hedging.clone()?, route.metrics.clone())));
    let Some((hedging, metrics)) = hedged else {
        return Ok(unless_gone(session, first).await);
    };
    let learn = |ended: Ended| {
        if let Some(Ok(_)) = &ended {
            hedging.answered(started, Instant::now());
        }
        Ok(ended)
    };
    let Some(delay) = hedging.delay(started) else {
        return learn(unless_gone(session, first).await);
    };
    match unless_gone(session, tokio::time::timeout(delay, &mut first)).await {
        None => return Ok(None),
        Some(Ok(result)) => return learn(Some(result)),
        Some(Err(_)) => {}
    }
    let now = Instant::now();
    let Some((_token, lease, peer)) = other(session, ctx, now) else {
        return learn(unless_gone(session, first).await);
    };
    let of_first = Beside::take(ctx);
    ctx.tried.push(lease.index);
    ctx.hedges += 1;
    ctx.waited = Duration::ZERO;
    ctx.lease = Some(lease);
    let second = whole.attempt(session, ctx, &peer).await;
    let of_second = Beside::take(ctx);
    of_first.give(ctx);
    // On the heap, as few requests need it and all would carry its room.
    let mut second = Box::pin(second?.within(time(ctx)));
    metrics.hedged();
    let race = async {
        tokio::select! {
            biased;
            result = &mut first => (result, true),
            result = &mut second => (result, false),
        }
    };
    let Some((result, is_first)) = unless_gone(session, race).await else {
        return Ok(None);
    };
    let ended = match (result, is_first) {
        (Err(failed), true) if !is_out_of_time(ctx, &failed) => {
            end(ctx, &failed);
            of_second.give(ctx);
            let ended = unless_gone(session, second).await;
            if let Some(Ok(_)) = &ended {
                metrics.hedge_won();
            }
            ended
        }
        (result, true) => Some(result),
        (Ok(answer), false) => {
            ctx.give_up_attempt();
            of_second.give(ctx);
            metrics.hedge_won();
            Some(Ok(answer))
        }
        (Err(failed), false) => {
            let of_first = Beside::take(ctx);
            of_second.give(ctx);
            end(ctx, &failed);
            of_first.give(ctx);
            unless_gone(session, first).await
        }
    };
    learn(ended)
}

/// Whom to ask beside, with leave of the budget. That is not charged where there is nobody else.
fn other(
    session: &Session,
    ctx: &Context,
    now: Instant,
) -> Option<(RetryToken, Lease, Box<HttpPeer>)> {
    let (route, cluster) = (ctx.route()?, ctx.cluster()?);
    if ctx.tried.len() >= cluster.size() {
        return None;
    }
    let token = route.budget.try_acquire(cluster.active(), now)?;
    let lease = target::lease_other(session, ctx, now)?;
    let peer = peer::peer(cluster, &lease, None);
    Some((token, lease, peer))
}

/// Of an attempt that failed and leaves the field to the other.
fn end(ctx: &mut Context, failed: &Failed) {
    match failed.failure {
        // An idle connection's end is not the endpoint's fault.
        Failure::Stale => ctx.give_up_attempt(),
        failure => ctx.end_attempt(failure.outcome(), Err(failure.describe())),
    }
}

/// Of the whole request, so that the other attempt has no time either.
fn is_out_of_time(ctx: &Context, failed: &Failed) -> bool {
    let routed = ctx.routed.as_ref();
    failed.failure == Failure::TimedOut
        && routed.is_some_and(|routed| routed.is_late(Instant::now()))
}
