//! Fewest requests in flight for its weight: the candidate with the least `(active + 1) / weight`.
//!
//! The fraction is the load after this request is placed, compared exactly; ties are broken at random so that
//! several gateways do not all begin with the same endpoint. While nothing is in flight the heaviest endpoint wins
//! every time: weights say how much an endpoint can do at once, and shares approach them as load rises.

use std::cmp::Ordering;

use super::{Candidate, Policy, sample};

pub struct LeastRequest;

impl Policy for LeastRequest {
    fn choose(&self, candidates: &[Candidate], random: u64) -> Option<usize> {
        sample::least(candidates, random, by_load)
    }
}

fn by_load(a: &Candidate, b: &Candidate) -> Ordering {
    let load_of_a = (u64::from(a.active) + 1) * b.share();
    let load_of_b = (u64::from(b.active) + 1) * a.share();
    load_of_a.cmp(&load_of_b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(loads: &[(u32, u32)]) -> Vec<Candidate> {
        let candidate = |(index, &(active, weight))| Candidate {
            index,
            weight,
            active,
            cost: 0.0,
            expectation: None,
        };
        loads.iter().enumerate().map(candidate).collect()
    }

    #[test]
    fn the_least_loaded_for_its_weight_wins() {
        for (loads, winner) in [
            (vec![(3, 1), (2, 1), (4, 1)], 1),
            (vec![(1, 1), (4, 3)], 1),
            (vec![(1, 1), (6, 3)], 0),
            (vec![(u32::MAX, u32::MAX), (1, 1)], 0),
            (vec![(u32::MAX, 1), (u32::MAX, 2)], 1),
        ] {
            for random in [0, 1 << 63, u64::MAX] {
                assert_eq!(
                    LeastRequest.choose(&candidates(&loads), random),
                    Some(winner),
                    "{loads:?}"
                );
            }
        }
    }

    #[test]
    fn ties_are_shared_evenly_wherever_they_stand() {
        let fleet = candidates(&[(9, 1), (0, 1), (0, 1), (9, 1), (1, 2), (9, 1)]);
        let winners: Vec<_> = (0..6)
            .map(|sixth| {
                LeastRequest
                    .choose(&fleet, u64::MAX / 6 * sixth + 7)
                    .unwrap()
            })
            .collect();
        assert_eq!(winners, [1, 1, 2, 2, 4, 4]);
    }
}
