//! What the endpoints of a cluster have in common: how answer time grows with load, apart from how fast each is.
//!
//! Workers that serve the same thing are alike but for their speed: `time = speed · (offset + load)`, with one `offset`
//! for all of them and a `speed` for each. The offset (the load at which time has doubled over an empty endpoint's) is
//! seen in the answers of all endpoints together, so that each of them only has to show its speed. That takes few
//! answers: a slope fitted to each alone sends requests after its noise, and one that is seldom used shows none.
//!
//! An endpoint of another kind than the rest bends away from that with the evidence: its own slope counts by how much
//! its load varied, against `OTHERS` times as much as is usual in the cluster (shrinkage, as in empirical Bayes).

use super::service_line::Line;

/// Where all answers came at the same load the slope cannot be seen: half the mean time per mean load stands in, and
/// counts as much as one answer that is so far off the mean load, as a share of it.
const PRIOR_SLOPE: f64 = 0.5;
const PRIOR_SPREAD: f64 = 0.15;
/// The common slope counts like this many times the usual variance of load.
const OTHERS: f64 = 3.0;
/// Least slope of relative time, for each row: above nothing.
const FLATTEST: f64 = 1e-9;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ServiceShape {
    /// Rows; at least 0.
    offset: f64,
    /// Of load, within endpoints.
    variance: f64,
}

impl ServiceShape {
    pub fn of<'a>(lines: impl Iterator<Item = &'a Line>) -> Self {
        let (mut weight, mut load) = (0.0, 0.0);
        // Of time relative to each endpoint's mean; the load is weighted by what it says about the slope.
        let (mut covariance, mut variance, mut at) = (0.0, 0.0, 0.0);
        for line in lines {
            weight += line.weight;
            load += line.weight * line.mean_load;
            covariance += line.weight * line.covariance / line.mean_time.max(f64::MIN_POSITIVE);
            variance += line.weight * line.load_variance;
            at += line.weight * line.load_variance * line.mean_load;
        }
        if weight <= 0.0 {
            return Self {
                offset: 0.0,
                variance: 0.0,
            };
        }
        let mean = (load / weight).max(1.0);
        let prior = (PRIOR_SPREAD * mean).powi(2);
        let slope = (covariance + prior * PRIOR_SLOPE / mean) / (variance + prior);
        let at = (at + prior * mean) / (variance + prior);
        Self {
            offset: (1.0 / slope.max(FLATTEST) - at).max(0.0),
            variance: variance / weight,
        }
    }

    /// Seconds for one more row at this endpoint; at least 0.
    pub fn slope(&self, line: &Line) -> f64 {
        let common = line.mean_time / (self.offset + line.mean_load).max(1.0);
        let others = OTHERS * self.variance;
        let evidence = line.load_variance + others;
        if evidence <= 0.0 {
            return common;
        }
        ((line.covariance + others * common) / evidence).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::traffic::service_line::ServiceLine;

    /// Answers in `time(load)` milliseconds at these loads.
    fn line(loads: &[u32], time: impl Fn(f64) -> f64) -> Line {
        let now = Instant::now();
        let mut line = ServiceLine::new(now);
        for load in loads.iter().cycle().take(120) {
            let load = f64::from(*load);
            line.observe(now, load, Duration::from_secs_f64(time(load) / 1e3));
        }
        line.expectation(now, 1.0, Duration::ZERO).line.unwrap()
    }

    fn near(actual: f64, expected: f64) {
        assert!(
            (actual - expected).abs() <= 0.03 * expected,
            "{actual} is far from {expected}"
        );
    }

    #[test]
    fn an_endpoint_with_one_load_has_the_slope_of_its_kind_at_its_own_speed() {
        let fast = line(&[1, 4, 8, 12], |load| 8.0 + 3.0 * load);
        let slow = line(&[1], |load| 4.0 * (8.0 + 3.0 * load));
        let shape = ServiceShape::of([fast, slow].iter());
        near(shape.slope(&fast), 0.003);
        near(shape.slope(&slow), 0.012);
    }

    #[test]
    fn an_endpoint_of_another_kind_has_its_say_by_what_it_shows() {
        let usual = line(&[6, 7, 8], |load| 8.0 + 3.0 * load);
        let parallel = line(&[4, 40], |_| 20.0);
        let shape = ServiceShape::of([usual, usual, usual, parallel].iter());
        let slope = shape.slope(&parallel);
        let alike = 0.020 / (8.0 / 3.0 + 22.0);
        assert!(slope < alike / 2.0, "{slope} against {alike}");
        assert!(shape.slope(&usual) > 0.0);
    }

    #[test]
    fn nothing_known_and_nothing_alike_stay_finite() {
        assert_eq!(ServiceShape::of([].iter()).offset, 0.0);
        let flat = line(&[1, 9], |_| 5.0);
        let shape = ServiceShape::of([flat].iter());
        assert!(shape.slope(&flat) < 0.000_01);
        let falling = line(&[1, 9], |load| 50.0 - load);
        let shape = ServiceShape::of([falling].iter());
        assert!(shape.slope(&falling) >= 0.0 && shape.slope(&falling).is_finite());
        let free = line(&[3], |_| 0.0);
        let shape = ServiceShape::of([free].iter());
        assert_eq!(shape.slope(&free), 0.0);
    }
}
