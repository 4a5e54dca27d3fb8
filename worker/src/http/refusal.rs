//! How a refused REST request is answered: a status, and `{"error": "…"}`.

use std::fmt;

use forebay_proto::rest::{RestError, error_body};
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Response, StatusCode};

use crate::server::Body;
use crate::service::Fault;

/// What went wrong: the body as REST, or the request itself.
#[derive(Debug)]
pub enum Refusal {
    Rest(RestError),
    Fault(Fault),
}

impl Refusal {
    pub fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::Full(error_body(&self.to_string())));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        match self {
            Refusal::Rest(error) => {
                if let Some(method) = error.allow {
                    headers.insert(ALLOW, HeaderValue::from_static(method));
                }
            }
            Refusal::Fault(Fault::Busy { retry_after, .. }) => {
                let seconds = retry_after.as_secs_f64().ceil() as u64;
                headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
            }
            Refusal::Fault(Fault::Unauthenticated(_)) => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Refusal::Fault(_) => {}
        }
        response
    }

    fn status(&self) -> StatusCode {
        match self {
            Refusal::Rest(error) => error.status,
            Refusal::Fault(fault) => fault.http(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Rest(error) => error.fmt(formatter),
            Refusal::Fault(fault) => fault.fmt(formatter),
        }
    }
}

impl From<RestError> for Refusal {
    fn from(error: RestError) -> Refusal {
        Refusal::Rest(error)
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Refusal {
        Refusal::Fault(fault)
    }
}
