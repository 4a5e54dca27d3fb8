//! Least expected wait: the candidate with the least `cost · (active + 1) / weight`, where cost is the peak EWMA
//! of its response time (Finagle's and linkerd's balancer).
//!
//! Up to `FULL_SCAN` candidates all are compared, ties broken at random: in a fleet of four, the better of two drawn
//! still sends one request in six to the two worst when both are drawn. Above that, power of two choices: costs are
//! as old as each endpoint's last answer, and comparing all of them would make every request until the next answer
//! rush to the one that looks best.
//!
//! A cost below `LEAST_COST` counts as that much. Costs decay towards zero while nothing is measured; the floor
//! keeps the requests in flight in the product, so endpoints long idle share the first burst.

use std::cmp::Ordering;

use super::{Candidate, Policy, sample};

const FULL_SCAN: usize = 8;
/// Seconds.
const LEAST_COST: f64 = 1e-6;

pub struct PeakEwma;

impl Policy for PeakEwma {
    fn choose(&self, candidates: &[Candidate], random: u64) -> Option<usize> {
        if candidates.len() <= FULL_SCAN {
            return sample::least(candidates, random, by_wait);
        }
        let (first, second) = sample::pair(candidates, random)?;
        Some(
            if by_wait(&candidates[second], &candidates[first]).is_lt() {
                second
            } else {
                first
            },
        )
    }
}

fn by_wait(a: &Candidate, b: &Candidate) -> Ordering {
    wait(a).total_cmp(&wait(b))
}

fn wait(candidate: &Candidate) -> f64 {
    candidate.cost.max(LEAST_COST) * (f64::from(candidate.active) + 1.0) / candidate.share() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(states: &[(f64, u32, u32)]) -> Vec<Candidate> {
        let candidate = |(index, &(cost, active, weight))| Candidate {
            index,
            weight,
            active,
            cost,
            expectation: None,
        };
        states.iter().enumerate().map(candidate).collect()
    }

    #[test]
    fn the_least_expected_wait_wins() {
        for (states, winner) in [
            (vec![(0.010, 0, 1), (0.002, 0, 1)], 1),
            (vec![(0.010, 0, 1), (0.002, 5, 1)], 0),
            (vec![(0.010, 0, 1), (0.002, 5, 2)], 1),
            (vec![(5.0, 0, 1), (0.030, 100, 1), (0.030, 101, 1)], 1),
            (vec![(f64::INFINITY, 0, 1), (1.0, 1_000, 1)], 1),
        ] {
            for random in [0, 1 << 63, u64::MAX] {
                assert_eq!(
                    PeakEwma.choose(&candidates(&states), random),
                    Some(winner),
                    "{states:?}"
                );
            }
        }
    }

    #[test]
    fn costs_of_nothing_still_count_what_is_in_flight() {
        for cost in [0.0, -1.0, 1e-300, f64::NAN] {
            let fleet = candidates(&[(cost, 3, 1), (cost, 1, 1), (cost, 2, 1)]);
            assert_eq!(PeakEwma.choose(&fleet, 0), Some(1), "{cost}");
        }
    }

    #[test]
    fn a_large_fleet_avoids_the_slow_one() {
        let mut fleet = candidates(&[(0.010, 0, 1); 12]);
        fleet[7].cost = 5.0;
        for step in 0..1_000 {
            let winner = PeakEwma
                .choose(&fleet, (u64::MAX / 1_000 * step) ^ (step * 7_919))
                .unwrap();
            assert_ne!(winner, 7);
        }
    }
}
