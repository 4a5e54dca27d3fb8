//! When a batch goes and how large it is.
//!
//! It goes at once when it is as large as pays, when the oldest request waited its `max_queue_delay`, or when
//! that delay is zero: an instance that asks is idle, and requests that come while it is busy gather by
//! themselves. Idle instances share what waits. With a learned curve no batch is larger than the size with
//! the least time per row, so that all that waits is done soonest. Pure: `now` and durations are arguments.

use std::time::{Duration, Instant};

use crate::batch::curve::Curves;
use crate::batch::queue::{Call, Group, Standing};

/// A gain in time per row below this share is not worth waiting for.
const WORTH_WAITING: f64 = 0.05;

/// The batching rules of one model and what it learned about its durations.
#[derive(Debug)]
pub struct Forming {
    max_rows: usize,
    max_delay: Duration,
    learn: bool,
    curves: Curves,
}

/// What an asking instance adds to the question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asking {
    pub now: Instant,
    /// Instances that are idle, the asking one included.
    pub idle: usize,
    /// The model is shutting down: nobody waits for company.
    pub draining: bool,
}

impl Forming {
    /// `learn`: choose sizes by the curve; otherwise `max_rows` is the only limit (the curve is kept all the same).
    pub fn new(max_rows: usize, max_delay: Duration, learn: bool) -> Self {
        Self {
            max_rows: max_rows.max(1),
            max_delay,
            learn,
            curves: Curves::new(max_rows),
        }
    }

    /// From now on no two requests share a batch.
    pub fn stop_stacking(&mut self) {
        self.max_rows = 1;
    }

    pub fn curves(&self) -> &Curves {
        &self.curves
    }

    /// A batch took so long, everything included that keeps the instance busy.
    pub fn record(&mut self, row_bytes: usize, rows: usize, took: Duration) {
        self.curves.record(row_bytes, rows, took);
    }

    /// The rows of one batch when plenty wait.
    pub fn best_size(&self, row_bytes: usize) -> usize {
        match self.curves.of(row_bytes).filter(|_| self.learn) {
            Some(curve) => curve.best_size(self.max_rows),
            None => self.max_rows,
        }
    }

    /// The same for the weight class that was seen most.
    pub fn usual_size(&self) -> usize {
        match self.curves.busiest().filter(|_| self.learn) {
            Some(curve) => curve.best_size(self.max_rows),
            None => self.max_rows,
        }
    }

    pub fn call(&mut self, standing: Standing<'_>, asking: Asking) -> Call {
        let Group::Shape { row_bytes, .. } = *standing.group else {
            return Call::Send { rows: 1 };
        };
        if let Some(until) = self.worth_waiting(&standing, asking, row_bytes) {
            return Call::Wait { until };
        }
        let share = standing.rows.div_ceil(asking.idle.max(1));
        let limit = share.min(self.max_rows).max(1);
        let rows = if self.learn {
            self.curves.choose(row_bytes, limit)
        } else {
            limit
        };
        Call::Send { rows }
    }

    /// Until when the group should wait for company, if it should at all.
    fn worth_waiting(
        &self,
        standing: &Standing<'_>,
        asking: Asking,
        row_bytes: usize,
    ) -> Option<Instant> {
        if self.max_delay.is_zero() || asking.draining {
            return None;
        }
        let best = self.best_size(row_bytes);
        if standing.rows >= best {
            return None;
        }
        let curve = self.curves.of(row_bytes).filter(|_| self.learn);
        let duration = |rows| curve.and_then(|curve| curve.duration(rows));
        if let (Some(here), Some(there)) = (duration(standing.rows), duration(best)) {
            let here = here.as_secs_f64() / standing.rows.max(1) as f64;
            let there = there.as_secs_f64() / best as f64;
            if there > here * (1.0 - WORTH_WAITING) {
                return None;
            }
        }
        let patience = standing.oldest + self.max_delay;
        let until = match standing.deadline {
            Some(deadline) => {
                let needed = duration(best).unwrap_or_default();
                patience.min(deadline.checked_sub(needed).unwrap_or(asking.now))
            }
            None => patience,
        };
        (until > asking.now).then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: usize = 128;

    fn forming(max_rows: usize, delay_ms: u64, milliseconds: &[(usize, u64)]) -> Forming {
        let mut forming = Forming::new(max_rows, Duration::from_millis(delay_ms), true);
        for (rows, duration) in milliseconds {
            for _ in 0..2 {
                forming.record(ROW, *rows, Duration::from_millis(*duration));
            }
        }
        forming
    }

    fn shape() -> Group {
        Group::Shape {
            dims: Box::new([0, 4]),
            row_bytes: ROW,
        }
    }

    struct Scene {
        group: Group,
        start: Instant,
    }

    impl Scene {
        fn new() -> Self {
            Self {
                group: shape(),
                start: Instant::now(),
            }
        }

        fn standing(&self, rows: usize) -> Standing<'_> {
            Standing {
                group: &self.group,
                rows,
                oldest: self.start,
                deadline: None,
            }
        }

        fn asking(&self, after_ms: u64) -> Asking {
            Asking {
                now: self.start + Duration::from_millis(after_ms),
                idle: 1,
                draining: false,
            }
        }
    }

    const FLAT_FROM_FOUR: &[(usize, u64)] = &[(1, 10), (2, 16), (4, 20), (8, 60)];

    #[test]
    fn without_delay_whatever_waits_goes() {
        let scene = Scene::new();
        let mut forming = forming(8, 0, FLAT_FROM_FOUR);
        assert_eq!(
            forming.call(scene.standing(1), scene.asking(0)),
            Call::Send { rows: 1 }
        );
        assert_eq!(
            forming.call(scene.standing(3), scene.asking(0)),
            Call::Send { rows: 3 }
        );
    }

    #[test]
    fn no_batch_beyond_the_best_size() {
        let scene = Scene::new();
        let mut forming = forming(8, 0, FLAT_FROM_FOUR);
        assert_eq!(
            forming.call(scene.standing(60), scene.asking(0)),
            Call::Send { rows: 4 }
        );
    }

    #[test]
    fn without_learning_the_maximum_rules() {
        let scene = Scene::new();
        let mut forming = Forming::new(8, Duration::ZERO, false);
        for rows in [1, 8] {
            forming.record(ROW, rows, Duration::from_millis(rows as u64 * 10));
            forming.record(ROW, rows, Duration::from_millis(rows as u64 * 10));
        }
        assert_eq!(
            forming.call(scene.standing(60), scene.asking(0)),
            Call::Send { rows: 8 }
        );
    }

    #[test]
    fn waits_its_delay_while_that_pays_and_no_longer() {
        let scene = Scene::new();
        let mut forming = forming(8, 5, FLAT_FROM_FOUR);
        let until = scene.start + Duration::from_millis(5);
        assert_eq!(
            forming.call(scene.standing(1), scene.asking(0)),
            Call::Wait { until }
        );
        assert_eq!(
            forming.call(scene.standing(1), scene.asking(5)),
            Call::Send { rows: 1 }
        );
        assert_eq!(
            forming.call(scene.standing(4), scene.asking(0)),
            Call::Send { rows: 4 },
            "as large as pays"
        );
    }

    #[test]
    fn does_not_wait_when_company_gains_nothing() {
        let scene = Scene::new();
        let mut forming = forming(8, 5, &[(1, 10), (2, 30), (4, 90), (8, 300)]);
        assert_eq!(
            forming.call(scene.standing(1), scene.asking(0)),
            Call::Send { rows: 1 }
        );
    }

    #[test]
    fn a_deadline_cuts_the_wait_short() {
        let scene = Scene::new();
        let mut forming = forming(8, 50, FLAT_FROM_FOUR);
        let standing = Standing {
            deadline: Some(scene.start + Duration::from_millis(30)),
            ..scene.standing(1)
        };
        let until = scene.start + Duration::from_millis(10);
        assert_eq!(
            forming.call(standing, scene.asking(0)),
            Call::Wait { until }
        );
        assert_eq!(
            forming.call(standing, scene.asking(10)),
            Call::Send { rows: 1 }
        );
    }

    #[test]
    fn draining_waits_for_nobody() {
        let scene = Scene::new();
        let mut forming = forming(8, 50, FLAT_FROM_FOUR);
        let asking = Asking {
            draining: true,
            ..scene.asking(0)
        };
        assert_eq!(
            forming.call(scene.standing(1), asking),
            Call::Send { rows: 1 }
        );
    }

    #[test]
    fn idle_instances_share_the_work() {
        let scene = Scene::new();
        let mut forming = forming(8, 0, FLAT_FROM_FOUR);
        let asking = Asking {
            idle: 2,
            ..scene.asking(0)
        };
        assert_eq!(
            forming.call(scene.standing(4), asking),
            Call::Send { rows: 2 }
        );
        assert_eq!(
            forming.call(scene.standing(1), asking),
            Call::Send { rows: 1 }
        );
    }

    #[test]
    fn requests_that_share_nothing_go_by_themselves() {
        let start = Instant::now();
        let standing = Standing {
            group: &Group::Alone,
            rows: 9,
            oldest: start,
            deadline: None,
        };
        let asking = Asking {
            now: start,
            idle: 1,
            draining: false,
        };
        assert_eq!(
            forming(8, 50, &[]).call(standing, asking),
            Call::Send { rows: 1 }
        );
    }
}
