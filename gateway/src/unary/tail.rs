//! What an attempt still needs whose answer was too large to be held back.

use std::time::{Duration, Instant};

use crate::fleet::Lease;
use crate::telemetry::trace::AttemptSpan;
use crate::traffic::deadline::Deadline;
use crate::traffic::retry::{Failure, Outcome};

/// The attempt goes on while the rest of its answer streams. Dropped, it counts as given up.
pub struct Tail {
    pub(super) lease: Lease,
    pub(super) span: Option<AttemptSpan>,
    pub(super) deadline: Deadline,
}

impl Tail {
    pub fn time_left(&self) -> Duration {
        self.deadline.remaining(Instant::now()).unwrap_or_default()
    }

    /// The rest is through, with this status; None: it broke off, or did not come in time.
    pub fn end(self, status: Option<u16>) {
        let failure = match status {
            Some(0) => None,
            Some(status) => Some(Failure::Status(u8::try_from(status).unwrap_or(u8::MAX))),
            None => Some(Failure::ResponseStarted),
        };
        let outcome = failure.map_or(Outcome::Success, |failure| failure.outcome());
        self.lease.finish(outcome, Instant::now());
        if let Some(span) = self.span {
            span.end(status.ok_or(Failure::ResponseStarted.describe()));
        }
    }
}
