//! REST of the Open Inference Protocol, and `/metrics`.
//!
//! Bodies are read, inflated and bounded here; what they mean is `forebay_proto::rest`'s, and every answer
//! comes from the same `Front` as over gRPC.

mod body;
mod compress;
mod generate;
mod refusal;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use forebay_proto::rest::{self, Call, GenerateCall, JSON_LENGTH_HEADER, MemoryCall, Model};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use self::refusal::Refusal;
use crate::server::Body;
use crate::service::{Arrival, Fault, Front, Progress, no_cuda};
use crate::telemetry::prometheus;
use crate::telemetry::spans::ServerSpan;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Of an answer with binary tensors.
const BINARY: HeaderValue = HeaderValue::from_static("application/octet-stream");
/// A body of so many bytes takes about a millisecond to convert.
const WORTH_A_THREAD: usize = 128 << 10;

/// Answers one request.
pub async fn answer(front: Arc<Front>, request: Request<Incoming>) -> Response<Body> {
    let at = Instant::now();
    let (parts, body) = request.into_parts();
    let answer = plain_answer(&front, &parts, body, at).await;
    compress::compress(&parts.headers, answer).await
}

async fn plain_answer(front: &Front, parts: &Parts, body: Incoming, at: Instant) -> Response<Body> {
    if parts.uri.path() == "/metrics" {
        return metrics(front, &parts.method);
    }
    let answered = match Call::parse(&parts.method, parts.uri.path()) {
        Ok(Some(Call::Infer(model))) => return traced(front, &model, parts, body, at).await,
        Ok(Some(call)) => document(front, call, parts, body).await,
        Ok(None) => match GenerateCall::parse(parts.uri.path()) {
            Ok(Some(call)) => return generate::answer(front, call, parts, body).await,
            Ok(None) => Err(Refusal::from(Fault::NotFound(format!(
                "there is no '{}' here",
                parts.uri.path()
            )))),
            Err(error) => Err(error.into()),
        },
        Err(error) => Err(error.into()),
    };
    answered.unwrap_or_else(Refusal::into_response)
}

/// Every call but inference.
async fn document(
    front: &Front,
    call: Call<'_>,
    parts: &Parts,
    body: Incoming,
) -> Result<Response<Body>, Refusal> {
    let version = |model: &Model<'_>| model.version_or_empty().to_owned();
    Ok(match call {
        Call::ServerMetadata => json(rest::server_metadata(&front.server_metadata())),
        Call::ServerLive => json(rest::live(true)),
        Call::ServerReady => {
            let ready = front.ready();
            readiness(ready, rest::ready(ready))
        }
        Call::ModelReady(model) => {
            let ready = front.model_ready(&model.name, &version(&model));
            readiness(ready, rest::model_ready(&model.name, ready))
        }
        Call::ModelMetadata(model) => json(rest::model_metadata(
            &front.model_metadata(&model.name, &version(&model))?,
        )),
        Call::ModelConfig(model) => {
            let answer = front.model_config(&model.name, &version(&model))?;
            json(rest::model_config(&answer.config.unwrap_or_default()))
        }
        Call::ModelStatistics(model) => {
            let (name, version) = model.map_or_else(Default::default, |model| {
                (model.name.clone().into_owned(), version(&model))
            });
            json(rest::model_statistics(
                &front.model_statistics(&name, &version)?,
            ))
        }
        Call::RepositoryIndex => {
            let body = body::read(front, &parts.headers, body).await?;
            let request = rest::index_request(&body)?;
            json(rest::repository_index(
                &front.repository_index(request.ready).await,
            ))
        }
        Call::RepositoryLoad(name) => {
            front.guard.check(&parts.headers)?;
            let body = body::read(front, &parts.headers, body).await?;
            front.load_model(rest::load_request(&name, &body)?).await?;
            Response::new(Body::Empty)
        }
        Call::RepositoryUnload(name) => {
            front.guard.check(&parts.headers)?;
            let body = body::read(front, &parts.headers, body).await?;
            let request = rest::unload_request(&name, &body)?;
            front.unload_model(request).await?;
            Response::new(Body::Empty)
        }
        Call::Memory(call) => memory(front, call, parts, body).await?,
        Call::TraceSetting(model) => {
            let body = body::read(front, &parts.headers, body).await?;
            let request = rest::trace_request(model.as_deref(), &body)?;
            if !request.settings.is_empty() {
                front.guard.check(&parts.headers)?;
            }
            json(rest::trace_settings(&front.trace_settings(&request)?))
        }
        Call::LogSettings => {
            let body = body::read(front, &parts.headers, body).await?;
            let request = rest::log_request(&body)?;
            if !request.settings.is_empty() {
                front.guard.check(&parts.headers)?;
            }
            json(rest::log_settings(&front.log_settings(&request)?))
        }
        Call::Infer(_) => {
            return Err(Fault::Unimplemented(format!(
                "this server does not support '{}'",
                parts.uri.path()
            ))
            .into());
        }
    })
}

/// The calls about shared memory.
async fn memory(
    front: &Front,
    call: MemoryCall<'_>,
    parts: &Parts,
    body: Incoming,
) -> Result<Response<Body>, Refusal> {
    use rest::Memory::{Cuda, System};
    let named = |region: Option<Cow<'_, str>>| region.unwrap_or_default().into_owned();
    if call.method() == "POST" {
        front.guard.check(&parts.headers)?;
    }
    Ok(match call {
        MemoryCall::Status(System, region) => {
            json(rest::system_memory(&front.system_memory(&named(region))?))
        }
        MemoryCall::Status(Cuda, region) => {
            json(rest::cuda_memory(&front.cuda_memory(&named(region))?))
        }
        MemoryCall::Register(System, region) => {
            let body = body::read(front, &parts.headers, body).await?;
            front.register_system_memory(&rest::register_request(&region, &body)?)?;
            json(Bytes::new())
        }
        MemoryCall::Register(Cuda, region) => return Err(no_cuda(&region).into()),
        MemoryCall::Unregister(System, region) => {
            front.unregister_system_memory(&named(region));
            json(Bytes::new())
        }
        MemoryCall::Unregister(Cuda, _) => json(Bytes::new()),
    })
}

/// Inference, with its span.
async fn traced(
    front: &Front,
    model: &Model<'_>,
    parts: &Parts,
    body: Incoming,
    at: Instant,
) -> Response<Body> {
    const NAME: &str = "POST /v2/models/{model}/infer";
    let traceparent = parts.headers.get("traceparent").map(HeaderValue::as_bytes);
    let mut progress = Progress::new(front.observer.tracing.server(NAME, traceparent));
    let answered = infer(front, model, &parts.headers, body, at, &mut progress).await;
    let error = answered.as_ref().err().map(Refusal::to_string);
    let mut response = answered.unwrap_or_else(Refusal::into_response);
    progress.tell(&front.load, response.headers_mut());
    if let Some(mut span) = progress.span {
        tell(&mut span, NAME, parts, response.status());
        span.end(error);
    }
    response
}

/// What the span of a call says of it. `name` is method and route.
fn tell(span: &mut ServerSpan, name: &'static str, parts: &Parts, status: StatusCode) {
    if let Some((method, route)) = name.split_once(' ') {
        span.set("http.request.method", method);
        span.set("http.route", route);
    }
    span.set("url.path", parts.uri.path().to_owned());
    span.set("http.response.status_code", i64::from(status.as_u16()));
}

async fn infer(
    front: &Front,
    model: &Model<'_>,
    headers: &HeaderMap,
    body: Incoming,
    at: Instant,
    progress: &mut Progress,
) -> Result<Response<Body>, Refusal> {
    let body = body::read(front, headers, body).await?;
    let json_length = headers
        .get(JSON_LENGTH_HEADER)
        .map(|value| rest::json_length(value.as_bytes()))
        .transpose()?;
    let model = owned(model);
    let call = aside(body.len(), move || {
        rest::infer_request(&model, &body, json_length)
    })
    .await??;
    let form = call.form;
    let response = front
        .infer(call.request, Arrival { at, timeout: None }, progress)
        .await?;
    let bytes: usize = response.raw_output_contents.iter().map(Bytes::len).sum();
    let answer = aside(bytes, move || rest::infer_answer(&response, &form)).await??;
    if answer.body.len() > front.max_message_bytes {
        let limit = front.max_message_bytes;
        let text = format!(
            "answer of {} bytes exceeds the limit of {limit} bytes",
            answer.body.len()
        );
        return Err(Fault::TooLarge(text).into());
    }
    let Some(length) = answer.json_length else {
        return Ok(json(answer.body));
    };
    let mut response = with_type(BINARY, answer.body);
    response
        .headers_mut()
        .insert(JSON_LENGTH_HEADER, HeaderValue::from(length));
    Ok(response)
}

fn owned(model: &Model<'_>) -> Model<'static> {
    let owned = |text: &Cow<'_, str>| Cow::Owned(text.clone().into_owned());
    Model {
        name: owned(&model.name),
        version: model.version.as_ref().map(owned),
    }
}

/// Runs `work` here when it is about few bytes, else on a thread that may take its time: JSON of some size
/// would hold up every other request of this thread.
async fn aside<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Fault> {
    if bytes < WORTH_A_THREAD {
        return Ok(work());
    }
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Fault::Internal(format!("body could not be converted: {error}")))
}

fn metrics(front: &Front, method: &Method) -> Response<Body> {
    if method != Method::GET {
        return Refusal::from(rest::RestError::method_not_allowed(method, "GET")).into_response();
    }
    let page = front.observer.metrics.page(&front.registry.models());
    with_type(
        HeaderValue::from_static(prometheus::CONTENT_TYPE),
        page.into(),
    )
}

fn readiness(ready: bool, body: Bytes) -> Response<Body> {
    let mut response = json(body);
    *response.status_mut() = rest::readiness_status(ready);
    response
}

fn json(body: Bytes) -> Response<Body> {
    with_type(JSON, body)
}

fn with_type(content_type: HeaderValue, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::Full(body));
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

#[cfg(test)]
mod tests;
