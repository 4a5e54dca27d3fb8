//! Soonest expected finish: the candidate where this request should be answered first, by what each endpoint's answers
//! have shown of it (`traffic::service_line`), by what all of them show together (`traffic::service_shape`), and by
//! the rows that are there now: this gateway's own, and of others what workers report beyond the usual
//! (`traffic::others`).
//!
//! Needs no tuning: a slower worker has a steeper line, a batching one a flatter one. What has not
//! answered yet counts like the fastest of those that have; while none has, fewest rows decide. Weights
//! divide the expected time.
//!
//! An endpoint with requests in flight that answers nothing is expected to take at least as long as it has been
//! silent, so one that hangs loses the traffic before any timeout fires.
//!
//! All candidates are compared, and what this gateway has in flight is counted exactly, so each choice sees the
//! one before it and none of them herds. Reports are no need: without them the lines alone decide.

use std::cmp::Ordering;

use super::{Candidate, Policy, sample};
use crate::traffic::service_line::Line;
use crate::traffic::service_shape::ServiceShape;

/// Estimates are compared with this much play: equal workers share light load instead of taking turns at being a
/// hair faster.
const BLUR: f64 = 0.2;
/// Seconds of play at least: what a first request pays for its connection must not keep others away for long.
const LEAST_PLAY: f64 = 0.003;

pub struct LeastWork;

impl Policy for LeastWork {
    fn choose(&self, candidates: &[Candidate], random: u64) -> Option<usize> {
        let Some(known) = Known::of(candidates) else {
            return sample::least(candidates, random, by_rows);
        };
        let time = |candidate: &Candidate| {
            let play = play(candidate, random);
            known.time(candidate) * (1.0 + BLUR * play) + LEAST_PLAY * play
        };
        // Play leaves no ties to be broken.
        let times = candidates.iter().map(time).enumerate();
        let soonest = times.min_by(|(_, a), (_, b)| a.total_cmp(b));
        soonest.map(|(position, _)| position)
    }
}

/// What the candidates show together.
struct Known {
    shape: ServiceShape,
    /// What an endpoint without answers is taken for: seconds for each row that is there.
    per_row: f64,
}

impl Known {
    /// None: nothing was measured of any candidate.
    fn of(candidates: &[Candidate]) -> Option<Self> {
        let shape = ServiceShape::of(candidates.iter().filter_map(line));
        let per_row = candidates
            .iter()
            .filter_map(|candidate| candidate.expectation.as_ref()?.per_row(&shape));
        let per_row = per_row.min_by(f64::total_cmp)?;
        Some(Self { shape, per_row })
    }

    fn time(&self, candidate: &Candidate) -> f64 {
        let time = match &candidate.expectation {
            Some(expectation) => expectation.time(&self.shape, self.per_row),
            None => self.per_row * (f64::from(candidate.active) + 1.0),
        };
        time / candidate.share() as f64
    }
}

fn line(candidate: &Candidate) -> Option<&Line> {
    candidate.expectation.as_ref()?.line.as_ref()
}

/// Between 0 and 1, different for each candidate and call.
fn play(candidate: &Candidate, random: u64) -> f64 {
    // SplitMix64's finalizer (Steele, Lea, Flood, 2014), so that neighbouring indexes get unrelated numbers.
    let mut mixed =
        random.wrapping_add((candidate.index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed >> 32) as f64 / f64::from(u32::MAX)
}

fn by_rows(a: &Candidate, b: &Candidate) -> Ordering {
    let rows = |candidate: &Candidate| {
        let rows = match &candidate.expectation {
            Some(expectation) => expectation.rows(),
            None => f64::from(candidate.active) + 1.0,
        };
        rows / candidate.share() as f64
    };
    rows(a).total_cmp(&rows(b))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::traffic::service_line::ServiceLine;

    /// What answers say that took `base_ms + slope_ms · load`.
    fn line(base_ms: f64, slope_ms: f64) -> Option<ServiceLine> {
        let now = Instant::now();
        let mut line = ServiceLine::new(now);
        for number in 0..240_u32 {
            let load = f64::from(number % 12 + 1);
            let time = (base_ms + slope_ms * load) / 1e3;
            line.observe(now, load, Duration::from_secs_f64(time));
        }
        Some(line)
    }

    /// With so many requests of a row each.
    fn candidate(index: usize, active: u32, line: Option<ServiceLine>) -> Candidate {
        let now = Instant::now();
        let load = f64::from(active) + 1.0;
        Candidate {
            index,
            weight: 1,
            active,
            cost: 0.03,
            expectation: line.map(|line| line.expectation(now, load, Duration::ZERO)),
        }
    }

    #[test]
    fn a_slow_endpoint_is_used_once_the_fast_ones_are_deep_enough() {
        let (fast, slow) = (line(8.0, 3.0), line(32.0, 12.0));
        let choice = |active| {
            LeastWork
                .choose(
                    &[
                        candidate(0, active, fast.clone()),
                        candidate(1, 0, slow.clone()),
                    ],
                    0,
                )
                .unwrap()
        };
        assert_eq!(choice(0), 0);
        assert_eq!(
            choice(8),
            0,
            "8 + 3 · 9 = 35 ms is sooner than 44, play included"
        );
        assert_eq!(choice(20), 1, "8 + 3 · 21 = 71 ms is later than 44");
    }

    #[test]
    fn estimates_a_hair_apart_share_light_load() {
        let candidates = [
            candidate(0, 0, line(10.0, 3.0)),
            candidate(1, 0, line(10.4, 3.1)),
        ];
        let mut state = 7;
        let second = (0..1_000)
            .filter(|_| {
                let random = crate::traffic::balance::tests::next(&mut state);
                LeastWork.choose(&candidates, random) == Some(1)
            })
            .count();
        assert!((250..=500).contains(&second), "{second} of 1000");
    }

    #[test]
    fn without_answers_fewest_rows_decide() {
        let new = || Some(ServiceLine::new(Instant::now()));
        let candidates = [
            candidate(0, 2, new()),
            candidate(1, 1, None),
            candidate(2, 3, new()),
        ];
        assert_eq!(LeastWork.choose(&candidates, 9), Some(1));
    }

    #[test]
    fn a_newcomer_counts_like_the_others() {
        let known = line(0.0, 10.0);
        let new = || Some(ServiceLine::new(Instant::now()));
        let candidates = [candidate(0, 3, known.clone()), candidate(1, 0, new())];
        assert_eq!(LeastWork.choose(&candidates, 0), Some(1));
        let candidates = [candidate(0, 0, known), candidate(1, 5, new())];
        assert_eq!(
            LeastWork.choose(&candidates, 0),
            Some(0),
            "and not like an empty one for ever"
        );
    }
}
