//! Smooth weighted round robin: shares are exact over each turn, and a heavy endpoint's requests are spread over
//! the turn instead of coming in a row (the algorithm of nginx's upstream module).
//!
//! Every choice credits each candidate with its weight and takes the sum of all weights from the one with the most
//! credit, which gets the request. Credit belongs to the endpoint, not to its position, so candidates may come and
//! go. It is kept within two turns of what is present now: an endpoint left with the credit or debt of a much
//! heavier company would otherwise get everything, or nothing, for a long time.

use parking_lot::Mutex;

use super::{Candidate, Policy};

#[derive(Default)]
pub struct RoundRobin {
    /// By candidate index; grows to the highest one seen.
    credit: Mutex<Vec<i64>>,
}

impl Policy for RoundRobin {
    fn choose(&self, candidates: &[Candidate], _random: u64) -> Option<usize> {
        let (mut turn, mut highest) = (0_i64, 0);
        for candidate in candidates {
            turn += weight(candidate);
            highest = highest.max(candidate.index);
        }
        let mut credit = self.credit.lock();
        if highest >= credit.len() {
            credit.resize(highest + 1, 0);
        }
        let mut best: Option<(usize, i64)> = None;
        for (position, candidate) in candidates.iter().enumerate() {
            let own = &mut credit[candidate.index];
            *own = (*own).clamp(-2 * turn, 2 * turn) + weight(candidate);
            if best.is_none_or(|(_, most)| *own > most) {
                best = Some((position, *own));
            }
        }
        let (position, _) = best?;
        credit[candidates[position].index] -= turn;
        Some(position)
    }
}

fn weight(candidate: &Candidate) -> i64 {
    i64::from(candidate.weight.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(weights: &[(usize, u32)]) -> Vec<Candidate> {
        weights
            .iter()
            .map(|&(index, weight)| Candidate {
                index,
                weight,
                active: 0,
                cost: 0.0,
                expectation: None,
            })
            .collect()
    }

    fn turn(policy: &RoundRobin, candidates: &[Candidate], picks: usize) -> Vec<usize> {
        (0..picks)
            .map(|_| candidates[policy.choose(candidates, 0).unwrap()].index)
            .collect()
    }

    #[test]
    fn heavy_endpoints_are_spread_over_the_turn() {
        let policy = RoundRobin::default();
        let three = candidates(&[(0, 5), (1, 1), (2, 1)]);
        assert_eq!(turn(&policy, &three, 7), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(
            turn(&policy, &three, 7),
            [0, 0, 1, 0, 2, 0, 0],
            "each turn is the same"
        );
    }

    #[test]
    fn the_order_of_the_candidates_does_not_matter_to_their_turns() {
        let policy = RoundRobin::default();
        let mut picks = turn(&policy, &candidates(&[(0, 1), (1, 1), (2, 1)]), 1);
        picks.extend(turn(&policy, &candidates(&[(2, 1), (1, 1), (0, 1)]), 2));
        picks.sort_unstable();
        assert_eq!(picks, [0, 1, 2]);
    }

    #[test]
    fn those_who_stay_keep_their_turns_when_one_leaves_and_returns() {
        let policy = RoundRobin::default();
        let all = candidates(&[(0, 1), (1, 1), (2, 1)]);
        assert_eq!(turn(&policy, &all, 3), [0, 1, 2]);
        assert_eq!(
            turn(&policy, &candidates(&[(0, 1), (2, 1)]), 4),
            [0, 2, 0, 2]
        );
        assert_eq!(turn(&policy, &all, 3), [0, 1, 2]);
    }

    #[test]
    fn debts_from_heavier_company_are_soon_paid() {
        let policy = RoundRobin::default();
        let all = candidates(&[(0, 1_000), (1, 1), (2, 1)]);
        while turn(&policy, &all, 1) != [1] {}
        let picks = turn(&policy, &candidates(&[(1, 1), (2, 1)]), 20);
        let first = picks.iter().filter(|index| **index == 1).count();
        assert!((6..=10).contains(&first), "{picks:?}");
    }
}
