//! How long a source that failed is left alone: short at first, so that a restart of it is hardly noticed, then longer
//! and longer up to the discovery's interval.
//!
//! An answer alone starts the count anew only after it has held for that interval. Else a source that answers and
//! breaks off, again and again, would be asked without a pause.

use std::time::{Duration, Instant};

use crate::traffic::retry::Backoff;

const FIRST: Duration = Duration::from_millis(100);

pub struct Patience {
    backoff: Backoff,
    failures: u32,
    /// None: the last thing was a failure.
    answering_since: Option<Instant>,
}

impl Patience {
    /// `most`: no wait is longer.
    pub fn new(most: Duration) -> Self {
        Self {
            backoff: Backoff {
                first: FIRST.min(most),
                max: most,
            },
            failures: 0,
            answering_since: None,
        }
    }

    pub fn answered(&mut self, now: Instant) {
        self.answering_since.get_or_insert(now);
    }

    /// The wait until it is asked again.
    pub fn failed(&mut self, now: Instant, random: u64) -> Duration {
        let since = self.answering_since.take();
        if since.is_some_and(|since| now.saturating_duration_since(since) >= self.backoff.max) {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        self.backoff.delay(self.failures, random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_secs(5);

    /// The longest wait after a failure at `now`.
    fn bound(patience: &mut Patience, now: Instant) -> Duration {
        let wait = patience.failed(now, u64::MAX);
        Duration::from_millis(u64::try_from(wait.as_micros().div_ceil(1000)).unwrap())
    }

    #[test]
    fn waits_grow_up_to_the_interval() {
        let now = Instant::now();
        let mut patience = Patience::new(MOST);
        let bounds = [100, 200, 400, 800, 1600, 3200, 5000, 5000];
        for milliseconds in bounds {
            assert_eq!(
                bound(&mut patience, now),
                Duration::from_millis(milliseconds)
            );
        }
        assert_eq!(patience.failed(now, 0), Duration::ZERO);
        let mut short = Patience::new(Duration::from_millis(50));
        assert_eq!(bound(&mut short, now), Duration::from_millis(50));
    }

    #[test]
    fn only_an_answer_that_held_starts_anew() {
        let start = Instant::now();
        let mut patience = Patience::new(MOST);
        for _ in 0..3 {
            patience.failed(start, 0);
        }
        patience.answered(start);
        assert_eq!(bound(&mut patience, start), Duration::from_millis(800));
        patience.answered(start);
        patience.answered(start + MOST);
        assert_eq!(
            bound(&mut patience, start + MOST),
            Duration::from_millis(100),
            "the first of several answers counts"
        );
    }
}
