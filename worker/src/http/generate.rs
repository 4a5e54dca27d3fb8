//! `generate` and `generate_stream`: inference as a flat JSON object. A model answers each request once, so a
//! stream has one event.

use std::time::Instant;

use bytes::Bytes;
use forebay_proto::rest::{self, Field, GenerateCall};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{Method, Response};
use hyper::body::Incoming;

use super::refusal::Refusal;
use super::{aside, body, json, owned, tell};
use crate::server::Body;
use crate::service::{Arrival, Fault, Front, Progress};

const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream; charset=utf-8");

/// Answers the call, with its span.
pub async fn answer(
    front: &Front,
    call: GenerateCall<'_>,
    parts: &Parts,
    body: Incoming,
) -> Response<Body> {
    let name = match call.stream {
        true => "POST /v2/models/{model}/generate_stream",
        false => "POST /v2/models/{model}/generate",
    };
    let traceparent = parts.headers.get("traceparent").map(HeaderValue::as_bytes);
    let mut progress = Progress::new(front.observer.tracing.server(name, traceparent));
    let generated = generate(front, &call, parts, body, &mut progress).await;
    let error = generated.as_ref().err().map(Refusal::to_string);
    let mut response = match generated {
        Ok(body) if call.stream => {
            let mut response = json(rest::event(&body));
            response.headers_mut().insert(CONTENT_TYPE, EVENTS);
            response
        }
        Ok(body) => json(body),
        Err(refusal) => refusal.into_response(),
    };
    progress.tell(&front.load, response.headers_mut());
    if let Some(mut span) = progress.span {
        tell(&mut span, name, parts, response.status());
        span.end(error);
    }
    response
}

async fn generate(
    front: &Front,
    call: &GenerateCall<'_>,
    parts: &Parts,
    body: Incoming,
    progress: &mut Progress,
) -> Result<Bytes, Refusal> {
    let arrival = Arrival {
        at: Instant::now(),
        timeout: None,
    };
    if parts.method != Method::POST {
        return Err(rest::RestError::method_not_allowed(&parts.method, "POST").into());
    }
    let model = &call.model;
    let served = front.model(&model.name, model.version_or_empty())?;
    let fields = served.signature().inputs.iter().map(|spec| Field {
        name: spec.name.clone(),
        datatype: spec.datatype,
        rank: spec.shape.as_ref().map(Vec::len),
    });
    let fields: Vec<Field> = fields.collect();
    let body = body::read(front, &parts.headers, body).await?;
    let model = owned(model);
    let request = aside(body.len(), move || {
        rest::generate_request(&model, &fields, &body)
    })
    .await??;
    let response = front.infer(request, arrival, progress).await?;
    let bytes: usize = response.raw_output_contents.iter().map(Bytes::len).sum();
    let body = aside(bytes, move || rest::generate_answer(&response)).await??;
    let limit = front.max_message_bytes;
    if body.len() > limit {
        let text = format!(
            "answer of {} bytes exceeds the limit of {limit} bytes",
            body.len()
        );
        return Err(Fault::TooLarge(text).into());
    }
    Ok(body)
}
