//! Counters of one model: how many requests, rows and runs, and where their time went.
//!
//! The durations of a batch count in full for every request in it, as clients of Triton's statistics expect.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::batch::padding::Waste;
use crate::batch::report::Span;
use crate::inference::{InferError, Timing};

const MAX_BATCH_SIZES: usize = 1024;

/// How often, and how long altogether.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Total {
    pub count: u64,
    pub duration: Duration,
}

impl Total {
    pub fn add(&mut self, duration: Duration) {
        self.count += 1;
        self.duration = self.duration.saturating_add(duration);
    }
}

impl std::ops::AddAssign for Total {
    fn add_assign(&mut self, other: Self) {
        self.count += other.count;
        self.duration = self.duration.saturating_add(other.duration);
    }
}

/// Runs of one batch size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BatchSize {
    pub compute_input: Total,
    pub compute_infer: Total,
    pub compute_output: Total,
}

/// Requests without a place in the queue, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Refused {
    pub queue_full: u64,
    /// The deadline was over, or could not be met.
    pub deadline: u64,
    /// The model was about to go.
    pub unloading: u64,
}

impl Refused {
    /// What is refused for what it holds is not counted here.
    pub fn count(&mut self, error: &InferError) {
        match error {
            InferError::QueueFull { .. } => self.queue_full += 1,
            InferError::DeadlineInQueue(_) | InferError::CannotMeetDeadline { .. } => {
                self.deadline += 1;
            }
            InferError::Unavailable(_) | InferError::StepNotReady { .. } => self.unloading += 1,
            InferError::Begun(error) => self.count(error),
            InferError::InvalidInput(_)
            | InferError::DeadlineWhileRunning(_)
            | InferError::AnswerTooLarge { .. }
            | InferError::Engine { .. } => {}
        }
    }

    pub fn by_reason(&self) -> [(&'static str, u64); 3] {
        [
            ("queue_full", self.queue_full),
            ("deadline", self.deadline),
            ("unloading", self.unloading),
        ]
    }
}

/// A snapshot. `queue` and the `compute_…` totals count successful requests only.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Statistics {
    /// Requests that came. Each ends in one of `success`, `fail` and `cancelled`.
    pub submitted: u64,
    /// Requests answered with tensors; duration from submission to answer.
    pub success: Total,
    /// Requests answered with an error, refused ones included.
    pub fail: Total,
    pub queue: Total,
    pub compute_input: Total,
    pub compute_infer: Total,
    pub compute_output: Total,
    /// Those of `fail` that were not let into the queue, or left it again because they could not be in time.
    pub refused: Refused,
    /// Requests whose caller left before they were run, or whose run was ended because of that.
    pub cancelled: u64,
    /// Batches that were not run to their end since nobody waited for them.
    pub terminated: u64,
    /// Requests that were run in parts and answered.
    pub split: u64,
    /// Rows of successful runs: of a request that was run in parts, those of its parts that worked.
    pub inference_count: u64,
    /// Successful runs of the engine.
    pub execution_count: u64,
    /// Successful runs by the rows of the batch.
    pub batch_sizes: BTreeMap<usize, BatchSize>,
    /// Milliseconds since 1970 of the last answer; 0 before the first.
    pub last_inference_ms: u64,
    /// What filling up short requests cost, of successful runs.
    pub padding: Waste,
    /// Requests and rows that wait now.
    pub queued_requests: usize,
    pub queued_rows: usize,
    /// Expected duration by rows, of the weight class that was seen most.
    pub curve: Vec<(usize, Duration)>,
    /// The batch size with the least time per row in that class; the maximum while nothing is known.
    pub best_size: usize,
}

/// The three phases of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Phases {
    pub gather: Span,
    pub run: Span,
    pub scatter: Span,
}

impl Statistics {
    /// A run that worked. A batch size never seen before is left out once there are very many of them, as
    /// callers choose the rows of their own requests.
    pub fn executed(&mut self, rows: usize, phases: &Phases) {
        self.execution_count += 1;
        self.inference_count += rows as u64;
        if self.batch_sizes.len() >= MAX_BATCH_SIZES && !self.batch_sizes.contains_key(&rows) {
            return;
        }
        let size = self.batch_sizes.entry(rows).or_default();
        size.compute_input.add(phases.gather.duration());
        size.compute_infer.add(phases.run.duration());
        size.compute_output.add(phases.scatter.duration());
    }

    /// A request of such a run was answered.
    pub fn succeeded(&mut self, total: Duration, timing: &Timing) {
        self.success.add(total);
        self.queue.add(timing.queue);
        self.compute_input.add(timing.input);
        self.compute_infer.add(timing.compute);
        self.compute_output.add(timing.output);
    }

    /// Something was answered at this moment.
    pub fn answered_at(&mut self, now: SystemTime) {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last_inference_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    }
}
