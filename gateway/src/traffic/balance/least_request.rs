//! Fewest requests in flight for its weight: the candidate with the least `(active + 1) / weight`.
//!
//! The fraction is the load after this request is placed, compared exactly; ties are broken at random so that
//! several gateways do not all begin with the same endpoint. While nothing is in flight the heaviest endpoint wins
//! every time: weights say how much an endpoint can do at once, and shares approach them as load rises.
//!
//! Every candidate is looked at up to `FULL_SCAN`; above that, the better of two drawn by weight (power of two
//! choices) is nearly as good, and gateways that see only their own requests do not all rush to the one endpoint
//! that each believes idle.

use std::cmp::Ordering;

use super::{Candidate, Policy, sample};

const FULL_SCAN: usize = 512;

pub struct LeastRequest;

impl Policy for LeastRequest {
    fn choose(&self, candidates: &[Candidate], random: u64) -> Option<usize> {
        if candidates.len() <= FULL_SCAN {
            return sample::least(candidates, random, by_load);
        }
        let (first, second) = sample::pair(candidates, random)?;
        Some(
            if by_load(&candidates[second], &candidates[first]).is_lt() {
                second
            } else {
                first
            },
        )
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

    #[test]
    fn a_large_fleet_gets_the_better_of_two() {
        let mut fleet = candidates(&[(9, 1); 600]);
        fleet[10].active = 0;
        fleet[20].active = 100;
        let mut generator = 1_u64;
        let mut wins = 0;
        for _ in 0..20_000 {
            generator = generator
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let winner = LeastRequest.choose(&fleet, generator).unwrap();
            assert_ne!(winner, 20, "the worst loses against any other");
            wins += usize::from(winner == 10);
        }
        assert!(
            (40..100).contains(&wins),
            "drawn in 2 of 600 pairs, and won them: {wins}"
        );
    }
}
