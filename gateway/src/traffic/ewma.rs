//! Peak-sensitive moving average of an endpoint's response time.
//!
//! A sample above the average replaces it at once, so that a slow endpoint is left at the first sign; below it
//! the average follows with `α = 1 − e^(−Δt/τ)`, where Δt is the time since the last sample (Finagle's
//! "Peak EWMA"). Reading decays as well: an endpoint that is avoided gets no samples, and without decay at read
//! time it would be avoided for ever. The decay goes towards zero, so after about `τ · ln(cost/others)` it wins
//! again and a real sample decides.
//!
//! That holds for the first value too: one that starts with 30 ms beside others at 2 ms waits `τ · ln 15` for its
//! first request unless the others are busy, so a shell that knows the cluster's usual cost should start with it.

use std::time::{Duration, Instant};

/// Seconds, decaying.
#[derive(Debug, Clone, Copy)]
pub struct PeakEwma {
    /// Seconds; above zero.
    tau: f64,
    /// Seconds, as of `stamp`.
    cost: f64,
    stamp: Instant,
}

impl PeakEwma {
    /// A `tau` of zero means no memory: every value is gone at the next instant.
    pub fn new(tau: Duration, initial: Duration, now: Instant) -> Self {
        Self {
            tau: tau.as_secs_f64().max(f64::MIN_POSITIVE),
            cost: initial.as_secs_f64(),
            stamp: now,
        }
    }

    /// A response that took `sample`.
    pub fn observe(&mut self, now: Instant, sample: Duration) {
        let sample = sample.as_secs_f64();
        let kept = self.kept(now);
        let decayed = self.cost * kept;
        self.set(
            now,
            if sample > decayed {
                sample
            } else {
                decayed + sample * (1.0 - kept)
            },
        );
    }

    /// A failure, which is to look at least as slow as `penalty`: a fast failure must not look like a fast answer.
    pub fn penalize(&mut self, now: Instant, penalty: Duration) {
        let decayed = self.get(now);
        self.set(now, decayed.max(penalty.as_secs_f64()));
    }

    /// Seconds, decayed to `now`.
    pub fn get(&self, now: Instant) -> f64 {
        self.cost * self.kept(now)
    }

    /// The share of the stored cost that is left at `now`. Instants read by different threads may arrive out of
    /// order: an earlier one decays nothing.
    fn kept(&self, now: Instant) -> f64 {
        (-now.saturating_duration_since(self.stamp).as_secs_f64() / self.tau).exp()
    }

    fn set(&mut self, now: Instant, cost: f64) {
        self.cost = cost;
        self.stamp = self.stamp.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAU: Duration = Duration::from_secs(10);

    fn near(actual: f64, expected: f64) {
        assert!(
            (actual - expected).abs() <= 1e-9 * expected.max(1.0),
            "{actual} is not {expected}"
        );
    }

    #[test]
    fn a_peak_replaces_the_average_at_once() {
        let start = Instant::now();
        let mut ewma = PeakEwma::new(TAU, Duration::from_millis(30), start);
        near(ewma.get(start), 0.030);
        ewma.observe(start, Duration::from_millis(200));
        near(ewma.get(start), 0.200);
    }

    #[test]
    fn lower_samples_are_approached_with_the_time_constant() {
        let start = Instant::now();
        let mut ewma = PeakEwma::new(TAU, Duration::from_secs(1), start);
        ewma.observe(start + TAU, Duration::from_millis(100));
        let kept = (-1.0_f64).exp();
        near(ewma.get(start + TAU), kept + 0.1 * (1.0 - kept));
    }

    #[test]
    fn samples_at_the_same_instant_do_not_lower_it() {
        let start = Instant::now();
        let mut ewma = PeakEwma::new(TAU, Duration::from_secs(1), start);
        ewma.observe(start, Duration::from_millis(1));
        near(ewma.get(start), 1.0);
    }

    #[test]
    fn reading_decays_without_samples() {
        let start = Instant::now();
        let mut ewma = PeakEwma::new(TAU, Duration::from_millis(2), start);
        ewma.penalize(start, Duration::from_secs(5));
        near(ewma.get(start), 5.0);
        near(ewma.get(start + 3 * TAU), 5.0 * (-3.0_f64).exp());
        assert!(
            ewma.get(start + 9 * TAU) < 0.002,
            "an avoided endpoint becomes attractive again"
        );
    }

    #[test]
    fn a_steady_endpoint_keeps_its_cost() {
        let start = Instant::now();
        let mut ewma = PeakEwma::new(TAU, Duration::from_millis(30), start);
        for second in 0..120 {
            ewma.observe(
                start + Duration::from_secs(second),
                Duration::from_millis(20),
            );
        }
        let cost = ewma.get(start + Duration::from_secs(119));
        assert!((0.020..0.021).contains(&cost), "{cost}");
    }

    #[test]
    fn a_penalty_never_lowers_the_cost() {
        let start = Instant::now();
        let mut ewma = PeakEwma::new(TAU, Duration::from_secs(30), start);
        ewma.penalize(start, Duration::from_secs(5));
        near(ewma.get(start), 30.0);
    }

    #[test]
    fn instants_out_of_order_do_no_harm() {
        let start = Instant::now();
        let later = start + TAU;
        let mut ewma = PeakEwma::new(TAU, Duration::ZERO, start);
        ewma.observe(later, Duration::from_secs(1));
        ewma.observe(start, Duration::from_millis(1));
        near(ewma.get(start), 1.0);
        near(ewma.get(later + TAU), (-1.0_f64).exp());
    }

    #[test]
    fn extremes_stay_finite() {
        let start = Instant::now();
        let mut ewma = PeakEwma::new(Duration::ZERO, Duration::MAX, start);
        assert!(ewma.get(start).is_finite());
        near(ewma.get(start + Duration::from_secs(1)), 0.0);
        ewma.observe(start + Duration::from_secs(1), Duration::MAX);
        assert!(ewma.get(start + Duration::from_secs(1)).is_finite());
    }
}
