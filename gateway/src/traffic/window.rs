//! How many calls succeeded and failed lately.
//!
//! The span is cut into ten buckets, each counted exactly; the oldest is dropped whole when a new one begins. A
//! total therefore covers the last nine tenths of the span and what has passed of the current tenth.

use std::time::{Duration, Instant};

const BUCKETS: usize = 10;

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    ok: u32,
    failed: u32,
}

/// Counts outcomes over a sliding span.
#[derive(Debug, Clone)]
pub struct Window {
    width: Duration,
    buckets: [Bucket; BUCKETS],
    /// The bucket that is being filled.
    newest: usize,
    /// When `newest` began; None before the first record.
    began: Option<Instant>,
}

impl Window {
    /// A span of zero forgets everything at the next instant.
    pub fn new(span: Duration) -> Self {
        let width = (span / BUCKETS as u32).max(Duration::from_nanos(1));
        Self {
            width,
            buckets: [Bucket::default(); BUCKETS],
            newest: 0,
            began: None,
        }
    }

    pub fn record(&mut self, now: Instant, ok: bool) {
        self.advance(now);
        let bucket = &mut self.buckets[self.newest];
        let count = if ok {
            &mut bucket.ok
        } else {
            &mut bucket.failed
        };
        *count = count.saturating_add(1);
    }

    /// Successes and failures within the span that ends at `now`.
    pub fn totals(&self, now: Instant) -> (u64, u64) {
        let Some(began) = self.began else {
            return (0, 0);
        };
        let gone = self.elapsed(began, now);
        let kept = BUCKETS.saturating_sub(gone);
        (0..kept).fold((0, 0), |(ok, failed), age| {
            let bucket = self.buckets[(self.newest + BUCKETS - age) % BUCKETS];
            (ok + u64::from(bucket.ok), failed + u64::from(bucket.failed))
        })
    }

    pub fn clear(&mut self) {
        self.buckets = [Bucket::default(); BUCKETS];
        self.began = None;
    }

    fn advance(&mut self, now: Instant) {
        let Some(began) = self.began else {
            self.began = Some(now);
            return;
        };
        let steps = self.elapsed(began, now);
        if steps == 0 {
            return;
        }
        if steps >= BUCKETS {
            self.clear();
            self.began = Some(now);
            return;
        }
        for _ in 0..steps {
            self.newest = (self.newest + 1) % BUCKETS;
            self.buckets[self.newest] = Bucket::default();
        }
        self.began = Some(began + self.width * steps as u32);
    }

    /// Whole bucket widths between `began` and `now`, at most `BUCKETS`.
    fn elapsed(&self, began: Instant, now: Instant) -> usize {
        let age = now.saturating_duration_since(began);
        if age < self.width {
            return 0;
        }
        let steps = age.as_nanos() / self.width.as_nanos();
        usize::try_from(steps).unwrap_or(BUCKETS).min(BUCKETS)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SPAN: Duration = Duration::from_secs(10);

    #[test]
    fn empty_has_no_totals() {
        assert_eq!(Window::new(SPAN).totals(Instant::now()), (0, 0));
    }

    #[test]
    fn outcomes_leave_after_the_span() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut window = Window::new(SPAN);
        window.record(at(0), true);
        window.record(at(0), false);
        window.record(at(5), true);
        assert_eq!(window.totals(at(5)), (2, 1));
        assert_eq!(window.totals(at(9)), (2, 1));
        assert_eq!(window.totals(at(10)), (1, 0), "the first bucket is gone");
        assert_eq!(window.totals(at(15)), (0, 0));
        assert_eq!(window.totals(at(9)), (2, 1), "reading changes nothing");
    }

    #[test]
    fn a_long_silence_clears_everything() {
        let start = Instant::now();
        let mut window = Window::new(SPAN);
        window.record(start, false);
        window.record(start + Duration::from_secs(1_000_000), true);
        assert_eq!(
            window.totals(start + Duration::from_secs(1_000_000)),
            (1, 0)
        );
    }

    #[test]
    fn clear_forgets() {
        let start = Instant::now();
        let mut window = Window::new(SPAN);
        window.record(start, false);
        window.clear();
        assert_eq!(window.totals(start), (0, 0));
        window.record(start, true);
        assert_eq!(window.totals(start), (1, 0));
    }

    #[test]
    fn extreme_spans_do_not_overflow() {
        let start = Instant::now();
        for span in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
            let mut window = Window::new(span);
            window.record(start, true);
            assert_eq!(window.totals(start), (1, 0));
            window.record(start + SPAN, true);
        }
    }

    proptest! {
        /// Against a list of all outcomes: nothing younger than nine tenths is missing, nothing older than the span counted.
        #[test]
        fn totals_lie_between_nine_tenths_and_the_whole_span(
            steps in prop::collection::vec((0_u64..3_000, any::<bool>()), 1..200)
        ) {
            let start = Instant::now();
            let mut window = Window::new(SPAN);
            let mut now = start;
            let mut outcomes = Vec::new();
            for (milliseconds, ok) in steps {
                now += Duration::from_millis(milliseconds);
                window.record(now, ok);
                outcomes.push((now, ok));
                let count = |span: Duration, wanted: bool| {
                    outcomes.iter().filter(|(at, ok)| *ok == wanted && now - *at < span).count() as u64
                };
                let (passed, failed) = window.totals(now);
                prop_assert!(passed <= count(SPAN, true) && passed >= count(SPAN * 9 / 10, true));
                prop_assert!(failed <= count(SPAN, false) && failed >= count(SPAN * 9 / 10, false));
            }
        }
    }
}
