//! What one attempt asks of a cluster.

use std::time::Instant;

#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// Members that were asked before, by position.
    pub tried: &'a [usize],
    /// What the request belongs to, for clusters that go by it.
    pub key: Option<u64>,
    /// Uniform over all of `u64`, fresh for each attempt.
    pub random: u64,
    pub now: Instant,
}

impl<'a> Ask<'a> {
    /// Without a key, and with a fresh random number.
    pub fn new(tried: &'a [usize], now: Instant) -> Self {
        Self {
            tried,
            key: None,
            random: fastrand::u64(..),
            now,
        }
    }

    pub fn with_key(self, key: Option<u64>) -> Self {
        Self { key, ..self }
    }
}
