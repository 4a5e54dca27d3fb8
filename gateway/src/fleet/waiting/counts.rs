//! What is counted of those who wait.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Unserved;
use crate::telemetry::metrics::Histogram;

#[derive(Default)]
pub struct WaitingCounts {
    /// Waits that ended with an endpoint.
    pub waited: Histogram,
    refused: [AtomicU64; Unserved::REASONS.len()],
}

impl WaitingCounts {
    pub(super) fn refused(&self, unserved: Unserved) {
        self.refused[unserved.reason()].fetch_add(1, Ordering::Relaxed);
    }

    /// By reason.
    pub fn refusals(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self
            .refused
            .iter()
            .map(|count| count.load(Ordering::Relaxed));
        Unserved::REASONS.into_iter().zip(counts)
    }
}

impl Unserved {
    const REASONS: [&str; 4] = ["queue_full", "deadline", "max_wait", "no_endpoint"];

    /// Its place in `REASONS`.
    fn reason(self) -> usize {
        match self {
            Self::QueueFull(_) => 0,
            Self::Hopeless(_) | Self::Expired => 1,
            Self::LongWait(_) => 2,
            Self::NoEndpoint | Self::NobodyInSubset => 3,
        }
    }
}
