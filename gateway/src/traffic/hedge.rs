//! When a call has taken longer than most: the route's quantile of answer times.
//!
//! A call counts with the time since its first attempt began, whichever attempt answered: counting a hedge's own short
//! time would pull the quantile down, and with it ever more calls would be hedged.

use std::time::{Duration, Instant};

use forebay_config::gateway::Hedge;
use parking_lot::Mutex;

use super::quantile::Quantile;

/// A reading serves all calls of this stretch.
const READING_LASTS: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub struct Hedging {
    config: Hedge,
    times: Mutex<Times>,
}

#[derive(Debug)]
struct Times {
    quantile: Quantile,
    read: Option<(Instant, Option<Duration>)>,
}

impl Hedging {
    pub fn new(config: Hedge, now: Instant) -> Self {
        Self {
            config,
            times: Mutex::new(Times {
                quantile: Quantile::new(now),
                read: None,
            }),
        }
    }

    /// How long the first attempt may take alone; None while too little is known.
    pub fn delay(&self, now: Instant) -> Option<Duration> {
        let mut times = self.times.lock();
        let usual = match times.read {
            Some((at, usual)) if now.saturating_duration_since(at) < READING_LASTS => usual,
            _ => {
                let usual = times.quantile.read(now, self.config.quantile);
                times.read = Some((now, usual));
                usual
            }
        };
        Some(usual?.max(self.config.min_delay))
    }

    /// An answer came `now` to a call that began at `started`.
    pub fn answered(&self, started: Instant, now: Instant) {
        let took = now.saturating_duration_since(started);
        self.times.lock().quantile.observe(now, took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_is_what_most_calls_take_and_never_too_short() {
        let now = Instant::now();
        let config = Hedge {
            quantile: 0.9,
            min_delay: Duration::from_millis(5),
        };
        let hedging = Hedging::new(config, now);
        assert_eq!(hedging.delay(now), None);
        for call in 0..1_000 {
            let took = if call % 20 == 0 { 400 } else { 40 };
            hedging.answered(now, now + Duration::from_millis(took));
        }
        assert_eq!(hedging.delay(now), None, "the reading still serves");
        let delay = hedging.delay(now + READING_LASTS).unwrap();
        assert!((40..=45).contains(&delay.as_millis()), "{delay:?}");

        let quick = Hedging::new(config, now);
        for _ in 0..1_000 {
            quick.answered(now, now + Duration::from_micros(300));
        }
        assert_eq!(quick.delay(now), Some(config.min_delay));
    }
}
