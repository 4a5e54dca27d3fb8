//! Errors of a REST call, and how they are told.

use bytes::Bytes;
use http::StatusCode;
use serde_json::json;

use crate::status::{Code, http_status};

/// Longest message, as parts of it may repeat what a peer sent.
const MAX_MESSAGE: usize = 1024;

/// A call that failed: a message, and what it means over HTTP and over gRPC.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RestError {
    pub status: StatusCode,
    pub code: Code,
    pub message: String,
    /// For the `allow` header: the method that would have been right.
    pub allow: Option<&'static str>,
}

impl RestError {
    /// With the HTTP status that the table in [`crate::status`] gives the code.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            status: http_status(code),
            code,
            message: clip(message.into()),
            allow: None,
        }
    }

    /// The request is at fault: 400, INVALID_ARGUMENT.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, message)
    }

    /// The path exists, but not with this method: 405.
    pub fn method_not_allowed(method: &http::Method, allow: &'static str) -> Self {
        Self {
            status: StatusCode::METHOD_NOT_ALLOWED,
            allow: Some(allow),
            ..Self::new(
                Code::Unimplemented,
                format!("method {method} is not allowed here, use {allow}"),
            )
        }
    }

    /// The body exceeds a limit: 413, RESOURCE_EXHAUSTED.
    pub fn too_large(limit: u64) -> Self {
        Self {
            status: StatusCode::PAYLOAD_TOO_LARGE,
            ..Self::new(
                Code::ResourceExhausted,
                format!("body exceeds the limit of {limit} bytes"),
            )
        }
    }

    /// The JSON body that tells this error.
    pub fn body(&self) -> Bytes {
        error_body(&self.message)
    }
}

/// The JSON body that tells an error.
pub fn error_body(message: &str) -> Bytes {
    json!({ "error": message }).to_string().into()
}

fn clip(mut message: String) -> String {
    if message.len() > MAX_MESSAGE {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE));
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_as_json() {
        let error = RestError::new(Code::NotFound, "no \"model\"");
        assert_eq!(error.status, 404);
        assert_eq!(error.body(), r#"{"error":"no \"model\""}"#);
    }

    #[test]
    fn some_errors_have_a_status_outside_the_table() {
        let error = RestError::method_not_allowed(&http::Method::PUT, "POST");
        assert_eq!((error.status.as_u16(), error.allow), (405, Some("POST")));
        let error = RestError::too_large(16);
        assert_eq!(error.status, 413);
        assert_eq!(error.code, Code::ResourceExhausted);
    }

    #[test]
    fn messages_are_bounded() {
        let error = RestError::invalid("é".repeat(100_000));
        assert!(error.message.len() <= MAX_MESSAGE + '…'.len_utf8());
    }
}
