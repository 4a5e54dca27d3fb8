//! Weighted random choice: no state, nothing looked at but the weights.

use super::{Candidate, Policy, sample};

pub struct Random;

impl Policy for Random {
    fn choose(&self, candidates: &[Candidate], random: u64) -> Option<usize> {
        if candidates.is_empty() {
            return None;
        }
        sample::by_ticket(
            candidates,
            sample::below(random, sample::total_weight(candidates)),
        )
    }
}
