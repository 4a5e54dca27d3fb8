//! Compressed answers over REST, for clients that accept them.

use http::Response;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, HeaderMap, HeaderValue, VARY};

use crate::server::{Body, Encoding, WORTH_COMPRESSING, deflate};

/// Compresses the body of `response` in the encoding that the headers of its request prefer, if it has one piece
/// and gets shorter.
pub async fn compress(request: &HeaderMap, mut response: Response<Body>) -> Response<Body> {
    let accepted = request
        .get(ACCEPT_ENCODING)
        .and_then(|value| value.to_str().ok());
    let Some(encoding) = accepted.and_then(Encoding::accepted) else {
        return response;
    };
    let Body::Full(body) = response.body() else {
        return response;
    };
    if body.len() < WORTH_COMPRESSING {
        return response;
    }
    if let Some(compressed) = deflate(b"", vec![body.clone()], encoding).await {
        *response.body_mut() = Body::Full(compressed.into());
        let headers = response.headers_mut();
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding.name()));
        headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    }
    response
}
