//! How long an endpoint takes, as a function of how much is there: `time = base + slope · load`, learned from its
//! answers. Load is counted in rows, since a request of eight rows is eight times the work of a single one.
//!
//! A server with one queue and one batch at a time, a pool of threads, or a plain fast server all lie near such a
//! line; its slope is what one more row costs the ones behind it. Kept are weighted means, variance and covariance
//! of load and time (B. P. Welford's updates, 1962, with weights): each answer counts `1 − 1/MEMORY` of the one after
//! it, and fades with `FADE` besides. So a change of speed shows within some dozens of answers, and where answers
//! are rare the next few decide. Nothing needs to be configured.
//!
//! The slope is drawn from all endpoints of a cluster together, see `service_shape`: what one of them alone shows in
//! a few dozen answers is mostly noise, and whoever trusts it sends requests after the noise.
//!
//! What is not measured any more fades with `TAU`, so that an endpoint that was slow is tried again; failures add a
//! fading penalty.

use std::time::{Duration, Instant};

use super::others::OthersNow;
use super::service_shape::ServiceShape;

/// Answers that the means remember, roughly.
const MEMORY: f64 = 64.0;
/// Time constant in which an answer loses its say to newer ones.
const FADE: Duration = Duration::from_secs(1);
/// Time constant in which an old measurement loses its say altogether.
const TAU: Duration = Duration::from_secs(10);
/// Time constant in which a failure is forgotten.
const PENALTY_TAU: Duration = Duration::from_secs(3);
/// A failure counts as this many usual answers, and at least as `LEAST_PENALTY` seconds.
const PENALTY: f64 = 8.0;
const LEAST_PENALTY: f64 = 0.010;
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

/// What was measured of an endpoint, as of one moment: plain numbers for a policy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Line {
    /// Answers that it was learned from, the older ones counting less; above 0.
    pub weight: f64,
    /// Rows.
    pub mean_load: f64,
    /// Seconds.
    pub mean_time: f64,
    pub load_variance: f64,
    pub covariance: f64,
    /// Scales old measurements down, 0 to 1.
    trust: f64,
}

/// What a request may expect at an endpoint.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Expectation {
    /// Rows that this gateway would have there with the request, its own included; 1 or more.
    load: f64,
    others: OthersNow,
    /// None: nothing was measured yet.
    pub line: Option<Line>,
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

    /// An answer took `time`; `load` are the rows that this gateway had there when its request was sent, its own
    /// included.
    pub fn observe(&mut self, now: Instant, load: f64, time: Duration) {
        let time = time.as_secs_f64();
        let kept = (1.0 - 1.0 / MEMORY) * fade(now, self.measured, FADE);
        self.weight = self.weight * kept + 1.0;
        let share = 1.0 / self.weight;
        let (load_off, time_off) = (load - self.mean_load, time - self.mean_time);
        self.mean_load += share * load_off;
        self.mean_time += share * time_off;
        self.load_variance = (1.0 - share) * (self.load_variance + share * load_off * load_off);
        self.covariance = (1.0 - share) * (self.covariance + share * load_off * time_off);
        self.measured = self.measured.max(now);
    }

    /// A failure: for a while the endpoint counts as slower, whatever its answers say.
    pub fn penalize(&mut self, now: Instant) {
        self.penalty = (self.mean_time * PENALTY).max(LEAST_PENALTY);
        self.penalized = now;
    }

    /// `load`: rows that this gateway would have there with the request. `silence`: nothing was answered for so long, although
    /// requests are in flight.
    pub fn expectation(&self, now: Instant, load: f64, silence: Duration) -> Expectation {
        let line = (self.weight > 0.0).then(|| Line {
            weight: self.weight,
            mean_load: self.mean_load,
            mean_time: self.mean_time,
            load_variance: self.load_variance,
            covariance: self.covariance,
            trust: fade(now, self.measured, TAU),
        });
        let penalty = match self.penalty {
            0.0 => 0.0,
            penalty => penalty * fade(now, self.penalized, PENALTY_TAU),
        };
        Expectation {
            load: load.max(1.0),
            others: OthersNow::default(),
            line,
            penalty,
            silence: silence.as_secs_f64(),
        }
    }
}

impl Expectation {
    /// With what others have there.
    pub fn beside(self, others: OthersNow) -> Self {
        Self { others, ..self }
    }

    /// Rows that would be there with the request, as far as they are known of.
    pub fn rows(&self) -> f64 {
        self.load + self.others.rows
    }

    /// Seconds for each row that is there, by what was measured. None: nothing was.
    pub fn per_row(&self, shape: &ServiceShape) -> Option<f64> {
        let line = self.line.as_ref()?;
        let time = line.time(shape, self.load + self.others.unusual);
        Some(time / self.rows())
    }

    /// Seconds that the request would take. `typical`: seconds for each row where nothing was measured.
    ///
    /// No answer is sooner than the endpoint has been silent: a worker that hangs gets no more requests once it has
    /// been silent for longer than others take.
    pub fn time(&self, shape: &ServiceShape, typical: f64) -> f64 {
        let usual = match &self.line {
            // What others usually have there is in its times.
            Some(line) => line.time(shape, self.load + self.others.unusual),
            None => typical * self.rows(),
        };
        usual.max(self.silence) + self.penalty
    }
}

impl Line {
    /// Seconds for a request that makes it `load` rows.
    fn time(&self, shape: &ServiceShape, load: f64) -> f64 {
        let time = self.mean_time + shape.slope(self) * (load - self.mean_load);
        time.max(self.mean_time * LEAST_SHARE) * self.trust
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
            let load = f64::from(number % 12 + 1);
            line.observe(now, load, seconds(time(load)));
        }
        line
    }

    /// By its own answers alone.
    fn expected_ms(line: &ServiceLine, now: Instant, load: f64) -> f64 {
        expected_after(line, now, load, Duration::ZERO)
    }

    fn expected_after(line: &ServiceLine, now: Instant, load: f64, silence: Duration) -> f64 {
        let expectation = line.expectation(now, load, silence);
        let shape = ServiceShape::of(expectation.line.iter());
        expectation.time(&shape, 0.0) * 1e3
    }

    #[test]
    fn finds_the_line_behind_the_answers() {
        let now = Instant::now();
        let line = fitted(now, 240, |load| 8.0 + 3.0 * load);
        for load in [1.0, 6.0, 31.0] {
            let want = 8.0 + 3.0 * load;
            let got = expected_ms(&line, now, load);
            assert!(
                (got - want).abs() < 0.05 * want,
                "{load}: {got} instead of {want}"
            );
        }
    }

    #[test]
    fn a_change_of_speed_shows_within_dozens_of_answers() {
        let now = Instant::now();
        let mut line = fitted(now, 240, |load| 8.0 + 3.0 * load);
        for number in 0..128_u32 {
            let load = f64::from(number % 12 + 1);
            line.observe(now, load, seconds(4.0 * (8.0 + 3.0 * load)));
        }
        let got = expected_ms(&line, now, 6.0);
        assert!((85.0..=110.0).contains(&got), "{got} is far from 104");
    }

    #[test]
    fn where_answers_are_rare_a_few_new_ones_decide() {
        let start = Instant::now();
        let mut line = fitted(start, 64, |_| 80.0);
        for second in 1..=5 {
            line.observe(start + second * FADE, 1.0, seconds(20.0));
        }
        let got = expected_ms(&line, start + 5 * FADE, 1.0);
        assert!(got < 40.0, "{got}");
    }

    #[test]
    fn one_load_only_still_tells_that_more_takes_longer() {
        let now = Instant::now();
        let mut line = ServiceLine::new(now);
        for _ in 0..50 {
            line.observe(now, 1.0, seconds(10.0));
        }
        assert!((expected_ms(&line, now, 1.0) - 10.0).abs() < 1e-6);
        assert!(expected_ms(&line, now, 5.0) > 20.0);
    }

    #[test]
    fn what_is_old_fades_and_so_does_a_failure() {
        let now = Instant::now();
        let mut line = fitted(now, 24, |_| 100.0);
        let fresh = expected_ms(&line, now, 1.0);
        let old = expected_ms(&line, now + TAU, 1.0);
        assert!((old / fresh - (-1.0_f64).exp()).abs() < 1e-9);
        line.penalize(now);
        assert!(
            expected_ms(&line, now, 1.0) > 800.0,
            "eight times a hundred, on top"
        );
        assert!(expected_ms(&line, now + 10 * TAU, 1.0) < 10.0);
    }

    #[test]
    fn nothing_measured_is_what_is_typical_and_a_failure_counts() {
        let now = Instant::now();
        let mut line = ServiceLine::new(now);
        let shape = ServiceShape::of(std::iter::empty());
        let time = |line: &ServiceLine| {
            let expectation = line.expectation(now, 4.0, Duration::ZERO);
            assert_eq!(expectation.line, None);
            expectation.time(&shape, 0.002)
        };
        assert_eq!(time(&line), 0.008);
        line.penalize(now);
        assert!(time(&line) >= 0.008 + LEAST_PENALTY);
    }

    #[test]
    fn silence_counts_once_it_is_longer_than_an_answer_takes() {
        let now = Instant::now();
        let line = fitted(now, 240, |_| 50.0);
        let usual = expected_ms(&line, now, 4.0);
        assert_eq!(expected_after(&line, now, 4.0, seconds(20.0)), usual);
        assert_eq!(expected_after(&line, now, 4.0, seconds(400.0)), 400.0);
    }

    #[test]
    fn what_is_unusual_among_others_counts_like_own_rows() {
        let now = Instant::now();
        let line = fitted(now, 240, |load| 8.0 + 3.0 * load);
        let time = |load, others| {
            let expectation = line.expectation(now, load, Duration::ZERO).beside(others);
            let shape = ServiceShape::of(expectation.line.iter());
            (expectation.time(&shape, 0.0), expectation.per_row(&shape))
        };
        let usual = OthersNow {
            rows: 20.0,
            unusual: 0.0,
        };
        let crowded = OthersNow {
            rows: 24.0,
            unusual: 4.0,
        };
        let alone = time(6.0, OthersNow::default());
        assert_eq!(time(6.0, usual).0, alone.0);
        assert_eq!(time(6.0, crowded).0, time(10.0, OthersNow::default()).0);
        assert!(time(6.0, usual).1 < alone.1, "more rows in the same time");
        let new = ServiceLine::new(now).expectation(now, 1.0, Duration::ZERO);
        let shape = ServiceShape::of(std::iter::empty());
        assert_eq!(new.beside(usual).time(&shape, 0.001), 0.021);
    }

    #[test]
    fn noise_never_promises_less_than_nothing() {
        let now = Instant::now();
        let line = fitted(now, 48, |load| 50.0 - 4.0 * load);
        assert!(expected_ms(&line, now, 1_000.0) > 0.0);
        let mut extreme = ServiceLine::new(now);
        extreme.observe(now, f64::from(u32::MAX), Duration::ZERO);
        extreme.observe(now, 1.0, Duration::from_secs(u64::from(u32::MAX)));
        assert!(expected_ms(&extreme, now, 1.0).is_finite());
    }
}
