//! How many requests there may be over time: token buckets.
//!
//! A bucket is kept as the instant at which it will be full again, which is all there is to know about it: the
//! generic cell rate algorithm (ITU-T I.371), equal to a token bucket that holds `burst` tokens and gets one every
//! `per / requests`. A full bucket is no different from none, so what has not been asked for in a while can be
//! forgotten without anybody noticing.

mod table;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use forebay_config::gateway::RateLimit;
pub use table::Table;

/// Times are nanoseconds after an instant that whoever keeps the buckets has chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Between two tokens.
    interval: u64,
    /// Until an empty bucket is full.
    depth: u64,
}

/// One bucket that all requests share.
#[derive(Debug, Default)]
pub struct Bucket(AtomicU64);

impl Rate {
    pub fn new(limit: &RateLimit) -> Self {
        let interval = nanos(limit.per) / u64::from(limit.requests.max(1));
        let interval = interval.max(1);
        Self {
            interval,
            depth: interval.saturating_mul(u64::from(limit.burst.max(1))),
        }
    }

    /// Nanoseconds between two tokens.
    pub fn interval(&self) -> u64 {
        self.interval
    }

    /// Nanoseconds until an empty bucket is full.
    pub fn depth(&self) -> u64 {
        self.depth
    }

    /// When a bucket is full that has its next token in `lacks`, which is the time between two tokens at most.
    pub fn full_after(&self, now: u64, lacks: Duration) -> u64 {
        let next = now.saturating_add(nanos(lacks).min(self.interval));
        next.saturating_add(self.depth.saturating_sub(self.interval))
    }

    /// A token out of a bucket that would be full at `full`: when it is full then. Err: in how long there is one.
    fn take(&self, full: u64, now: u64) -> Result<u64, Duration> {
        let next = full.max(now).saturating_add(self.interval);
        let lacks = (next - now).saturating_sub(self.depth);
        match lacks {
            0 => Ok(next),
            lacks => Err(Duration::from_nanos(lacks)),
        }
    }
}

impl Bucket {
    /// Takes a token. Err: in how long there is one.
    pub fn take(&self, rate: &Rate, now: u64) -> Result<(), Duration> {
        let mut full = self.0.load(Ordering::Relaxed);
        loop {
            let next = rate.take(full, now)?;
            let swap =
                self.0
                    .compare_exchange_weak(full, next, Ordering::Relaxed, Ordering::Relaxed);
            match swap {
                Ok(_) => return Ok(()),
                Err(other) => full = other,
            }
        }
    }

    /// Somebody who knows better says that it is full no sooner than this.
    pub fn drain(&self, full: u64) {
        self.0.fetch_max(full, Ordering::Relaxed);
    }

    /// The request of a token was refused for another reason.
    pub fn give_back(&self, rate: &Rate) {
        self.0.fetch_sub(rate.interval, Ordering::Relaxed);
    }
}

/// In nanoseconds, as buckets count time.
pub fn later(now: u64, time: Duration) -> u64 {
    now.saturating_add(nanos(time))
}

/// As buckets count time: after `start`.
pub fn nanos_since(start: Instant, now: Instant) -> u64 {
    nanos(now.saturating_duration_since(start))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use forebay_config::gateway::RateKey;
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn rate(requests: u32, per: Duration, burst: u32) -> Rate {
        Rate::new(&RateLimit {
            requests,
            per,
            burst,
            by: RateKey::Route,
            shared: false,
        })
    }

    #[test]
    fn a_burst_then_the_rate() {
        let rate = rate(10, Duration::from_secs(1), 3);
        let bucket = Bucket::default();
        let taken = (0..5)
            .filter(|_| bucket.take(&rate, SECOND).is_ok())
            .count();
        assert_eq!(taken, 3);
        let tenth = SECOND / 10;
        assert_eq!(
            bucket.take(&rate, SECOND + tenth / 2),
            Err(Duration::from_millis(50))
        );
        assert_eq!(bucket.take(&rate, SECOND + tenth), Ok(()));
        assert!(bucket.take(&rate, SECOND + tenth).is_err());
        let taken = (0..5).filter(|_| bucket.take(&rate, 9 * SECOND).is_ok());
        assert_eq!(taken.count(), 3, "no more is saved up than a burst");
    }

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let rate = rate(1, Duration::from_secs(1), 1);
        let bucket = Bucket::default();
        assert_eq!(bucket.take(&rate, SECOND), Ok(()));
        assert!(bucket.take(&rate, SECOND).is_err());
        bucket.give_back(&rate);
        assert_eq!(bucket.take(&rate, SECOND), Ok(()));
    }

    #[test]
    fn a_bucket_is_drained_to_where_its_next_token_is() {
        let rate = rate(10, Duration::from_secs(1), 5);
        let bucket = Bucket::default();
        let lacks = Duration::from_millis(70);
        bucket.drain(rate.full_after(SECOND, lacks));
        assert_eq!(bucket.take(&rate, SECOND), Err(lacks));
        bucket.drain(0);
        assert_eq!(bucket.take(&rate, SECOND), Err(lacks));
        assert_eq!(bucket.take(&rate, later(SECOND, lacks)), Ok(()));
    }

    #[test]
    fn extremes_do_not_overflow() {
        let slow = rate(1, Duration::from_secs(24 * 3600), u32::MAX);
        let quick = rate(1_000_000_000, Duration::from_millis(1), 1);
        for rate in [slow, quick] {
            let bucket = Bucket::default();
            assert_eq!(bucket.take(&rate, u64::MAX - 1), Ok(()));
            let _ = bucket.take(&rate, u64::MAX);
        }
    }

    proptest! {
        /// In no stretch of time more than a burst and what the rate brings, and no refusal before that.
        #[test]
        fn never_more_than_the_rate_allows(
            requests in 1..50_u32,
            burst in 1..20_u32,
            pauses in prop::collection::vec(0..200_000_000_u64, 1..200),
        ) {
            let rate = rate(requests, Duration::from_secs(1), burst);
            let bucket = Bucket::default();
            let mut now = SECOND;
            let mut taken: Vec<u64> = Vec::new();
            for pause in pauses {
                now += pause;
                match bucket.take(&rate, now) {
                    Ok(()) => taken.push(now),
                    Err(lacks) => {
                        prop_assert!(taken.len() >= burst as usize);
                        let lacks = u64::try_from(lacks.as_nanos()).unwrap();
                        prop_assert!(lacks > 0 && lacks <= rate.interval);
                    }
                }
            }
            for (first, start) in taken.iter().enumerate() {
                for (last, end) in taken.iter().enumerate().skip(first) {
                    let allowed = u64::from(burst) + (end - start) / rate.interval;
                    prop_assert!((last - first + 1) as u64 <= allowed);
                }
            }
        }
    }
}
