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

/// What an answered call says about the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Success,
    /// The endpoint's fault: it counts against it.
    Failure,
    /// It answered with an internal error. Whether that is its fault or that of the values it was given cannot be told
    /// from one answer, so it costs it preference and counts when endpoints are compared, but does not open its breaker.
    Fault,
    /// Its queue is full, which is no fault at all and costs it preference only.
    Busy,
    /// The caller's fault (bad argument, unknown model): the endpoint works, but the latency says nothing.
    Neutral,
}

/// How far an endpoint says that a call got, in the metadata `forebay-stage` of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Surely not begun.
    Queued,
    /// Begun, maybe done.
    Begun,
}

impl Stage {
    /// None: a word that says nothing.
    pub fn parse(value: &[u8]) -> Option<Self> {
        match value {
            b"queued" => Some(Self::Queued),
            b"executing" | b"done" => Some(Self::Begun),
            _ => None,
        }
    }
}

/// How an attempt ended without a usable answer. Cancellation by the caller is none of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No connection could be opened, its TLS handshake included.
    Connect,
    /// The endpoint ended the TLS handshake because of the certificate that it was shown, or was not shown.
    Unwelcome,
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
    /// RESOURCE_EXHAUSTED before the call was begun: the endpoint's queue is full, which another one's may not be.
    Full,
    /// UNAVAILABLE after the call was begun.
    Begun,
    /// The endpoint answered with this HTTP status.
    HttpStatus(u16),
    /// The answer broke off after part of it had been passed on.
    ResponseStarted,
}

/// Canonical gRPC codes that decide something here.
mod code {
    pub const UNKNOWN: u8 = 2;
    pub const RESOURCE_EXHAUSTED: u8 = 8;
    pub const INTERNAL: u8 = 13;
    pub const UNAVAILABLE: u8 = 14;
    pub const DATA_LOSS: u8 = 15;
}

impl Failure {
    /// An answered gRPC status other than OK. `stage`: what came with it.
    pub fn answered(status: u8, stage: Option<Stage>) -> Self {
        match (status, stage) {
            (code::RESOURCE_EXHAUSTED, Some(Stage::Queued)) => Self::Full,
            (code::UNAVAILABLE, Some(Stage::Begun)) => Self::Begun,
            _ => Self::Status(status),
        }
    }

    /// Whether the same request may be sent to another endpoint. `idempotent`: repeating an executed call is safe.
    ///
    /// UNAVAILABLE and 503 (its HTTP counterpart) are how a server declines work it has not begun; a broken
    /// connection, which some clients report as UNAVAILABLE too, is `Reset` here. 502 comes from something between
    /// us and the server, which may have passed the request on. RESOURCE_EXHAUSTED and 429 are left alone: another
    /// attempt would add to the load that caused them. Only a queue that is full at one endpoint is worth one look at
    /// another.
    pub fn is_retryable(&self, idempotent: bool) -> bool {
        match self {
            Self::Connect | Self::Unwelcome | Self::Stale | Self::Refused | Self::Full => true,
            Self::Status(code) => *code == code::UNAVAILABLE,
            Self::HttpStatus(503) => true,
            Self::Reset | Self::TimedOut | Self::Begun | Self::HttpStatus(502) => idempotent,
            Self::HttpStatus(_) | Self::ResponseStarted => false,
        }
    }

    /// What happened, for spans and error messages.
    pub fn describe(&self) -> &'static str {
        match self {
            Self::Connect => "the connection could not be opened",
            Self::Unwelcome => {
                "the endpoint refused the gateway's certificate, or asked in vain for one"
            }
            Self::Stale => "the pooled connection had died",
            Self::Refused => "the endpoint refused the stream",
            Self::Reset => "the connection broke before the answer",
            Self::TimedOut => "the attempt took too long",
            Self::Status(_) | Self::Begun => "the endpoint answered with an error",
            Self::Full => "the endpoint's queue is full",
            Self::HttpStatus(_) => "the endpoint answered with an HTTP error",
            Self::ResponseStarted => "the connection broke in the middle of the answer",
        }
    }

    /// What breaker and cost make of it.
    ///
    /// What the caller can provoke alone is no fault: INVALID_ARGUMENT, NOT_FOUND, CANCELLED, UNIMPLEMENTED and
    /// 501, RESOURCE_EXHAUSTED, and DEADLINE_EXCEEDED, since the caller chooses `grpc-timeout`. A stale connection
    /// is none either: closing an idle one is the endpoint's right, and if it is gone the next connect says so.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Connect
            | Self::Unwelcome
            | Self::Refused
            | Self::Reset
            | Self::TimedOut
            | Self::ResponseStarted
            | Self::Begun
            | Self::Status(code::UNAVAILABLE)
            | Self::HttpStatus(502..=504) => Outcome::Failure,
            Self::Status(code::UNKNOWN | code::INTERNAL | code::DATA_LOSS)
            | Self::HttpStatus(500 | 505..=599) => Outcome::Fault,
            Self::Full => Outcome::Busy,
            Self::Stale | Self::Status(_) | Self::HttpStatus(_) => Outcome::Neutral,
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
            Failure::Unwelcome,
            Failure::Stale,
            Failure::Refused,
            Failure::Full,
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
        for failure in [
            Failure::Reset,
            Failure::TimedOut,
            Failure::Begun,
            Failure::HttpStatus(502),
        ] {
            assert!(
                !failure.is_retryable(false) && failure.is_retryable(true),
                "{failure:?}"
            );
        }
    }

    #[test]
    fn the_stage_decides_about_what_is_unavailable_or_exhausted_only() {
        assert_eq!(Stage::parse(b"queued"), Some(Stage::Queued));
        assert_eq!(Stage::parse(b"executing"), Some(Stage::Begun));
        assert_eq!(Stage::parse(b"done"), Some(Stage::Begun));
        assert_eq!(Stage::parse(b"Queued"), None);
        for status in 1..=16 {
            let plain = Failure::Status(status);
            let queued = Failure::answered(status, Some(Stage::Queued));
            let begun = Failure::answered(status, Some(Stage::Begun));
            assert_eq!(Failure::answered(status, None), plain);
            assert_eq!(queued, if status == 8 { Failure::Full } else { plain });
            assert_eq!(begun, if status == 14 { Failure::Begun } else { plain });
            assert_eq!(queued.is_retryable(false), [8, 14].contains(&status));
            assert!(!begun.is_retryable(false), "{status} was begun");
        }
        assert_eq!(Failure::Full.outcome(), Outcome::Busy);
        assert_eq!(Failure::Begun.outcome(), Outcome::Failure);
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
    fn only_what_the_endpoint_alone_can_cause_opens_its_breaker() {
        let codes = |outcome| -> Vec<u8> {
            let of = |code: &u8| Failure::Status(*code).outcome() == outcome;
            (0..=16).filter(of).collect()
        };
        assert_eq!(codes(Outcome::Failure), [14]);
        assert_eq!(codes(Outcome::Fault), [2, 13, 15]);
        let statuses = |outcome| -> Vec<u16> {
            let of = |status: &u16| Failure::HttpStatus(*status).outcome() == outcome;
            (100..=600).filter(of).collect()
        };
        assert_eq!(statuses(Outcome::Failure), [502, 503, 504]);
        let faults = std::iter::once(500).chain(505..600).collect::<Vec<_>>();
        assert_eq!(statuses(Outcome::Fault), faults);
        for failure in [
            Failure::Connect,
            Failure::Unwelcome,
            Failure::Refused,
            Failure::Reset,
            Failure::TimedOut,
            Failure::ResponseStarted,
        ] {
            assert_eq!(failure.outcome(), Outcome::Failure, "{failure:?}");
        }
        assert_eq!(Failure::Stale.outcome(), Outcome::Neutral);
    }
}
