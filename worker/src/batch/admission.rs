//! Whether a request can meet its deadline, before it is queued.
//!
//! Refusing at once what would only expire in the queue spares the caller the wait and the queue the place; the
//! learned durations make it possible (Gujarati et al., "Serving DNNs like Clockwork", OSDI 2020). Refusing what
//! would have been in time is the worse mistake, so the estimate is the least that is likely:
//!
//! - with an idle instance there is no wait, whatever the queue holds;
//! - else what runs and what waits at the same or a lower priority number is shared evenly by all instances,
//!   at the best time per row, and nobody ends before the first instance is free;
//! - of its own class of weight only full batches count as ahead: it may share the last one;
//! - what is not known takes no time, and a class that nobody measured lately is not known. Without that a
//!   duration that was once too long would refuse everybody, and never be measured again.
//!
//! What is left of the estimate after a margin for its error must fit into the time that the request has.
//! What may come later with a higher priority is not foreseen.

use std::time::{Duration, Instant};

use crate::batch::forming::Forming;
use crate::batch::queue::{Backlog, Weight};

/// The share of an estimate that is surely needed: curves follow the machine, but no two runs are equal.
const SURE: f64 = 0.85;
/// A class of weight not measured for so long is not known.
const STALE: Duration = Duration::from_secs(5);

/// A request with a deadline that wants in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applicant {
    pub rows: usize,
    pub priority: u32,
    pub weight: Weight,
    /// When its class of weight was last measured.
    pub measured: Option<Instant>,
    pub deadline: Instant,
}

/// What it finds.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    pub forming: &'a Forming,
    pub backlog: &'a Backlog,
    /// Instances that wait for work.
    pub idle: usize,
    /// When the others are expected to be free; as many as there are busy ones.
    pub free_at: &'a [Instant],
}

/// # Errors
/// The time to its answer that is expected of a request that is not worth queueing.
pub fn admit(applicant: Applicant, situation: Situation<'_>, now: Instant) -> Result<(), Duration> {
    let known = applicant
        .measured
        .is_some_and(|measured| now.saturating_duration_since(measured) <= STALE);
    if !known {
        return Ok(());
    }
    let Some(expected) = expected(applicant, situation, now) else {
        return Ok(());
    };
    let left = applicant.deadline.saturating_duration_since(now);
    if expected.mul_f64(SURE) > left {
        Err(expected)
    } else {
        Ok(())
    }
}

/// The time to its answer, at least; `None` if nothing is known about requests like it.
fn expected(applicant: Applicant, situation: Situation<'_>, now: Instant) -> Option<Duration> {
    let Situation {
        forming,
        backlog,
        idle,
        free_at,
    } = situation;
    let instances = (idle + free_at.len()).max(1);
    let run = work(forming, applicant.weight, applicant.rows)?;
    let at_once = forming.whole(applicant.weight);
    let run = if applicant.rows > at_once {
        // Its parts run side by side.
        run.div_f64(instances as f64)
    } else {
        run
    };
    if idle > 0 {
        return Some(run);
    }
    let left = free_at.iter().map(|end| end.saturating_duration_since(now));
    let first_free = left.clone().min().unwrap_or_default();
    let running: Duration = left.sum();
    let ahead: Duration = backlog
        .range(..=(applicant.priority, Weight::LAST))
        .filter_map(|((_, weight), rows)| {
            let best = forming.best_rows(*weight);
            let rows = if *weight == applicant.weight.class() {
                rows - rows % best
            } else {
                *rows
            };
            Some(work(forming, *weight, best)?.mul_f64(rows as f64 / best as f64))
        })
        .sum();
    let wait = (running + ahead).div_f64(instances as f64);
    Some(wait.max(first_free) + run)
}

/// How long one instance works on so many rows.
fn work(forming: &Forming, weight: Weight, rows: usize) -> Option<Duration> {
    let curve = forming.curve(weight)?;
    match weight {
        Weight::Alone { .. } => curve.trusted(1),
        Weight::Rows { .. } => {
            let whole = forming.whole(weight);
            if rows <= whole {
                return curve.trusted(rows);
            }
            let best = forming.best_rows(weight);
            let part = curve.trusted(best)?;
            Some(part.mul_f64(rows as f64 / best as f64))
        }
    }
}

#[cfg(test)]
mod tests;
