//! Some members of a large fleet, drawn by weight: looking at all of ten thousand for each request would cost more
//! than it finds.
//!
//! The least loaded of `d` random choices is exponentially better than one choice, and little is gained beyond a few
//! (M. Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001). What is random also keeps
//! several gateways, which see only their own requests, from rushing to the one endpoint that each believes idle.

/// Up to this many members all of them are looked at.
pub const FULL_SCAN: usize = 512;
/// So many are drawn of more; a few of them may not be eligible, or the same.
pub const DRAWN: usize = 16;

/// The weights of a fleet, summed up for drawing.
#[derive(Debug, Default)]
pub struct Draw {
    /// Position `i` holds the tickets from `ends[i - 1]` to `ends[i]`.
    ends: Vec<u64>,
}

impl Draw {
    pub fn new(weights: impl Iterator<Item = u32>) -> Self {
        let ends = weights.scan(0_u64, |end, weight| {
            *end += u64::from(weight.max(1));
            Some(*end)
        });
        Self {
            ends: ends.collect(),
        }
    }

    /// `DRAWN` positions, some of them perhaps twice; none of an empty fleet. The same `random`, the same positions.
    pub fn positions(&self, random: u64) -> impl Iterator<Item = usize> + Clone {
        let mut generator = fastrand::Rng::with_seed(random);
        let total = self.ends.last().copied().unwrap_or(0);
        let draws = if total == 0 { 0 } else { DRAWN };
        (0..draws).map(move |_| {
            let ticket = generator.u64(..total);
            self.ends.partition_point(|end| *end <= ticket)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_fleet_gives_none() {
        assert_eq!(Draw::new(std::iter::empty()).positions(7).count(), 0);
    }

    #[test]
    fn positions_follow_the_weights() {
        let weights = [1_u32, 0, 3, 5];
        let draw = Draw::new(weights.into_iter());
        let mut counts = [0_usize; 4];
        for seed in 0..10_000 {
            for position in draw.positions(seed) {
                counts[position] += 1;
            }
        }
        // A weight of 0 counts as 1.
        for (count, share) in counts.into_iter().zip([0.1, 0.1, 0.3, 0.5]) {
            let expected = 160_000.0 * share;
            let allowed = 6.0 * f64::sqrt(expected);
            assert!((count as f64 - expected).abs() < allowed, "{counts:?}");
        }
    }
}
