//! What one attempt asks of a cluster.

use std::time::Instant;

#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// Members that were asked before, by position.
    pub tried: &'a [usize],
    /// Uniform over all of `u64`, fresh for each attempt.
    pub random: u64,
    pub now: Instant,
}

impl<'a> Ask<'a> {
    /// With a fresh random number.
    pub fn new(tried: &'a [usize], now: Instant) -> Self {
        Self {
            tried,
            random: fastrand::u64(..),
            now,
        }
    }
}
