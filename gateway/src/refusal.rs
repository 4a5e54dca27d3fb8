//! Why the gateway itself answers a request, and the one table that maps each reason to statuses.
//!
//! REST clients get the HTTP status and `{"error": …}`, gRPC clients HTTP 200 and the code in `grpc-status`,
//! on every path alike.

use std::sync::Arc;
use std::time::Duration;

use forebay_config::gateway::StaticAnswer;
use forebay_proto::rest::RestError;
use forebay_proto::status::{self, Code};
use http::StatusCode;

use crate::fleet::{Cluster, Unserved};

#[derive(Debug, Clone, thiserror::Error)]
pub enum Refusal {
    #[error("no route for {method} {path}")]
    NoRoute { method: String, path: String },
    #[error("route '{route}' leads to cluster '{cluster}', which does not speak gRPC")]
    NotGrpc { route: String, cluster: String },
    #[error("gRPC needs HTTP/2")]
    GrpcOverHttp1,
    #[error("cluster '{0}' has no healthy endpoint")]
    NoHealthyEndpoint(String),
    #[error("cluster '{0}' has no healthy endpoint with the labels that the request asks for")]
    NobodyInSubset(String),
    #[error("cluster '{cluster}' is overloaded: {why}")]
    Overloaded {
        cluster: String,
        why: &'static str,
        retry_after: Duration,
    },
    #[error("too many requests {by}: at most {requests} in {per:?}")]
    RateLimited {
        requests: u32,
        per: Duration,
        by: &'static str,
        retry_after: Duration,
    },
    #[error("too many requests at a time on this route: at most {most}")]
    TooManyAtATime { most: usize, retry_after: Duration },
    #[error("the gateway keeps as much in memory as it may")]
    OutOfMemory { retry_after: Duration },
    #[error("no answer from cluster '{cluster}' within {timeout:?}")]
    TimedOut { cluster: String, timeout: Duration },
    #[error("the request body did not arrive within {0:?}")]
    BodyTimedOut(Duration),
    #[error("request body is larger than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error(
        "the answer of cluster '{cluster}' is larger than {limit} bytes, which is the most that REST can carry here"
    )]
    AnswerTooLarge { cluster: String, limit: u64 },
    #[error("cluster '{cluster}' failed: {failure}")]
    Upstream {
        cluster: String,
        failure: &'static str,
    },
    #[error("answer of cluster '{cluster}' is malformed: {reason}")]
    BadAnswer { cluster: String, reason: String },
    #[error("{0}")]
    BadRequest(String),
    #[error(transparent)]
    Rest(#[from] RestError),
    #[error("{0}")]
    UnsupportedEncoding(String),
    /// Nobody could answer, and the route has an answer for that.
    #[error("{}", .0.grpc_message)]
    Degraded(Arc<StaticAnswer>),
    /// The client is gone; nobody reads what is written.
    #[error("the client went away")]
    ClientGone,
}

impl Refusal {
    /// Of a request that found no endpoint of `cluster`, or waited for one in vain.
    pub fn unserved(cluster: &Cluster, unserved: Unserved) -> Self {
        let (why, retry_after) = match unserved {
            Unserved::NoEndpoint => return Self::NoHealthyEndpoint(cluster.config.name.clone()),
            Unserved::NobodyInSubset => return Self::NobodyInSubset(cluster.config.name.clone()),
            Unserved::QueueFull(pause) => ("as many requests wait as may", pause),
            Unserved::Hopeless(pause) => ("the request's deadline cannot be met", pause),
            Unserved::LongWait(pause) => ("the wait is longer than max_wait", pause),
            Unserved::Expired => (
                "the deadline passed while the request waited",
                Duration::ZERO,
            ),
        };
        Self::Overloaded {
            cluster: cluster.config.name.clone(),
            why,
            retry_after,
        }
    }

    /// No endpoint could be asked.
    pub fn is_down(&self) -> bool {
        matches!(self, Self::NoHealthyEndpoint(_) | Self::NobodyInSubset(_))
    }

    /// When it may pay to ask again: `Retry-After` over HTTP, `grpc-retry-pushback-ms` over gRPC.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Overloaded { retry_after, .. }
            | Self::OutOfMemory { retry_after }
            | Self::RateLimited { retry_after, .. }
            | Self::TooManyAtATime { retry_after, .. } => Some(*retry_after),
            _ => None,
        }
    }

    pub fn code(&self) -> Code {
        match self {
            Self::NoRoute { .. } | Self::NotGrpc { .. } => Code::Unimplemented,
            Self::NoHealthyEndpoint(_)
            | Self::NobodyInSubset(_)
            | Self::Upstream { .. }
            | Self::OutOfMemory { .. } => Code::Unavailable,
            Self::TimedOut { .. } | Self::BodyTimedOut(_) => Code::DeadlineExceeded,
            Self::TooLarge { .. }
            | Self::AnswerTooLarge { .. }
            | Self::Overloaded { .. }
            | Self::RateLimited { .. }
            | Self::TooManyAtATime { .. } => Code::ResourceExhausted,
            Self::BadAnswer { .. } => Code::Internal,
            Self::BadRequest(_) | Self::UnsupportedEncoding(_) | Self::GrpcOverHttp1 => {
                Code::InvalidArgument
            }
            Self::Rest(error) => error.code,
            Self::Degraded(answer) => Code::from_i32(i32::from(answer.grpc_code)),
            Self::ClientGone => Code::Cancelled,
        }
    }

    pub fn http(&self) -> StatusCode {
        match self {
            Self::NoRoute { .. } => StatusCode::NOT_FOUND,
            Self::Rest(error) => error.status,
            Self::Degraded(answer) => {
                StatusCode::from_u16(answer.status).expect("a validated status")
            }
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTimedOut(_) => StatusCode::REQUEST_TIMEOUT,
            Self::Upstream { .. } | Self::BadAnswer { .. } | Self::AnswerTooLarge { .. } => {
                StatusCode::BAD_GATEWAY
            }
            Self::UnsupportedEncoding(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::GrpcOverHttp1 => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            _ => status::http_status(self.code()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_statuses() {
        let cluster = || "c".to_owned();
        let second = Duration::from_secs(1);
        let table = [
            (
                Refusal::NoRoute {
                    method: "GET".into(),
                    path: "/".into(),
                },
                Code::Unimplemented,
                404,
            ),
            (
                Refusal::NotGrpc {
                    route: "r".into(),
                    cluster: cluster(),
                },
                Code::Unimplemented,
                501,
            ),
            (Refusal::GrpcOverHttp1, Code::InvalidArgument, 505),
            (
                Refusal::NoHealthyEndpoint(cluster()),
                Code::Unavailable,
                503,
            ),
            (Refusal::NobodyInSubset(cluster()), Code::Unavailable, 503),
            (
                Refusal::Overloaded {
                    cluster: cluster(),
                    why: "w",
                    retry_after: second,
                },
                Code::ResourceExhausted,
                429,
            ),
            (
                Refusal::RateLimited {
                    requests: 1,
                    per: second,
                    by: "b",
                    retry_after: second,
                },
                Code::ResourceExhausted,
                429,
            ),
            (
                Refusal::TooManyAtATime {
                    most: 1,
                    retry_after: second,
                },
                Code::ResourceExhausted,
                429,
            ),
            (
                Refusal::OutOfMemory {
                    retry_after: second,
                },
                Code::Unavailable,
                503,
            ),
            (
                Refusal::TimedOut {
                    cluster: cluster(),
                    timeout: second,
                },
                Code::DeadlineExceeded,
                504,
            ),
            (Refusal::BodyTimedOut(second), Code::DeadlineExceeded, 408),
            (Refusal::TooLarge { limit: 1 }, Code::ResourceExhausted, 413),
            (
                Refusal::Upstream {
                    cluster: cluster(),
                    failure: "f",
                },
                Code::Unavailable,
                502,
            ),
            (
                Refusal::BadAnswer {
                    cluster: cluster(),
                    reason: "r".into(),
                },
                Code::Internal,
                502,
            ),
            (Refusal::BadRequest("b".into()), Code::InvalidArgument, 400),
            (
                Refusal::UnsupportedEncoding("e".into()),
                Code::InvalidArgument,
                415,
            ),
            (
                Refusal::Rest(RestError::invalid("r")),
                Code::InvalidArgument,
                400,
            ),
            (
                Refusal::Degraded(Arc::new(StaticAnswer {
                    status: 200,
                    body: None,
                    grpc_code: 5,
                    grpc_message: "m".into(),
                })),
                Code::NotFound,
                200,
            ),
            (Refusal::ClientGone, Code::Cancelled, 499),
        ];
        for (refusal, code, http) in table {
            assert_eq!(
                (refusal.code(), refusal.http().as_u16()),
                (code, http),
                "{refusal}"
            );
        }
    }
}
