//! Whether a failed attempt may be repeated on another endpoint, whether the endpoint is to blame, and how long to
//! wait first.
//!
//! Two questions that must not be mixed: a connection found dead may be retried although its endpoint did nothing
//! wrong, and an internal error is held against the endpoint although repeating the call would not help.
//! The attempt count, the budget and the deadline bound retries elsewhere.

use std::time::Duration;

/// Exponential backoff with full jitter: anywhere between nothing and the doubled bound, so that callers who
/// failed together do not come back together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Bound before the first retry.
    pub first: Duration,
    /// No bound is above this.
    pub max: Duration,
}

impl Backoff {
    /// The wait before the `retry`-th retry, counted from 1; 0 counts as 1.
    pub fn delay(&self, retry: u32, random: u64) -> Duration {
        let doublings = retry.saturating_sub(1).min(u32::BITS - 1);
        let bound = self.first.saturating_mul(1 << doublings).min(self.max);
        let nanoseconds = bound.as_nanos().min(u128::from(u64::MAX));
        let jittered = (nanoseconds * u128::from(random)) >> u64::BITS;
        Duration::from_nanos(u64::try_from(jittered).unwrap_or(u64::MAX))
    }
}

/// How an attempt ended without a usable answer. Cancellation by the caller is none of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No connection could be opened, its TLS handshake included.
    Connect,
    /// A pooled connection died before the request was sent on it.
    Stale,
    /// The endpoint said that it did not process the request (REFUSED_STREAM, or beyond the last stream of a
    /// GOAWAY).
    Refused,
    /// Connection or stream broke after the request was sent and before any answer; it may have been executed.
    Reset,
    /// The per-try timeout passed while the deadline had time left; it may have been executed.
    TimedOut,
    /// The endpoint answered with this gRPC status, and no message before it.
    Status(u8),
    /// The endpoint answered with this HTTP status.
    HttpStatus(u16),
    /// The answer broke off after part of it had been passed on.
    ResponseStarted,
}

/// Canonical gRPC codes that decide something here.
mod code {
    pub const UNKNOWN: u8 = 2;
    pub const INTERNAL: u8 = 13;
    pub const UNAVAILABLE: u8 = 14;
    pub const DATA_LOSS: u8 = 15;
}

impl Failure {
    /// Whether the same request may be sent to another endpoint. `idempotent`: repeating an executed call is safe.
    ///
    /// UNAVAILABLE and 503 (its HTTP counterpart) are how a server declines work it has not begun; a broken
    /// connection, which some clients report as UNAVAILABLE too, is `Reset` here. 502 comes from something between
    /// us and the server, which may have passed the request on. RESOURCE_EXHAUSTED and 429 are left alone: another
    /// attempt would add to the load that caused them.
    pub fn is_retryable(&self, idempotent: bool) -> bool {
        match self {
            Self::Connect | Self::Stale | Self::Refused => true,
            Self::Status(code) => *code == code::UNAVAILABLE,
            Self::HttpStatus(503) => true,
            Self::Reset | Self::TimedOut | Self::HttpStatus(502) => idempotent,
            Self::HttpStatus(_) | Self::ResponseStarted => false,
        }
    }

    /// What happened, for spans and error messages.
    pub fn describe(&self) -> &'static str {
        match self {
            Self::Connect => "the connection could not be opened",
            Self::Stale => "the pooled connection had died",
            Self::Refused => "the endpoint refused the stream",
            Self::Reset => "the connection broke before the answer",
            Self::TimedOut => "the attempt took too long",
            Self::Status(_) => "the endpoint answered with an error",
            Self::HttpStatus(_) => "the endpoint answered with an HTTP error",
            Self::ResponseStarted => "the connection broke in the middle of the answer",
        }
    }

    /// Whether breaker and cost see a failure of the endpoint.
    ///
    /// What the caller can provoke alone is no fault: INVALID_ARGUMENT, NOT_FOUND, CANCELLED, UNIMPLEMENTED and
    /// 501, RESOURCE_EXHAUSTED, and DEADLINE_EXCEEDED, since the caller chooses `grpc-timeout`. A stale connection
    /// is none either: closing an idle one is the endpoint's right, and if it is gone the next connect says so.
    pub fn counts_against_endpoint(&self) -> bool {
        match self {
            Self::Connect
            | Self::Refused
            | Self::Reset
            | Self::TimedOut
            | Self::ResponseStarted => true,
            Self::Stale => false,
            Self::Status(code) => {
                matches!(
                    *code,
                    code::UNKNOWN | code::INTERNAL | code::UNAVAILABLE | code::DATA_LOSS
                )
            }
            Self::HttpStatus(status) => (500..600).contains(status) && *status != 501,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BACKOFF: Backoff = Backoff {
        first: Duration::from_millis(25),
        max: Duration::from_millis(250),
    };

    #[test]
    fn the_bound_doubles_up_to_the_maximum() {
        let bounds: Vec<_> = (1..=6)
            .map(|retry| BACKOFF.delay(retry, u64::MAX).as_millis())
            .collect();
        assert_eq!(bounds, [24, 49, 99, 199, 249, 249], "just below each bound");
        assert_eq!(BACKOFF.delay(1, 0), Duration::ZERO);
        assert_eq!(BACKOFF.delay(1, 1 << 63), Duration::from_micros(12_500));
        assert_eq!(BACKOFF.delay(0, 1 << 63), BACKOFF.delay(1, 1 << 63));
    }

    proptest! {
        #[test]
        fn no_delay_exceeds_the_maximum(
            first in any::<Duration>(), max in any::<Duration>(), retry in any::<u32>(), random in any::<u64>()
        ) {
            let backoff = Backoff { first, max };
            prop_assert!(backoff.delay(retry, random) <= max);
        }
    }

    #[test]
    fn what_was_never_executed_is_always_retried() {
        for failure in [
            Failure::Connect,
            Failure::Stale,
            Failure::Refused,
            Failure::Status(14),
            Failure::HttpStatus(503),
        ] {
            assert!(
                failure.is_retryable(false) && failure.is_retryable(true),
                "{failure:?}"
            );
        }
    }

    #[test]
    fn what_may_have_been_executed_is_retried_only_when_idempotent() {
        for failure in [Failure::Reset, Failure::TimedOut, Failure::HttpStatus(502)] {
            assert!(
                !failure.is_retryable(false) && failure.is_retryable(true),
                "{failure:?}"
            );
        }
    }

    #[test]
    fn answers_are_not_retried() {
        let statuses = (0..=16).filter(|code| *code != 14).map(Failure::Status);
        let http = [200, 400, 404, 429, 500, 501, 504].map(Failure::HttpStatus);
        for failure in statuses.chain(http).chain([Failure::ResponseStarted]) {
            assert!(!failure.is_retryable(true), "{failure:?}");
        }
    }

    #[test]
    fn only_the_endpoints_own_faults_count_against_it() {
        let counted: Vec<_> = (0..=16)
            .filter(|code| Failure::Status(*code).counts_against_endpoint())
            .collect();
        assert_eq!(counted, [2, 13, 14, 15]);
        let counted: Vec<_> = (100..=600)
            .filter(|status| Failure::HttpStatus(*status).counts_against_endpoint())
            .collect();
        assert_eq!(
            counted,
            std::iter::once(500).chain(502..600).collect::<Vec<_>>()
        );
        for failure in [
            Failure::Connect,
            Failure::Refused,
            Failure::Reset,
            Failure::TimedOut,
            Failure::ResponseStarted,
        ] {
            assert!(failure.counts_against_endpoint(), "{failure:?}");
        }
        assert!(!Failure::Stale.counts_against_endpoint());
    }
}
