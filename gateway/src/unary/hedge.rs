//! A second attempt beside one that takes longer than most: the answer that comes first counts.
//!
//! The tail of a fleet's latency is mostly a single slow endpoint's, so asking another one after a quantile of the
//! usual time cuts it for a few percent more requests (J. Dean, L. A. Barroso, "The Tail at Scale", 2013). A hedge is
//! counted in the retry budget and never goes to an endpoint that was tried. The loser is dropped, which cancels it
//! upstream. An attempt that fails leaves the field to the other.

use std::pin::pin;
use std::time::{Duration, Instant};

use super::attempts::{Answered, Attempt, Failed, Tried};
use crate::fleet::Ask;

/// Runs the attempt, hedged if its route says so.
pub(super) async fn run(attempt: Attempt<'_>, tried: &mut Tried) -> Result<Answered, Failed> {
    tried.push(attempt.lease.index);
    let Attempt {
        route,
        cluster,
        call,
        trace,
        started,
        number,
        bearings,
        ..
    } = attempt;
    let Some(hedging) = &route.hedging else {
        return pin!(attempt.run()).await;
    };
    let mut first = pin!(attempt.run());
    if let Some(delay) = hedging.delay(started) {
        tokio::select! {
            biased;
            answer = &mut first => {
                return answer.inspect(|_| hedging.answered(started, Instant::now()));
            }
            () = tokio::time::sleep(delay) => {}
        }
    } else {
        return first
            .await
            .inspect(|_| hedging.answered(started, Instant::now()));
    }
    let now = Instant::now();
    let time = call
        .deadline
        .attempt_timeout(now, route.config.retry.per_try_timeout);
    // The budget is not charged where there is nobody else to ask, and nobody is asked for whom it has nothing left.
    let is_worth = time.is_some() && tried.len() < cluster.size();
    let token = is_worth
        .then(|| route.budget.try_acquire(cluster.active(), now))
        .flatten();
    let lease = token
        .is_some()
        .then(|| cluster.lease_other(&Ask::new(tried, now).with(bearings)))
        .flatten();
    let (Some(time), Some(_token), Some(lease)) = (time, token, lease) else {
        return first
            .await
            .inspect(|_| hedging.answered(started, Instant::now()));
    };
    tried.push(lease.index);
    route.metrics.hedged();
    let second = Attempt {
        route,
        cluster,
        call,
        trace,
        lease,
        started: now,
        time,
        number: number + 1,
        waited: Duration::ZERO,
        bearings,
    };
    // On the heap, as few calls need it and all would carry its room.
    let mut second = Box::pin(second.run());
    let answer = tokio::select! {
        biased;
        answer = &mut first => match answer {
            Err(failed) if !failed.out_of_time() => {
                drop(failed);
                second.await.inspect(|_| route.metrics.hedge_won())
            }
            answer => answer,
        },
        answer = &mut second => match answer {
            Ok(answered) => {
                route.metrics.hedge_won();
                Ok(answered)
            }
            Err(_) => first.await,
        },
    };
    answer.inspect(|_| hedging.answered(started, Instant::now()))
}
