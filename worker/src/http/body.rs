//! A request body: read whole up to the limit, and inflated up to the same limit.

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::refusal::Refusal;
use crate::server::{Encoding, Gathered, inflate};
use crate::service::{Fault, Front};

/// Refuses by the announced length where there is one, else as soon as too much has arrived.
pub async fn read(
    front: &Front,
    headers: &HeaderMap,
    mut body: Incoming,
) -> Result<Bytes, Refusal> {
    let limit = front.max_message_bytes;
    let too_large = || {
        Refusal::from(Fault::TooLarge(format!(
            "body exceeds the limit of {limit} bytes"
        )))
    };
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let encoding = headers
        .get(CONTENT_ENCODING)
        .map_or("", |value| value.to_str().unwrap_or("?"));
    let encoding = Encoding::from_header(encoding).map_err(Fault::from)?;

    let mut gathered = Gathered::new(&front.bodies);
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| Fault::Invalid(format!("request body broke off: {error}")))?;
        if let Ok(data) = frame.into_data() {
            gathered.push(data).map_err(Fault::from)?;
        }
        if gathered.bytes().len() > limit {
            return Err(too_large());
        }
    }
    let length = gathered.bytes().len();
    let body = gathered.take(length);
    match encoding {
        None => Ok(body),
        Some(encoding) => {
            let inflated = inflate(body, encoding, limit, gathered.share()).await;
            Ok(inflated.map_err(Fault::from)?)
        }
    }
}
