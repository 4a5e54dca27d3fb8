//! Everything a request can be refused with, and the one table of how clients are told.
//!
//! gRPC gets code and message as grpc-status; REST gets the HTTP status that goes with the code.

use std::time::Duration;

use http::StatusCode;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use crate::inference::InferError;
use crate::measure::Reason;
use crate::repository::{ControlError, LoadError, LookupError};
use crate::server::{InflateError, NoRoom, UnknownEncoding};

/// Asks a gRPC client not to retry before so many milliseconds (gRPC's retry design, "server pushback").
const PUSHBACK: &str = "grpc-retry-pushback-ms";
pub(super) const MIN_RETRY_DELAY: Duration = Duration::from_millis(1);
pub(super) const MAX_RETRY_DELAY: Duration = Duration::from_secs(5);
/// By then requests that hold memory now have been answered, or many more are needed.
const NO_ROOM_RETRY_DELAY: Duration = Duration::from_millis(100);
/// Longest message in bytes: it travels in a header, and may repeat what the caller sent.
const MAX_MESSAGE: usize = 2 << 10;

/// Why a request gets no answer. The text is for the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The request contradicts itself or the model.
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    AlreadyExists(String),
    /// The caller did not show that it may do this.
    #[error("{0}")]
    Unauthenticated(String),
    /// A call of the protocol, or a part of one, that this server does not have.
    #[error("{0}")]
    Unimplemented(String),
    /// Not now: loading, unloading, draining.
    #[error("{0}")]
    Unavailable(String),
    /// Too many requests wait already.
    #[error("{message}")]
    Busy {
        message: String,
        /// When trying again is worth it.
        retry_after: Duration,
    },
    /// A message beyond the configured limit.
    #[error("{0}")]
    TooLarge(String),
    #[error("{0}")]
    DeadlineExceeded(String),
    /// The model failed.
    #[error("{0}")]
    Internal(String),
}

impl Fault {
    /// What the model answered instead of tensors. `retry_after` is asked when its queue is full.
    pub fn from_model(error: InferError, retry_after: impl FnOnce() -> Duration) -> Fault {
        let text = error.to_string();
        match error {
            InferError::InvalidInput(_) => Fault::Invalid(text),
            InferError::QueueFull { .. } => Fault::Busy {
                message: text,
                retry_after: retry_after(),
            },
            InferError::CannotMeetDeadline { expected_wait, .. } => Fault::Busy {
                message: text,
                retry_after: expected_wait.clamp(MIN_RETRY_DELAY, MAX_RETRY_DELAY),
            },
            InferError::DeadlineInQueue(_) | InferError::DeadlineWhileRunning(_) => {
                Fault::DeadlineExceeded(text)
            }
            InferError::AnswerTooLarge { .. } => Fault::TooLarge(text),
            InferError::Unavailable(_) | InferError::StepNotReady { .. } => {
                Fault::Unavailable(text)
            }
            InferError::Engine { .. } => Fault::Internal(text),
            InferError::Begun(error) => Fault::from_model(*error, retry_after),
        }
    }

    pub fn code(&self) -> Code {
        match self {
            Fault::Invalid(_) => Code::InvalidArgument,
            Fault::NotFound(_) => Code::NotFound,
            Fault::AlreadyExists(_) => Code::AlreadyExists,
            Fault::Unauthenticated(_) => Code::Unauthenticated,
            Fault::Unimplemented(_) => Code::Unimplemented,
            Fault::Unavailable(_) => Code::Unavailable,
            Fault::Busy { .. } | Fault::TooLarge(_) => Code::ResourceExhausted,
            Fault::DeadlineExceeded(_) => Code::DeadlineExceeded,
            Fault::Internal(_) => Code::Internal,
        }
    }

    /// The status of a REST answer. 413 says more than the 429 that its code alone would give.
    pub fn http(&self) -> StatusCode {
        match self {
            Fault::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            _ => forebay_proto::status::http_status(self.code()),
        }
    }

    /// Not the caller's own mistake.
    pub fn is_ours(&self) -> bool {
        self.reason() != Reason::Other
    }

    /// What Triton calls the reason in its failure metric.
    pub fn reason(&self) -> Reason {
        match self {
            Fault::Busy { .. } | Fault::DeadlineExceeded(_) | Fault::Unavailable(_) => {
                Reason::Rejected
            }
            Fault::Internal(_) => Reason::Backend,
            Fault::Invalid(_)
            | Fault::NotFound(_)
            | Fault::AlreadyExists(_)
            | Fault::Unauthenticated(_)
            | Fault::Unimplemented(_)
            | Fault::TooLarge(_) => Reason::Other,
        }
    }
}

impl From<LookupError> for Fault {
    fn from(error: LookupError) -> Fault {
        match error {
            LookupError::UnknownModel(name) => {
                Fault::NotFound(format!("Request for unknown model: '{name}' is not found"))
            }
            LookupError::UnknownVersion { name, version } => Fault::NotFound(format!(
                "Request for unknown model: '{name}' version {version} is not found"
            )),
            LookupError::NoVersions(name) => Fault::NotFound(format!(
                "Request for unknown model: '{name}' has no available versions"
            )),
            LookupError::NotReady { .. } => Fault::Unavailable(error.to_string()),
        }
    }
}

impl From<ControlError> for Fault {
    fn from(error: ControlError) -> Fault {
        let text = error.to_string();
        match error {
            ControlError::NotAllowed
            | ControlError::Busy
            | ControlError::TooMuch { .. }
            | ControlError::Closed => Fault::Unavailable(text),
            ControlError::Load(LoadError::Unknown(_)) => Fault::NotFound(text),
            ControlError::Load(LoadError::Failed { .. }) => Fault::Invalid(text),
        }
    }
}

impl From<InflateError> for Fault {
    fn from(error: InflateError) -> Fault {
        match error {
            InflateError::TooLarge(_) => Fault::TooLarge(error.to_string()),
            InflateError::Corrupt(_) => Fault::Invalid(error.to_string()),
            InflateError::NoRoom(error) => error.into(),
        }
    }
}

impl From<NoRoom> for Fault {
    fn from(error: NoRoom) -> Fault {
        Fault::Busy {
            message: error.to_string(),
            retry_after: NO_ROOM_RETRY_DELAY,
        }
    }
}

impl From<UnknownEncoding> for Fault {
    fn from(error: UnknownEncoding) -> Fault {
        Fault::Unimplemented(error.to_string())
    }
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Status {
        let mut metadata = MetadataMap::new();
        if let Fault::Busy { retry_after, .. } = &fault {
            let milliseconds = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX);
            metadata.insert(PUSHBACK, milliseconds.into());
        }
        let mut message = fault.to_string();
        message.truncate(message.floor_char_boundary(MAX_MESSAGE));
        Status::with_metadata(fault.code(), message, metadata)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_its_row_in_the_table() {
        let text = || "why".to_owned();
        let busy = Fault::Busy {
            message: text(),
            retry_after: Duration::from_millis(7),
        };
        let rows = [
            (Fault::Invalid(text()), Code::InvalidArgument, 400, "OTHER"),
            (Fault::NotFound(text()), Code::NotFound, 404, "OTHER"),
            (
                Fault::AlreadyExists(text()),
                Code::AlreadyExists,
                409,
                "OTHER",
            ),
            (
                Fault::Unauthenticated(text()),
                Code::Unauthenticated,
                401,
                "OTHER",
            ),
            (
                Fault::Unimplemented(text()),
                Code::Unimplemented,
                501,
                "OTHER",
            ),
            (
                Fault::Unavailable(text()),
                Code::Unavailable,
                503,
                "REJECTED",
            ),
            (busy, Code::ResourceExhausted, 429, "REJECTED"),
            (
                Fault::TooLarge(text()),
                Code::ResourceExhausted,
                413,
                "OTHER",
            ),
            (
                Fault::DeadlineExceeded(text()),
                Code::DeadlineExceeded,
                504,
                "REJECTED",
            ),
            (Fault::Internal(text()), Code::Internal, 500, "BACKEND"),
        ];
        for (fault, code, http, reason) in rows {
            assert_eq!(
                (fault.code(), fault.http().as_u16(), fault.reason().name()),
                (code, http, reason)
            );
            let busy = matches!(fault, Fault::Busy { .. });
            let status = Status::from(fault);
            assert_eq!((status.code(), status.message()), (code, "why"));
            let pushback = status
                .metadata()
                .get(PUSHBACK)
                .map(|value| value.to_str().unwrap());
            assert_eq!(pushback, busy.then_some("7"));
        }
    }

    #[test]
    fn what_the_model_says_becomes_a_fault() {
        let model = || "mlp".to_owned();
        let cases = [
            (
                InferError::InvalidInput("index 7".into()),
                Code::InvalidArgument,
            ),
            (
                InferError::QueueFull {
                    model: model(),
                    limit: 4,
                },
                Code::ResourceExhausted,
            ),
            (
                InferError::CannotMeetDeadline {
                    model: model(),
                    expected_wait: Duration::from_millis(40),
                },
                Code::ResourceExhausted,
            ),
            (InferError::DeadlineInQueue(model()), Code::DeadlineExceeded),
            (
                InferError::DeadlineWhileRunning(model()),
                Code::DeadlineExceeded,
            ),
            (
                InferError::AnswerTooLarge {
                    model: model(),
                    bytes: 9,
                    limit: 8,
                },
                Code::ResourceExhausted,
            ),
            (InferError::Unavailable(model()), Code::Unavailable),
            (
                InferError::Engine {
                    model: "mlp".into(),
                    message: "broke".into(),
                },
                Code::Internal,
            ),
        ];
        for (error, code) in cases {
            let text = error.to_string();
            let fault = Fault::from_model(error, || Duration::from_secs(1));
            assert_eq!((fault.code(), fault.to_string()), (code, text));
        }
    }

    #[test]
    fn who_cannot_be_in_time_is_told_when_to_come_back() {
        for (expected_wait, retry_after) in [
            (Duration::from_millis(40), Duration::from_millis(40)),
            (Duration::from_secs(60), MAX_RETRY_DELAY),
            (Duration::ZERO, MIN_RETRY_DELAY),
        ] {
            let error = InferError::CannotMeetDeadline {
                model: "mlp".into(),
                expected_wait,
            };
            let fault = Fault::from_model(error, || Duration::MAX);
            assert!(
                matches!(fault, Fault::Busy { retry_after: after, .. } if after == retry_after)
            );
        }
    }

    #[test]
    fn messages_fit_into_a_header() {
        let status = Status::from(Fault::Invalid("é".repeat(10_000)));
        assert!(status.message().len() <= MAX_MESSAGE);
    }
}
