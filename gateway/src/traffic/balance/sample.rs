//! Random picks among candidates, and the full scan: what the policies have in common.

use std::cmp::Ordering;

use super::Candidate;

/// A number below `bound` (which is above zero) from a uniform `random`, by multiplying instead of dividing
/// (Lemire, "Fast Random Integer Generation in an Interval", 2019); the bias is at most bound / 2^64.
pub fn below(random: u64, bound: u64) -> u64 {
    // Below `bound`, so it fits.
    ((u128::from(random) * u128::from(bound)) >> u64::BITS) as u64
}

pub fn total_weight(candidates: &[Candidate]) -> u64 {
    candidates.iter().map(Candidate::share).sum()
}

/// The candidate on which `ticket` falls when each holds as many tickets as it has weight.
pub fn by_ticket(candidates: &[Candidate], mut ticket: u64) -> Option<usize> {
    candidates.iter().position(|candidate| {
        let share = candidate.share();
        let hit = ticket < share;
        ticket = ticket.saturating_sub(share);
        hit
    })
}

/// Two different candidates, each drawn with a probability in proportion to its weight; None below two candidates.
pub fn pair(candidates: &[Candidate], random: u64) -> Option<(usize, usize)> {
    if candidates.len() < 2 {
        return None;
    }
    let total = total_weight(candidates);
    let first = by_ticket(candidates, below(random, total))?;
    // The low half is moved up, since `below` looks at the high bits first.
    let ticket = below(random << 32, total - candidates[first].share());
    let before = by_ticket(&candidates[..first], ticket);
    let second = match before {
        Some(position) => position,
        None => {
            let passed = total_weight(&candidates[..first]);
            first + 1 + by_ticket(&candidates[first + 1..], ticket - passed)?
        }
    };
    Some((first, second))
}

/// The least candidate by `compare`; among several, each with the same probability.
pub fn least(
    candidates: &[Candidate],
    random: u64,
    compare: impl Fn(&Candidate, &Candidate) -> Ordering,
) -> Option<usize> {
    let mut best = candidates.first()?;
    let mut first = 0;
    let mut ties = 1;
    for (position, candidate) in candidates.iter().enumerate().skip(1) {
        match compare(candidate, best) {
            Ordering::Less => (best, first, ties) = (candidate, position, 1),
            Ordering::Equal => ties += 1,
            Ordering::Greater => {}
        }
    }
    let mut skip = below(random, ties);
    if skip == 0 {
        return Some(first);
    }
    candidates.iter().position(|candidate| {
        let tied = compare(candidate, best).is_eq();
        let hit = tied && skip == 0;
        skip -= u64::from(tied && skip > 0);
        hit
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::next;
    use super::*;

    fn fleet(weights: &[u32]) -> Vec<Candidate> {
        let candidate = |(index, &weight)| Candidate {
            index,
            weight,
            active: 0,
            cost: 0.0,
            expectation: None,
        };
        weights.iter().enumerate().map(candidate).collect()
    }

    #[test]
    fn pairs_are_drawn_by_weight_and_independently() {
        const DRAWS: usize = 120_000;
        let weights = [1, 2, 3];
        let fleet = fleet(&weights);
        let mut counts = [[0_usize; 3]; 3];
        let mut state = 1;
        for _ in 0..DRAWS {
            let (first, second) = pair(&fleet, next(&mut state)).unwrap();
            counts[first][second] += 1;
        }
        for (first, row) in counts.iter().enumerate() {
            for (second, count) in row.iter().enumerate() {
                let [a, b] = [first, second].map(|position| f64::from(weights[position]));
                let expected = if first == second {
                    0.0
                } else {
                    DRAWS as f64 * a / 6.0 * b / (6.0 - a)
                };
                let allowed = 5.0 * expected.sqrt();
                assert!((*count as f64 - expected).abs() <= allowed, "{counts:?}");
            }
        }
    }

    #[test]
    fn fewer_than_two_make_no_pair() {
        assert_eq!(pair(&[], 7), None);
        assert_eq!(pair(&fleet(&[1]), 7), None);
    }
}
