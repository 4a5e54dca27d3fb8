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
    pub fn code(&self) -> Code {
        match self {
            Self::NoRoute { .. } | Self::NotGrpc { .. } => Code::Unimplemented,
            Self::NoHealthyEndpoint(_) | Self::Upstream { .. } => Code::Unavailable,
            Self::TimedOut { .. } | Self::BodyTimedOut(_) => Code::DeadlineExceeded,
            Self::TooLarge { .. } | Self::AnswerTooLarge { .. } => Code::ResourceExhausted,
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
