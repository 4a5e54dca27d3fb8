//! What one attempt asks of a cluster.

use std::time::Instant;

use crate::traffic::subset::Wish;

/// What of a request itself decides where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bearings {
    /// What it belongs to; None: to nothing, or the cluster does not care.
    pub key: Option<u64>,
    /// Its model, by a hash of the name; None: it has none, or the cluster does not care.
    pub model: Option<u64>,
    /// At least 1.
    pub rows: u32,
    /// Which endpoints may take it.
    pub wish: Wish,
}

/// Of a request that nothing is known of.
impl Default for Bearings {
    fn default() -> Self {
        Self {
            key: None,
            model: None,
            rows: 1,
            wish: Wish::Nothing,
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// Members that were asked before, by position.
    pub tried: &'a [usize],
    pub bearings: Bearings,
    /// Its model as a bit, by the place in the list of the cluster that is asked, which fills it in; 0: it is not in there.
    pub(super) model: u64,
    /// Uniform over all of `u64`, fresh for each attempt.
    pub random: u64,
    pub now: Instant,
}

impl<'a> Ask<'a> {
    /// Without bearings, and with a fresh random number.
    pub fn new(tried: &'a [usize], now: Instant) -> Self {
        Self {
            tried,
            bearings: Bearings::default(),
            model: 0,
            random: fastrand::u64(..),
            now,
        }
    }

    pub fn with(self, bearings: Bearings) -> Self {
        Self { bearings, ..self }
    }
}
