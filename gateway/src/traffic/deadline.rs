//! The instant at which a request must be answered, over all of its attempts.
//!
//! The earlier of the route's timeout and the caller's `grpc-timeout` counts; retries and backoff spend from it
//! and never extend it.

use std::time::{Duration, Instant};

/// When to give up. A timeout too long for the clock to express means never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    pub const NEVER: Self = Self(None);

    /// The earlier of both, counted from `now`. For a call that only `grpc_timeout` bounds, `route_timeout` is
    /// `Duration::MAX`.
    pub fn from(now: Instant, route_timeout: Duration, grpc_timeout: Option<Duration>) -> Self {
        let timeout = grpc_timeout.map_or(route_timeout, |own| own.min(route_timeout));
        Self(now.checked_add(timeout))
    }

    /// What is left, above zero; `Duration::MAX` where nothing bounds it; None once it has passed.
    pub fn remaining(&self, now: Instant) -> Option<Duration> {
        match self.0 {
            None => Some(Duration::MAX),
            Some(at) => at
                .checked_duration_since(now)
                .filter(|left| !left.is_zero()),
        }
    }

    /// How long an attempt that starts at `now` may take: `per_try`, but no more than what is left. None once the
    /// deadline has passed: no attempt may start.
    pub fn attempt_timeout(&self, now: Instant, per_try: Option<Duration>) -> Option<Duration> {
        let left = self.remaining(now)?;
        Some(per_try.map_or(left, |own| own.min(left)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_earlier_bound_wins() {
        let now = Instant::now();
        assert_eq!(
            Deadline::from(now, 3 * SECOND, None).remaining(now),
            Some(3 * SECOND)
        );
        assert_eq!(
            Deadline::from(now, 3 * SECOND, Some(SECOND)).remaining(now),
            Some(SECOND)
        );
        assert_eq!(
            Deadline::from(now, SECOND, Some(3 * SECOND)).remaining(now),
            Some(SECOND)
        );
    }

    #[test]
    fn time_runs_out_exactly_at_the_deadline() {
        let now = Instant::now();
        let deadline = Deadline::from(now, SECOND, None);
        assert_eq!(
            deadline.remaining(now + SECOND - Duration::from_nanos(1)),
            Some(Duration::from_nanos(1))
        );
        assert_eq!(deadline.remaining(now + SECOND), None);
        assert_eq!(deadline.remaining(now + 2 * SECOND), None);
        assert_eq!(
            Deadline::from(now, SECOND, Some(Duration::ZERO)).remaining(now),
            None
        );
    }

    #[test]
    fn an_attempt_gets_the_smaller_share() {
        let now = Instant::now();
        let deadline = Deadline::from(now, 3 * SECOND, None);
        assert_eq!(deadline.attempt_timeout(now, None), Some(3 * SECOND));
        assert_eq!(deadline.attempt_timeout(now, Some(SECOND)), Some(SECOND));
        assert_eq!(
            deadline.attempt_timeout(now + SECOND * 5 / 2, Some(SECOND)),
            Some(SECOND / 2)
        );
        assert_eq!(
            deadline.attempt_timeout(now + 3 * SECOND, Some(SECOND)),
            None
        );
    }

    #[test]
    fn endless_timeouts_do_not_overflow() {
        let now = Instant::now();
        let deadline = Deadline::from(now, Duration::MAX, None);
        assert_eq!(deadline.remaining(now), Some(Duration::MAX));
        assert_eq!(deadline.attempt_timeout(now, Some(SECOND)), Some(SECOND));
        assert_eq!(
            Deadline::from(now, Duration::MAX, Some(SECOND)).remaining(now),
            Some(SECOND)
        );
        assert_eq!(
            Deadline::from(now, SECOND, Some(Duration::MAX)).remaining(now),
            Some(SECOND)
        );
    }
}
