//! How long an endpoint takes, as a function of how much is in flight there: `time = base + slope · in_flight`,
//! learned from its answers.
//!
//! A server with one queue and one batch at a time, a pool of threads, or a plain fast server all lie near such a
//! line; its slope is what one more request costs the ones behind it. It is fitted by weighted least squares over
//! the last answers, each counting `1 − 1/MEMORY` of the one after it, so a change of speed shows within some
//! dozens of answers. Nothing needs to be configured.
//!
//! Two additions keep it honest. Where all answers came at the same load the slope cannot be seen: a weak prior
//! (half the mean time per mean load) stands in, and counts as much as one answer. And what is not measured any
//! more fades with `TAU`, so that an endpoint that was slow is tried again; failures add a fading penalty.

use std::time::{Duration, Instant};

/// Answers that the fit remembers, roughly.
const MEMORY: f64 = 64.0;
/// Time constant in which an old measurement loses its say.
const TAU: Duration = Duration::from_secs(10);
/// Time constant in which a failure is forgotten.
const PENALTY_TAU: Duration = Duration::from_secs(3);
/// A failure counts as this many usual answers, and at least as `LEAST_PENALTY` seconds.
const PENALTY: f64 = 8.0;
const LEAST_PENALTY: f64 = 0.010;
/// Weight of the prior slope, in answers that are one request of load away from the mean.
const PRIOR: f64 = 1.0;
/// Least estimate, as a share of the mean time: a line fitted through noise must not promise nothing.
const LEAST_SHARE: f64 = 0.1;

#[derive(Debug, Clone)]
pub struct ServiceLine {
    /// Sum of weights; 0: nothing measured yet.
    weight: f64,
    mean_load: f64,
    mean_time: f64,
    load_variance: f64,
    covariance: f64,
    measured: Instant,
    penalty: f64,
    penalized: Instant,
}

/// A line as of one moment: plain numbers for a policy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Expectation {
    /// Seconds.
    base: f64,
    /// Seconds for each request in flight.
    slope: f64,
    /// Seconds.
    least: f64,
    /// Scales old measurements down, 0 to 1.
    trust: f64,
    /// Seconds on top, after failures.
    penalty: f64,
    /// Seconds without any answer while requests are in flight.
    silence: f64,
}

impl ServiceLine {
    pub fn new(now: Instant) -> Self {
        Self {
            weight: 0.0,
            mean_load: 0.0,
            mean_time: 0.0,
            load_variance: 0.0,
            covariance: 0.0,
            measured: now,
            penalty: 0.0,
            penalized: now,
        }
    }

    /// An answer took `time`; `load` counts what was in flight when it was sent, itself included.
    pub fn observe(&mut self, now: Instant, load: u32, time: Duration) {
        let (load, time) = (f64::from(load), time.as_secs_f64());
        let kept = 1.0 - 1.0 / MEMORY;
        self.weight = self.weight * kept + 1.0;
        let share = 1.0 / self.weight;
        let (load_off, time_off) = (load - self.mean_load, time - self.mean_time);
        self.mean_load += share * load_off;
        self.mean_time += share * time_off;
        self.load_variance = (1.0 - share) * (self.load_variance + share * load_off * load_off);
        self.covariance = (1.0 - share) * (self.covariance + share * load_off * time_off);
        self.measured = now;
    }

    /// A failure: for a while the endpoint counts as slower, whatever its answers say.
    pub fn penalize(&mut self, now: Instant) {
        self.penalty = (self.mean_time * PENALTY).max(LEAST_PENALTY);
        self.penalized = now;
    }

    /// None: nothing was measured yet.
    pub fn expectation(&self, now: Instant) -> Option<Expectation> {
        if self.weight == 0.0 {
            return (self.penalty > 0.0).then(|| Expectation {
                base: 0.0,
                slope: 0.0,
                least: 0.0,
                trust: 1.0,
                penalty: self.fading_penalty(now),
                silence: 0.0,
            });
        }
        let prior = 0.5 * self.mean_time / self.mean_load.max(1.0);
        let weighted = self.load_variance * self.weight;
        let slope = (self.covariance * self.weight + PRIOR * prior) / (weighted + PRIOR);
        let slope = slope.max(0.0);
        Some(Expectation {
            base: self.mean_time - slope * self.mean_load,
            slope,
            least: self.mean_time * LEAST_SHARE,
            trust: fade(now, self.measured, TAU),
            penalty: self.fading_penalty(now),
            silence: 0.0,
        })
    }

    fn fading_penalty(&self, now: Instant) -> f64 {
        if self.penalty == 0.0 {
            return 0.0;
        }
        self.penalty * fade(now, self.penalized, PENALTY_TAU)
    }
}

impl Expectation {
    /// Nothing was answered for so long, although requests are in flight: no answer is sooner than that. A worker
    /// that hangs gets no more requests once it has been silent for longer than others take.
    pub fn after_silence(self, silence: Duration) -> Self {
        Self {
            silence: silence.as_secs_f64(),
            ..self
        }
    }

    /// Seconds that a request sent now would take, with `active` others in flight there.
    pub fn time(&self, active: u32) -> f64 {
        let line = self.base + self.slope * (f64::from(active) + 1.0);
        (line.max(self.least) * self.trust).max(self.silence) + self.penalty
    }
}

fn fade(now: Instant, since: Instant, tau: Duration) -> f64 {
    let age = now.saturating_duration_since(since);
    (-age.as_secs_f64() / tau.as_secs_f64()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(milliseconds: f64) -> Duration {
        Duration::from_secs_f64(milliseconds / 1e3)
    }

    /// A line fitted to `time(load)` in milliseconds, over loads 1 to 12 again and again.
    fn fitted(now: Instant, answers: u32, time: impl Fn(f64) -> f64) -> ServiceLine {
        let mut line = ServiceLine::new(now);
        for number in 0..answers {
            let load = number % 12 + 1;
            line.observe(now, load, seconds(time(f64::from(load))));
        }
        line
    }

    fn expected_ms(line: &ServiceLine, now: Instant, active: u32) -> f64 {
        line.expectation(now).unwrap().time(active) * 1e3
    }

    #[test]
    fn finds_the_line_behind_the_answers() {
        let now = Instant::now();
        let line = fitted(now, 240, |load| 8.0 + 3.0 * load);
        for active in [0, 5, 30] {
            let want = 8.0 + 3.0 * (f64::from(active) + 1.0);
            let got = expected_ms(&line, now, active);
            assert!(
                (got - want).abs() < 0.05 * want,
                "{active}: {got} instead of {want}"
            );
        }
    }

    #[test]
    fn a_change_of_speed_shows_within_dozens_of_answers() {
        let now = Instant::now();
        let mut line = fitted(now, 240, |load| 8.0 + 3.0 * load);
        for number in 0..128_u32 {
            let load = number % 12 + 1;
            line.observe(now, load, seconds(4.0 * (8.0 + 3.0 * f64::from(load))));
        }
        let got = expected_ms(&line, now, 5);
        assert!((85.0..=110.0).contains(&got), "{got} is far from 104");
    }

    #[test]
    fn one_load_only_still_tells_that_more_takes_longer() {
        let now = Instant::now();
        let mut line = ServiceLine::new(now);
        for _ in 0..50 {
            line.observe(now, 1, seconds(10.0));
        }
        assert!((expected_ms(&line, now, 0) - 10.0).abs() < 1e-6);
        assert!(expected_ms(&line, now, 4) > 20.0);
    }

    #[test]
    fn what_is_old_fades_and_so_does_a_failure() {
        let now = Instant::now();
        let mut line = fitted(now, 24, |_| 100.0);
        let fresh = expected_ms(&line, now, 0);
        let old = expected_ms(&line, now + TAU, 0);
        assert!((old / fresh - (-1.0_f64).exp()).abs() < 1e-9);
        line.penalize(now);
        assert!(
            expected_ms(&line, now, 0) > 800.0,
            "eight times a hundred, on top"
        );
        assert!(expected_ms(&line, now + 10 * TAU, 0) < 10.0);
    }

    #[test]
    fn nothing_measured_is_nothing_known_unless_it_failed() {
        let now = Instant::now();
        let mut line = ServiceLine::new(now);
        assert_eq!(line.expectation(now), None);
        line.penalize(now);
        assert!(line.expectation(now).unwrap().time(0) >= LEAST_PENALTY);
    }

    #[test]
    fn silence_counts_once_it_is_longer_than_an_answer_takes() {
        let now = Instant::now();
        let expectation = fitted(now, 240, |_| 50.0).expectation(now).unwrap();
        let usual = expectation.time(3);
        assert_eq!(expectation.after_silence(seconds(20.0)).time(3), usual);
        assert_eq!(expectation.after_silence(seconds(400.0)).time(3), 0.4);
    }

    #[test]
    fn noise_never_promises_less_than_nothing() {
        let now = Instant::now();
        let line = fitted(now, 48, |load| 50.0 - 4.0 * load);
        assert!(expected_ms(&line, now, 1_000) > 0.0);
    }
}
