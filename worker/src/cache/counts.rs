//! What the cache counts: every request once, either here or by the model that ran it.
//!
//! The request that starts a run is the model's to count, as if there were no cache; here it is a miss as well,
//! with the time that looking up and keeping took. All others never reach the model and are counted here: hits,
//! those that joined a run among them, failures, and callers who left.

use std::time::Duration;

use parking_lot::Mutex;

use crate::batch::statistics::Total;

/// Totals since the version was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Requests answered with tensors without a run of their own; from submission to answer.
    pub hit: Total,
    /// Requests that started a run; the time of looking up and keeping.
    pub miss: Total,
    /// Hits that joined a run in progress.
    pub joined: u64,
    /// Requests that joined a run which failed; from submission to answer.
    pub fail: Total,
    /// Callers who left while they waited for somebody else's run.
    pub cancelled: u64,
    /// Requests that wait for somebody else's run now.
    pub waiting: usize,
}

/// A look at a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheStatistics {
    pub counts: Counts,
    /// That the kept answers take.
    pub bytes: u64,
    /// Kept answers.
    pub entries: usize,
    /// Answers that had to go for others.
    pub evictions: u64,
    /// Runs in progress.
    pub runs: usize,
}

#[derive(Debug, Default)]
pub struct Tally(Mutex<Counts>);

impl Tally {
    pub fn hit(&self, took: Duration) {
        self.0.lock().hit.add(took);
    }

    pub fn joined(&self, took: Duration) {
        let mut counts = self.0.lock();
        counts.hit.add(took);
        counts.joined += 1;
    }

    pub fn missed(&self, looking_up: Duration) {
        self.0.lock().miss.add(looking_up);
    }

    /// The answer of a miss was kept.
    pub fn kept(&self, took: Duration) {
        let mut counts = self.0.lock();
        counts.miss.duration = counts.miss.duration.saturating_add(took);
    }

    pub fn failed(&self, took: Duration) {
        self.0.lock().fail.add(took);
    }

    /// Counts as cancelled when dropped before it stays.
    pub fn joining(&self) -> Joining<'_> {
        self.0.lock().waiting += 1;
        Joining {
            tally: self,
            stayed: false,
        }
    }

    pub fn counts(&self) -> Counts {
        *self.0.lock()
    }
}

/// A request that waits for somebody else's run.
#[derive(Debug)]
pub struct Joining<'a> {
    tally: &'a Tally,
    stayed: bool,
}

impl Joining<'_> {
    /// The caller stayed until the end.
    pub fn stays(mut self) {
        self.stayed = true;
    }
}

impl Drop for Joining<'_> {
    fn drop(&mut self) {
        let mut counts = self.tally.0.lock();
        counts.waiting -= 1;
        if !self.stayed {
            counts.cancelled += 1;
        }
    }
}
