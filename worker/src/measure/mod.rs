//! What is counted of one served version while requests pass: atomics only, nobody waits for anybody.
//!
//! The figures live as long as the version they are of, so they end with it and their number is bounded.

mod batches;
mod histogram;
mod requests;

use std::time::Duration;

pub use self::batches::Batches;
pub use self::histogram::Histogram;
pub use self::requests::{Reason, Requests, Underway};

/// Whole microseconds.
pub fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
