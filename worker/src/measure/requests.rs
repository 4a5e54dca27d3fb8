//! The requests for one served version, as their callers see them: from arrival to the end, whatever answered.
//!
//! Each ends in exactly one way: with tensors, or without them for one `Reason`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::{Histogram, microseconds};

/// Microseconds from arrival to the first answer.
const LATENCY: &[u64] = &[
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];

#[derive(Debug)]
pub struct Requests {
    begun: AtomicU64,
    failed: [AtomicU64; Reason::ALL.len()],
    /// Of those that got tensors. There is one answer to each request, so the first is the last.
    answered: Histogram,
}

/// Why a request got no tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// There was no room or no time for it.
    Rejected,
    /// Its caller left.
    Canceled,
    /// The model failed.
    Backend,
    /// It was wrong.
    Other,
}

impl Reason {
    pub const ALL: [Reason; 4] = [
        Reason::Rejected,
        Reason::Canceled,
        Reason::Backend,
        Reason::Other,
    ];

    /// As Triton's failure metric names it.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Rejected => "REJECTED",
            Reason::Canceled => "CANCELED",
            Reason::Backend => "BACKEND",
            Reason::Other => "OTHER",
        }
    }
}

impl Default for Requests {
    fn default() -> Requests {
        Requests {
            begun: AtomicU64::new(0),
            failed: Default::default(),
            answered: Histogram::new(LATENCY),
        }
    }
}

impl Requests {
    /// A request that arrived at `since`. Dropping what is returned without a word means that its caller left.
    pub fn begin(&self, since: Instant) -> Underway<'_> {
        self.begun.fetch_add(1, Ordering::Relaxed);
        Underway {
            requests: self,
            since,
            ended: false,
        }
    }

    /// Latency of those that got tensors, in microseconds.
    pub fn answered(&self) -> &Histogram {
        &self.answered
    }

    pub fn failed(&self, reason: Reason) -> u64 {
        self.count(reason).load(Ordering::Relaxed)
    }

    /// Requests that have not ended.
    pub fn in_flight(&self) -> u64 {
        // What ended is read first, so that nothing seems to have ended that did not begin.
        let failed: u64 = Reason::ALL.iter().map(|reason| self.failed(*reason)).sum();
        let ended = self.answered.count() + failed;
        self.begun.load(Ordering::Relaxed).saturating_sub(ended)
    }

    fn count(&self, reason: Reason) -> &AtomicU64 {
        let [rejected, canceled, backend, other] = &self.failed;
        match reason {
            Reason::Rejected => rejected,
            Reason::Canceled => canceled,
            Reason::Backend => backend,
            Reason::Other => other,
        }
    }
}

/// A request that has not ended.
#[derive(Debug)]
pub struct Underway<'a> {
    requests: &'a Requests,
    since: Instant,
    ended: bool,
}

impl Underway<'_> {
    /// It got tensors.
    pub fn answered(mut self, now: Instant) {
        self.ended = true;
        let took = now.saturating_duration_since(self.since);
        self.requests.answered.observe(microseconds(took));
    }

    pub fn failed(mut self, reason: Reason) {
        self.end(reason);
    }

    fn end(&mut self, reason: Reason) {
        if !std::mem::replace(&mut self.ended, true) {
            self.requests.count(reason).fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        self.end(Reason::Canceled);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_request_ends_in_one_way() {
        let requests = Requests::default();
        let start = Instant::now();
        for reason in Reason::ALL {
            requests.begin(start).failed(reason);
        }
        let open = requests.begin(start);
        requests
            .begin(start)
            .answered(start + Duration::from_millis(2));
        assert_eq!(requests.in_flight(), 1);
        drop(open);
        assert_eq!(requests.in_flight(), 0);
        assert_eq!(requests.failed(Reason::Canceled), 2);
        assert_eq!(requests.failed(Reason::Backend), 1);
        assert_eq!(requests.answered().count(), 1);
        assert_eq!(requests.answered().sum(), 2_000);
    }
}
