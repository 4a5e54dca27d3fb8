//! The runs of one model.
//!
//! A run that failed counts as failed and nothing else: its requests are run again or got an error, so rows and
//! waits would count twice.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Histogram, microseconds};
use crate::batch::report::BatchReport;

/// Rows of a batch.
const ROWS: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024];
/// Microseconds, from what a tiny model takes to what a client will not wait for.
const DURATION: &[u64] = &[
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 10_000_000,
];

#[derive(Debug)]
pub struct Batches {
    rows: Histogram,
    queue: Histogram,
    execution: Histogram,
    failed: AtomicU64,
}

impl Default for Batches {
    fn default() -> Batches {
        Batches {
            rows: Histogram::new(ROWS),
            queue: Histogram::new(DURATION),
            execution: Histogram::new(DURATION),
            failed: AtomicU64::new(0),
        }
    }
}

impl Batches {
    pub fn record(&self, report: &BatchReport<'_>) {
        if report.error.is_some() {
            self.failed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.rows.observe(report.rows as u64);
        self.execution.observe(microseconds(report.run.duration()));
        for request in report.requests {
            let waited = request.started.saturating_duration_since(request.enqueued);
            self.queue.observe(microseconds(waited));
        }
    }

    /// Rows of each run.
    pub fn rows(&self) -> &Histogram {
        &self.rows
    }

    /// Wait of each request until its batch was taken, in microseconds.
    pub fn queue(&self) -> &Histogram {
        &self.queue
    }

    /// Each run without what comes before and after it, in microseconds.
    pub fn execution(&self) -> &Histogram {
        &self.execution
    }

    /// Runs that failed.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }
}
