//! What the instances of one model share, and how those are answered that none of them runs.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::batch::job::{Answer, Job};
use crate::batch::lane::{DroppedJobs, Lane};
use crate::batch::padding::Padding;
use crate::batch::queue::{Dropped, Place, Waiting};
use crate::batch::report::BatchObserver;
use crate::batch::statistics::Statistics;
use crate::engine::EngineFactory;
use crate::inference::InferError;
use crate::measure::Batches;

/// What the instances of one model share.
pub struct Common {
    pub model: Arc<str>,
    pub version: u64,
    pub lane: Lane,
    pub statistics: Mutex<Statistics>,
    pub observer: Arc<dyn BatchObserver>,
    pub factory: EngineFactory,
    pub padding: Option<Padding>,
    pub batches: Batches,
    /// Callers may run what is soon done by themselves.
    pub lends: bool,
    /// Bytes of the answer to a request that is run in parts.
    pub max_answer_bytes: usize,
}

impl Common {
    /// Answers requests that left the queue without being run.
    pub fn answer_dropped(&self, dropped: DroppedJobs) {
        if dropped.is_empty() {
            return;
        }
        let mut refused = Vec::new();
        let mut statistics = self.statistics.lock();
        for (job, reason) in dropped {
            let (waited, begun) = (job.enqueued.elapsed(), job.begun());
            let Some(caller) = job.give_up() else {
                continue;
            };
            if reason == Dropped::Cancelled {
                statistics.cancelled += 1;
                continue;
            }
            statistics.fail.add(waited);
            let error = self.out_of_time(reason, begun);
            if matches!(reason, Dropped::TooLate(_)) {
                statistics.refused.count(&error);
            }
            refused.push((caller, error));
        }
        drop(statistics);
        for (caller, error) in refused {
            send(caller, Err(error));
        }
    }

    fn out_of_time(&self, reason: Dropped, begun: bool) -> InferError {
        let model = || self.model.to_string();
        match reason {
            _ if begun => InferError::DeadlineWhileRunning(model()),
            Dropped::TooLate(expected_wait) => InferError::CannotMeetDeadline {
                model: model(),
                expected_wait,
            },
            Dropped::Expired | Dropped::Cancelled => InferError::DeadlineInQueue(model()),
        }
    }

    /// The caller of a request is gone.
    pub fn take_back(&self, place: Place, now: Instant) {
        if let Some(job) = self.lane.take_back(place) {
            let expired = job.deadline().is_some_and(|deadline| deadline <= now);
            let reason = match expired {
                true => Dropped::Expired,
                false => Dropped::Cancelled,
            };
            self.answer_dropped(vec![(job, reason)]);
        }
    }

    /// Nobody waited for a batch any more, so it was not run, or not to its end.
    pub fn count_cancelled(&self, jobs: Vec<Job>) {
        let mut statistics = self.statistics.lock();
        statistics.terminated += 1;
        let over = jobs.into_iter().filter_map(Job::give_up).count();
        statistics.cancelled += over as u64;
    }
}

/// The caller may be gone; then nobody minds.
pub fn send(caller: oneshot::Sender<Answer>, answer: Answer) {
    let _ = caller.send(answer);
}
