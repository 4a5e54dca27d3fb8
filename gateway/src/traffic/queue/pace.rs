//! How fast slots become free, and hence how long a wait will be.
//!
//! By Little's law the requests in flight leave at the rate `in flight / mean time in flight`, whatever the
//! distribution of their times, the number of endpoints or their speeds. So the mean over all that left, however
//! they ended, tells how long it takes until some number of slots was free, without anything to configure.
//!
//! Beside it stands what even a quick answer takes, since a slot is of no use to a request whose time is over before
//! any answer can come: the expectile of a tenth (Newey and Powell, 1987), which follows answers below it nine times
//! as fast as those above, so that requests to a slow model of the cluster do not turn away those to a quick one.

use std::time::Duration;

/// Share of a new time in the mean.
const SHARE: f64 = 1.0 / 32.0;
/// Shares of a new time in the quick answer, from above and from below.
const RISE: f64 = 1.0 / 64.0;
const FALL: f64 = 9.0 / 64.0;

#[derive(Debug, Clone, Copy, Default)]
pub struct Pace {
    /// Seconds; 0: nothing is known.
    mean: f64,
    quick: f64,
}

impl Pace {
    /// A slot is free after `held`; `answered`: by an answer that counts as a success.
    pub fn freed(&mut self, held: Duration, answered: bool) {
        let held = held.as_secs_f64();
        self.mean = match self.mean {
            0.0 => held,
            mean => mean + SHARE * (held - mean),
        };
        if answered {
            self.quick = match self.quick {
                0.0 => held,
                quick if held > quick => quick + RISE * (held - quick),
                quick => quick + FALL * (held - quick),
            };
        }
    }

    /// Until a slot is free for one that has `ahead` others before it. None: not known yet.
    pub fn wait(&self, ahead: usize, in_flight: usize) -> Option<Duration> {
        if self.mean == 0.0 || in_flight == 0 {
            return None;
        }
        let seconds = self.mean * (ahead as f64 + 1.0) / in_flight as f64;
        Duration::try_from_secs_f64(seconds).ok()
    }

    /// What even a quick answer takes; zero while that is not known.
    pub fn quick(&self) -> Duration {
        Duration::try_from_secs_f64(self.quick).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN: Duration = Duration::from_millis(10);

    #[test]
    fn nothing_is_promised_before_something_is_known() {
        let mut pace = Pace::default();
        assert_eq!((pace.wait(0, 4), pace.quick()), (None, Duration::ZERO));
        pace.freed(TEN, false);
        assert_eq!(pace.wait(0, 0), None, "nothing is in flight");
        assert_eq!(pace.quick(), Duration::ZERO, "nothing was answered");
    }

    #[test]
    fn slots_become_free_as_littles_law_says() {
        let mut pace = Pace::default();
        // A quick endpoint and one ten times as slow, four slots each, ten answers of one to one of the other.
        for _ in 0..100 {
            for _ in 0..10 {
                pace.freed(TEN, true);
            }
            pace.freed(10 * TEN, true);
        }
        // 4 in 10 ms and 4 in 100 ms: 0.44 a millisecond.
        let wait = pace.wait(43, 8).unwrap().as_secs_f64();
        assert!((0.085..0.115).contains(&wait), "{wait}");
    }

    #[test]
    fn a_few_slow_ones_do_not_hide_that_answers_can_be_quick() {
        let mut pace = Pace::default();
        for _ in 0..500 {
            pace.freed(100 * TEN, true);
            pace.freed(TEN, true);
            pace.freed(TEN, true);
        }
        assert!(pace.quick() < 15 * TEN, "{:?}", pace.quick());
        for _ in 0..500 {
            pace.freed(100 * TEN, true);
        }
        assert!(pace.quick() > 90 * TEN, "{:?}", pace.quick());
    }
}
