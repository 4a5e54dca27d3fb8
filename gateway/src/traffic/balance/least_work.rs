//! Soonest expected finish: the candidate where this request should be answered first, by the line that each
//! endpoint's answers were fitted to (`traffic::service_line`) and by what is in flight there now.
//!
//! Needs no reports and no tuning: a slower worker has a steeper line, a batching one a flatter one. What has not
//! answered yet counts like the fastest of those that have; while none has, fewest in flight decides. Weights
//! divide the expected time.
//!
//! An endpoint with requests in flight that answers nothing is expected to take at least as long as it has been
//! silent, so one that hangs loses the traffic before any timeout fires.
//!
//! All candidates are compared, and the in-flight counts are this gateway's own and exact, so each choice sees the
//! one before it and none of them herds.

use std::cmp::Ordering;

use super::{Candidate, Policy, sample};

/// Estimates are compared with this much play: equal workers share light load instead of taking turns at being a
/// hair faster.
const BLUR: f64 = 0.2;
/// Seconds of play at least: what a first request pays for its connection must not keep others away for long.
const LEAST_PLAY: f64 = 0.003;

pub struct LeastWork;

impl Policy for LeastWork {
    fn choose(&self, candidates: &[Candidate], random: u64) -> Option<usize> {
        let Some(typical) = Typical::of(candidates) else {
            return sample::least(candidates, random, by_count);
        };
        let time = |candidate: &Candidate| {
            let play = play(candidate, random);
            typical.time(candidate) * (1.0 + BLUR * play) + LEAST_PLAY * play
        };
        sample::least(candidates, random, |a, b| time(a).total_cmp(&time(b)))
    }
}

/// What an endpoint without answers is taken for.
struct Typical {
    /// Seconds for each request in flight, the new one included.
    per_request: f64,
}

impl Typical {
    /// None: nothing is known of any candidate.
    fn of(candidates: &[Candidate]) -> Option<Self> {
        let known = candidates.iter().filter_map(|candidate| {
            let expected = candidate.expectation?.time(candidate.active);
            Some(expected / (f64::from(candidate.active) + 1.0))
        });
        known
            .min_by(f64::total_cmp)
            .map(|per_request| Self { per_request })
    }

    fn time(&self, candidate: &Candidate) -> f64 {
        let time = match &candidate.expectation {
            Some(expectation) => expectation.time(candidate.active),
            None => self.per_request * (f64::from(candidate.active) + 1.0),
        };
        time / candidate.share() as f64
    }
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

fn by_count(a: &Candidate, b: &Candidate) -> Ordering {
    let load = |c: &Candidate| (u64::from(c.active) + 1, c.share());
    let ((a, a_share), (b, b_share)) = (load(a), load(b));
    (u128::from(a) * u128::from(b_share)).cmp(&(u128::from(b) * u128::from(a_share)))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::traffic::service_line::{Expectation, ServiceLine};

    fn line(base_ms: f64, slope_ms: f64) -> Option<Expectation> {
        let now = Instant::now();
        let mut line = ServiceLine::new(now);
        for number in 0..240_u32 {
            let load = number % 12 + 1;
            let time = (base_ms + slope_ms * f64::from(load)) / 1e3;
            line.observe(now, load, Duration::from_secs_f64(time));
        }
        line.expectation(now)
    }

    fn candidate(index: usize, active: u32, expectation: Option<Expectation>) -> Candidate {
        Candidate {
            index,
            weight: 1,
            active,
            cost: 0.03,
            expectation,
        }
    }

    #[test]
    fn a_slow_endpoint_is_used_once_the_fast_ones_are_deep_enough() {
        let (fast, slow) = (line(8.0, 3.0), line(32.0, 12.0));
        let choice = |active| {
            LeastWork
                .choose(&[candidate(0, active, fast), candidate(1, 0, slow)], 0)
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
    fn without_answers_fewest_in_flight_decides() {
        let candidates = [
            candidate(0, 2, None),
            candidate(1, 1, None),
            candidate(2, 3, None),
        ];
        assert_eq!(LeastWork.choose(&candidates, 9), Some(1));
    }

    #[test]
    fn a_newcomer_counts_like_the_others() {
        let known = line(0.0, 10.0);
        let candidates = [candidate(0, 3, known), candidate(1, 0, None)];
        assert_eq!(LeastWork.choose(&candidates, 0), Some(1));
        let candidates = [candidate(0, 0, known), candidate(1, 5, None)];
        assert_eq!(
            LeastWork.choose(&candidates, 0),
            Some(0),
            "and not like an empty one for ever"
        );
    }
}
