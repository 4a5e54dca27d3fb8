//! A quantile of the latest durations, by counting them in buckets that grow with what they hold.
//!
//! Eight buckets to each power of two, so a reading is at most an eighth above the truth. Two generations of a fixed
//! length: what is counted goes into the younger, and both are read, so a reading looks back one to two lengths.

use std::time::{Duration, Instant};

/// A generation.
const LENGTH: Duration = Duration::from_secs(10);
/// With fewer there is no telling what is usual.
const LEAST_SAMPLES: u32 = 100;
const PER_OCTAVE: u32 = 8;
/// Microseconds up to 2^37, above a day.
const BUCKETS: usize = 37 * PER_OCTAVE as usize;

#[derive(Debug)]
pub struct Quantile {
    younger: Counts,
    older: Counts,
    turned: Instant,
}

#[derive(Debug, Clone)]
struct Counts {
    buckets: Box<[u32; BUCKETS]>,
    total: u32,
}

impl Counts {
    fn none() -> Self {
        Self {
            buckets: Box::new([0; BUCKETS]),
            total: 0,
        }
    }
}

impl Quantile {
    pub fn new(now: Instant) -> Self {
        Self {
            younger: Counts::none(),
            older: Counts::none(),
            turned: now,
        }
    }

    pub fn observe(&mut self, now: Instant, duration: Duration) {
        self.turn(now);
        let count = &mut self.younger.buckets[bucket(duration)];
        *count = count.saturating_add(1);
        self.younger.total = self.younger.total.saturating_add(1);
    }

    /// The duration that a share of `quantile` (0.0 to 1.0) did not exceed; None while too few were seen.
    pub fn read(&mut self, now: Instant, quantile: f64) -> Option<Duration> {
        self.turn(now);
        let total = u64::from(self.younger.total) + u64::from(self.older.total);
        if total < u64::from(LEAST_SAMPLES) {
            return None;
        }
        let wanted = (total as f64 * quantile).ceil() as u64;
        let mut passed = 0;
        let counts = self.younger.buckets.iter().zip(self.older.buckets.iter());
        for (index, (younger, older)) in counts.enumerate() {
            passed += u64::from(*younger) + u64::from(*older);
            if passed >= wanted.max(1) {
                return Some(upper_bound(index));
            }
        }
        None
    }

    fn turn(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.turned);
        if age < LENGTH {
            return;
        }
        let younger = std::mem::replace(&mut self.younger, Counts::none());
        self.older = if age < 2 * LENGTH {
            younger
        } else {
            Counts::none()
        };
        self.turned = now;
    }
}

fn bucket(duration: Duration) -> usize {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let micros = micros.max(u64::from(PER_OCTAVE));
    let octave = micros.ilog2();
    let within = (micros >> (octave - PER_OCTAVE.ilog2())) - u64::from(PER_OCTAVE);
    let index = (octave - PER_OCTAVE.ilog2()) * PER_OCTAVE + within as u32;
    (index as usize).min(BUCKETS - 1)
}

fn upper_bound(index: usize) -> Duration {
    let (octave, within) = (
        index as u32 / PER_OCTAVE,
        index as u64 % u64::from(PER_OCTAVE),
    );
    Duration::from_micros((u64::from(PER_OCTAVE) + within + 1) << octave)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn few_samples_say_nothing() {
        let now = Instant::now();
        let mut quantile = Quantile::new(now);
        for _ in 1..LEAST_SAMPLES {
            quantile.observe(now, ms(1));
        }
        assert_eq!(quantile.read(now, 0.5), None);
        quantile.observe(now, ms(1));
        assert!(quantile.read(now, 0.5).is_some());
    }

    #[test]
    fn a_reading_is_at_most_an_eighth_above() {
        let now = Instant::now();
        let mut quantile = Quantile::new(now);
        for milliseconds in 1..=1_000 {
            quantile.observe(now, ms(milliseconds));
        }
        for (share, truth) in [(0.5, 500), (0.95, 950), (0.99, 990), (1.0, 1_000), (0.0, 1)] {
            let read = quantile.read(now, share).unwrap();
            assert!(
                read >= ms(truth) && read <= ms(truth) * 9 / 8 + Duration::from_micros(1),
                "{share}: {read:?}"
            );
        }
    }

    #[test]
    fn what_is_old_is_forgotten() {
        let start = Instant::now();
        let mut quantile = Quantile::new(start);
        for _ in 0..1_000 {
            quantile.observe(start, ms(500));
        }
        let later = start + LENGTH;
        assert!(
            quantile.read(later, 0.5) >= Some(ms(500)),
            "the older generation counts"
        );
        for _ in 0..1_000 {
            quantile.observe(later, ms(1));
        }
        let latest = later + LENGTH;
        assert!(quantile.read(latest, 0.9) < Some(ms(2)));
        assert_eq!(quantile.read(latest + 3 * LENGTH, 0.9), None);
    }

    #[test]
    fn any_duration_has_a_bucket() {
        let now = Instant::now();
        let mut quantile = Quantile::new(now);
        for _ in 0..LEAST_SAMPLES {
            quantile.observe(now, Duration::MAX);
        }
        assert!(quantile.read(now, 0.5) > Some(Duration::from_secs(3600)));
        for nanos in [0, 1, 999, 7_999, 8_000, 15_999, 16_000, u64::MAX] {
            let duration = Duration::from_nanos(nanos);
            let index = bucket(duration);
            assert!(
                index == BUCKETS - 1 || upper_bound(index) > duration,
                "{nanos}"
            );
        }
    }
}
