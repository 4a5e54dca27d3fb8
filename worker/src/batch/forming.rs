//! When a batch goes and how large it is.
//!
//! It goes at once when it is as large as pays, when the oldest request waited its `max_queue_delay`, or when
//! that delay is zero: an instance that asks is idle, and requests that come while it is busy gather by
//! themselves. Idle instances share what waits. With a learned curve no batch is larger than the size with
//! the least time per row, so that all that waits is done soonest.
//!
//! Preferred sizes, as Triton has them: as soon as what waits makes one, the largest that it makes goes; less
//! than that waits its delay, then all of it goes. Of the preferred sizes those count that the learned curve does
//! not speak against; if it speaks against all of them there are none.
//!
//! A latency target bounds the batch by the time that its oldest request has left: the largest size is taken
//! that ends in time, and nobody waits for company beyond the moment at which a batch would just end in time.
//! A smaller batch must not make more requests late than it saves, so it is only taken if it costs little
//! throughput, or if all that waits is done in half the target all the same. Otherwise, and when the oldest is
//! late in any case, the size goes that gets most rows done: with load close to what can be carried, small batches
//! let the queue grow until everybody is late (simulated in the tests).
//!
//! A request is cut into parts where it has more rows than a batch may have, or more than run well together;
//! and where a batch would be much too small without a part of it. Without a learned curve only `max_rows` cuts.
//!
//! Pure: `now` and durations are arguments.

use std::time::{Duration, Instant};

use crate::batch::curve::{Curve, Curves};
use crate::batch::queue::{Call, Cut, Group, Standing, Weight};

/// A gain in time per row below this share is not worth waiting for.
const WORTH_WAITING: f64 = 0.05;
/// Against a deadline or target, a batch is taken to last so many times what is expected: no two runs are equal.
const HEADROOM: f64 = 1.1;

/// The batching rules of one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Rows of a batch at most; 1: no two requests share one, and each goes whole.
    pub max_rows: usize,
    /// Ascending; empty: any size is as good as another.
    pub preferred: Vec<usize>,
    pub max_delay: Duration,
    /// From arrival to answer.
    pub latency_target: Option<Duration>,
    /// Choose sizes by the curve; otherwise it is only kept.
    pub learn: bool,
}

/// The rules of one model and what it learned about its durations.
#[derive(Debug)]
pub struct Forming {
    rules: Rules,
    curves: Curves,
    /// Of requests that go alone: their own durations, by all their bytes.
    alone: Curves,
}

/// What an asking instance adds to the question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asking {
    pub now: Instant,
    /// Instances that are idle, the asking one included.
    pub idle: usize,
    /// All instances, idle or not.
    pub instances: usize,
    /// The model is shutting down: nobody waits for company.
    pub draining: bool,
}

impl Forming {
    pub fn new(mut rules: Rules) -> Self {
        rules.max_rows = rules.max_rows.max(1);
        let curves = Curves::new(rules.max_rows);
        Self {
            rules,
            curves,
            alone: Curves::new(1),
        }
    }

    /// From now on no two requests share a batch.
    pub fn stop_stacking(&mut self) {
        self.rules.max_rows = 1;
    }

    /// Rows of a batch at most.
    pub fn max_rows(&self) -> usize {
        self.rules.max_rows
    }

    pub fn curves(&self) -> &Curves {
        &self.curves
    }

    /// A batch took so long, everything included that keeps the instance busy.
    pub fn record(&mut self, weight: Weight, rows: usize, took: Duration) {
        match weight {
            Weight::Alone { bytes } => self.alone.record(bytes, 1, took),
            Weight::Rows { row_bytes } => self.curves.record(row_bytes, rows, took),
        }
    }

    /// What is known about requests of this weight.
    pub fn curve(&self, weight: Weight) -> Option<&Curve> {
        match weight {
            Weight::Alone { bytes } => self.alone.of(bytes),
            Weight::Rows { row_bytes } => self.curves.of(row_bytes),
        }
    }

    /// The rows of one batch when plenty wait.
    pub fn best_size(&self, row_bytes: usize) -> usize {
        self.best_of(self.learned(row_bytes))
    }

    /// The same by weight; 1 for what goes alone.
    pub fn best_rows(&self, weight: Weight) -> usize {
        match weight {
            Weight::Alone { .. } => 1,
            Weight::Rows { row_bytes } => self.best_size(row_bytes),
        }
    }

    /// A request with more rows than this is cut.
    pub fn whole(&self, weight: Weight) -> usize {
        match weight {
            Weight::Rows { row_bytes } if self.rules.max_rows > 1 => {
                let max_rows = self.rules.max_rows;
                let curve = self.learned(row_bytes);
                curve.map_or(max_rows, |curve| curve.whole(max_rows))
            }
            _ => usize::MAX,
        }
    }

    /// The same for the weight class that was seen most.
    pub fn usual_size(&self) -> usize {
        self.best_of(self.curves.busiest().filter(|_| self.rules.learn))
    }

    pub fn call(&mut self, standing: Standing<'_>, asking: Asking) -> Call {
        let Group::Shape { row_bytes, .. } = *standing.group else {
            return Call::Send(self.one(&standing, asking));
        };
        if self.rules.max_rows == 1 {
            return Call::Send(self.one(&standing, asking));
        }
        if let Some(until) = self.worth_waiting(&standing, asking, row_bytes) {
            return Call::Wait { until };
        }
        let limit = standing.rows.div_ceil(asking.idle.max(1));
        let limit = limit.min(self.rules.max_rows).max(1);
        let preferred = self
            .preferred(row_bytes)
            .rfind(|size| *size <= standing.rows);
        let rows = match (preferred, self.in_time(&standing, asking, row_bytes, limit)) {
            (_, Some(rows)) => rows,
            (Some(rows), None) => rows,
            (None, None) if self.rules.learn => self.curves.choose(row_bytes, limit),
            (None, None) => limit,
        };
        Call::Send(self.cut(row_bytes, rows, asking))
    }

    /// The first request, by itself.
    fn one(&self, standing: &Standing<'_>, asking: Asking) -> Cut {
        let (weight, rows) = standing.first;
        Cut {
            done_at: self.done_at(weight, rows, asking),
            ..Cut::whole(1)
        }
    }

    fn cut(&self, row_bytes: usize, rows: usize, asking: Asking) -> Cut {
        let fill = match (self.rules.latency_target, self.learned(row_bytes)) {
            (None, Some(curve)) => curve.enough(self.rules.max_rows),
            // Against a target: whoever is run in two parts is done later.
            _ => 0,
        };
        Cut {
            rows,
            whole: self.whole(Weight::Rows { row_bytes }),
            fill,
            done_at: self.done_at(Weight::Rows { row_bytes }, rows, asking),
        }
    }

    fn done_at(&self, weight: Weight, rows: usize, asking: Asking) -> Option<Instant> {
        Some(asking.now + self.curve(weight)?.trusted(rows)?)
    }

    /// The size that a latency target demands, if it demands one below `limit`.
    fn in_time(
        &self,
        standing: &Standing<'_>,
        asking: Asking,
        row_bytes: usize,
        limit: usize,
    ) -> Option<usize> {
        let target = self.rules.latency_target?;
        let curve = self.curves.of(row_bytes)?;
        let left = (standing.oldest + target).saturating_duration_since(asking.now);
        let largest = limit.min(self.best_size(row_bytes));
        let rows = curve.within(largest, left.div_f64(HEADROOM))?;
        let duration = curve.duration(rows)?;
        let turns = standing
            .rows
            .div_ceil(rows)
            .div_ceil(asking.instances.max(1));
        let all = duration.saturating_mul(u32::try_from(turns).unwrap_or(u32::MAX));
        let cheap = rows >= curve.enough(self.rules.max_rows);
        (rows < largest && (cheap || all <= target / 2)).then_some(rows)
    }

    /// Until when the group should wait for company, if it should at all.
    fn worth_waiting(
        &self,
        standing: &Standing<'_>,
        asking: Asking,
        row_bytes: usize,
    ) -> Option<Instant> {
        let Rules {
            max_delay,
            latency_target,
            ..
        } = self.rules;
        if max_delay.is_zero() || asking.draining {
            return None;
        }
        let wanted = self.preferred(row_bytes).next();
        let wanted = wanted.unwrap_or_else(|| self.best_size(row_bytes));
        if standing.rows >= wanted {
            return None;
        }
        let curve = self.learned(row_bytes);
        let duration = |rows| curve.and_then(|curve| curve.duration(rows));
        if let (Some(here), Some(there)) = (duration(standing.rows), duration(wanted)) {
            let here = here.as_secs_f64() / standing.rows.max(1) as f64;
            let there = there.as_secs_f64() / wanted as f64;
            if there > here * (1.0 - WORTH_WAITING) {
                return None;
            }
        }
        let start_by = |end: Instant| {
            let needed = duration(wanted).unwrap_or_default().mul_f64(HEADROOM);
            end.checked_sub(needed).unwrap_or(asking.now)
        };
        let mut until = standing.oldest + max_delay;
        if let Some(deadline) = standing.deadline {
            until = until.min(start_by(deadline));
        }
        if let Some(target) = latency_target {
            until = until.min(start_by(standing.oldest + target));
        }
        (until > asking.now).then_some(until)
    }

    /// The preferred sizes that the curve does not speak against, ascending.
    fn preferred(&self, row_bytes: usize) -> impl DoubleEndedIterator<Item = usize> {
        let most = self.whole(Weight::Rows { row_bytes });
        let sizes = self.rules.preferred.iter().copied();
        sizes.filter(move |size| *size <= most)
    }

    fn best_of(&self, curve: Option<&Curve>) -> usize {
        let max_rows = self.rules.max_rows;
        curve.map_or(max_rows, |curve| curve.best_size(max_rows))
    }

    fn learned(&self, row_bytes: usize) -> Option<&Curve> {
        self.curves.of(row_bytes).filter(|_| self.rules.learn)
    }
}

#[cfg(test)]
mod tests;
