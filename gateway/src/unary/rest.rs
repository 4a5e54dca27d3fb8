//! REST of the Open Inference Protocol, answered by gRPC workers: JSON and binary tensors to messages and back.
//!
//! The mapping itself is pure and lives in `forebay_proto::rest`; here are the HTTP parts: sizes, compression of
//! the request body, status lines.

use std::time::Instant;

use bytes::Bytes;
use forebay_proto::framing;
use forebay_proto::rest::{self, OutputForm, RestError};
use forebay_proto::status::{self, Code};
use http::header::{self, HeaderMap, HeaderValue};
use http::uri::PathAndQuery;
use opentelemetry::KeyValue;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::ServerSession;

use super::attempts::{Answered, Call};
use super::course;
use super::inflate::inflate;
use super::{body, headers};
use crate::gateway::{Gateway, Route, Snapshot};
use crate::limits::{self, Permit};
use crate::memory::Held;
use crate::plan;
use crate::protocol::rest_model::RestModel;
use crate::protocol::transcode::{self, Page};
use crate::refusal::Refusal;
use crate::telemetry::trace::RequestTrace;
use crate::traffic::deadline::Deadline;
use crate::upstream::Message;

/// Serves one call to its end; whatever goes wrong becomes a status and `{"error": …}`.
pub async fn serve(gateway: &Gateway, snapshot: &Snapshot, session: &mut ServerSession) {
    let started = Instant::now();
    let _counted = gateway.enter();
    let head = session.req_header();
    let mut trace = snapshot.tracing.begin(
        &head.headers,
        &format!("{} {}", head.method, head.uri.path()),
    );
    let mut permit = None;
    let result = handle(gateway, snapshot, session, started, &trace, &mut permit).await;
    if gateway.is_closing() {
        session.set_keepalive(None);
    }
    let (route, code, status, error) = match result {
        Ok((route, reply)) => {
            let (code, status) = (reply.code, reply.page.status);
            trace.describe_cache(route.cache.is_some(), &reply.cache);
            write(session, reply).await;
            let error = (code != Code::Ok).then(|| code.description().to_owned());
            (Some(route), code, status, error)
        }
        Err((route, refusal)) => {
            refuse(session, &refusal).await;
            let error = Some(refusal.to_string());
            (route, refusal.code(), refusal.http(), error)
        }
    };
    if let Some(route) = route {
        route.metrics.record(code, started.elapsed());
        trace.describe(|| vec![KeyValue::new("forebay.route", route.config.name.clone())]);
    }
    trace.describe(|| {
        let status = i64::from(status.as_u16());
        vec![KeyValue::new("http.response.status_code", status)]
    });
    trace.end(error.as_deref());
}

/// What goes back to the client.
struct Reply {
    page: Page,
    code: Code,
    endpoint: HeaderValue,
    /// What the route's cache says of it.
    cache: HeaderMap,
    /// What it takes.
    held: Held,
}

type Handled<'s> = Result<(&'s Route, Reply), (Option<&'s Route>, Refusal)>;

async fn handle<'s>(
    gateway: &Gateway,
    snapshot: &'s Snapshot,
    session: &mut ServerSession,
    started: Instant,
    trace: &RequestTrace,
    permit: &mut Option<Permit>,
) -> Handled<'s> {
    let head = session.req_header();
    let path = head.uri.path().to_owned();
    let call = match rest::Call::parse(&head.method, &path) {
        Ok(Some(call)) => call,
        Ok(None) => return Err((None, no_route(head))),
        Err(error) => return Err((None, error.into())),
    };
    let named = RestModel::of(&path);
    let (model, version) = named
        .as_ref()
        .map_or((None, None), RestModel::name_and_version);
    let wanted = plan::request_head(head, model, version);
    let Some(route) = snapshot.route(&wanted) else {
        gateway.count_unrouted();
        return Err((None, no_route(head)));
    };
    let fail = |refusal| (Some(route), refusal);
    limits::take(route, session).await.map_err(fail)?;
    let limit = route.config.max_request_bytes;
    let mut held = gateway.memory.hold();
    let body = body::read(session, limit, route.config.timeout, &mut held)
        .await
        .map_err(fail)?
        .make_contiguous()
        .clone();
    *permit = limits::enter(route).map_err(fail)?;
    let head = session.req_header();
    let body = plain(&head.headers, body, limit, &mut held).map_err(fail)?;
    let json_length = json_length(&head.headers).map_err(fail)?;
    let outgoing =
        transcode::request(&call, &body, json_length).map_err(|error| fail(error.into()))?;
    held.grow(outgoing.message.len()).map_err(fail)?;
    let client_timeout = headers::client_timeout(&head.headers);
    let sent = Call {
        path: PathAndQuery::from_static(call.grpc_path()),
        headers: headers::for_rest(&head.headers),
        body: Message::from(outgoing.message),
        deadline: Deadline::from(started, route.config.timeout, client_timeout),
        client_timeout,
        // JSON needs all of it: the route's bound on bodies holds for answers too.
        hold_back: usize::try_from(limit).unwrap_or(usize::MAX),
        held,
        source: plan::source(snapshot, session),
        wish: route.wish(&head.headers),
    };
    let answered = tokio::select! {
        biased;
        result = course::run(route, sent, trace) => result.map_err(fail)?,
        _ = session.read_body_or_idle(true) => return Err(fail(Refusal::ClientGone)),
    };
    reply(route, &call, &outgoing.form, answered)
        .map(|reply| (route, reply))
        .map_err(fail)
}

/// The worker's answer as REST.
fn reply(
    route: &Route,
    call: &rest::Call<'_>,
    form: &OutputForm,
    answered: Answered,
) -> Result<Reply, Refusal> {
    let Answered {
        mut answer,
        status,
        endpoint,
        ..
    } = answered;
    let (cluster, name) = (endpoint.cluster(route), endpoint.name());
    let bad = |reason: String| Refusal::BadAnswer {
        cluster: cluster.to_owned(),
        reason,
    };
    if answer.rest.is_some() && answer.body.len() as u64 <= route.config.max_request_bytes {
        return Err(answer.held.refuse());
    }
    if answer.rest.is_some() {
        return Err(Refusal::AnswerTooLarge {
            cluster: cluster.to_owned(),
            limit: route.config.max_request_bytes,
        });
    }
    let cache = match route.cache {
        None => HeaderMap::new(),
        Some(_) => headers::of_cache(&answer.head.headers),
    };
    let code = Code::from_i32(i32::from(status));
    if code != Code::Ok {
        let trailers = answer.trailers.as_ref().unwrap_or(&answer.head.headers);
        let text = trailers
            .get("grpc-message")
            .or_else(|| answer.head.headers.get("grpc-message"));
        let message = text
            .map(|value| status::decode_message(value.as_bytes()).into_owned())
            .unwrap_or_default();
        let error = RestError::new(code, message);
        let page = Page {
            status: error.status,
            body: error.body(),
            json_length: None,
        };
        return Ok(Reply {
            page,
            code,
            endpoint: name,
            cache,
            held: answer.held,
        });
    }
    let message =
        framing::unary_message(answer.body.make_contiguous()).map_err(|e| bad(e.to_string()))?;
    let page = transcode::answer(call, message, form)?;
    let mut held = answer.held;
    held.must_grow(page.body.len());
    Ok(Reply {
        page,
        code,
        endpoint: name,
        cache,
        held,
    })
}

async fn write(session: &mut ServerSession, reply: Reply) {
    let Reply {
        page,
        endpoint,
        cache: mut response,
        held: _held,
        ..
    } = reply;
    let kind = if page.json_length.is_some() {
        "application/octet-stream"
    } else {
        "application/json"
    };
    response.reserve(6);
    response.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response.insert(header::CONTENT_LENGTH, HeaderValue::from(page.body.len()));
    response.insert(headers::ENDPOINT, endpoint);
    if let Some(length) = page.json_length {
        response.insert(rest::JSON_LENGTH_HEADER, HeaderValue::from(length));
    }
    send(session, page.status, response, page.body).await;
}

/// The gateway's own answer to a REST or plain HTTP client.
pub async fn refuse(session: &mut ServerSession, refusal: &Refusal) {
    if matches!(refusal, Refusal::ClientGone) {
        session.shutdown().await;
        return;
    }
    let written = match refusal {
        Refusal::Degraded(answer) => answer.body.as_ref(),
        _ => None,
    };
    let (kind, body) = match written {
        Some(body) => (
            HeaderValue::from_str(&body.content_type).expect("a validated value of a header"),
            Bytes::from(body.text.clone()),
        ),
        None => (
            HeaderValue::from_static("application/json"),
            RestError::new(refusal.code(), refusal.to_string()).body(),
        ),
    };
    let mut response = HeaderMap::with_capacity(4);
    response.insert(header::CONTENT_TYPE, kind);
    response.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    if let Refusal::Rest(RestError {
        allow: Some(allow), ..
    }) = refusal
    {
        response.insert(header::ALLOW, HeaderValue::from_static(allow));
    }
    if let Some(pause) = refusal.retry_after() {
        response.insert(header::RETRY_AFTER, headers::retry_after(pause));
    }
    if !session.is_body_done() {
        // What is left of the body is not read: the connection cannot carry another request.
        session.set_keepalive(None);
    }
    send(session, refusal.http(), response, body).await;
}

async fn send(
    session: &mut ServerSession,
    status: http::StatusCode,
    response: HeaderMap,
    body: Bytes,
) {
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.status = status;
    parts.headers = response;
    let result = async {
        session
            .write_response_header(Box::new(ResponseHeader::from(parts)))
            .await?;
        session.write_response_body(body, true).await
    };
    if let Err(error) = result.await {
        log::debug!("answer not written: {error}");
        session.shutdown().await;
    }
}

/// Undoes `Content-Encoding`.
fn plain(request: &HeaderMap, body: Bytes, limit: u64, held: &mut Held) -> Result<Bytes, Refusal> {
    match request.get(header::CONTENT_ENCODING) {
        Some(encoding) if encoding != "identity" => {
            let inflated = inflate(encoding.as_bytes(), &body, limit)?;
            held.grow(inflated.len())?;
            Ok(inflated)
        }
        _ => Ok(body),
    }
}

fn json_length(request: &HeaderMap) -> Result<Option<usize>, Refusal> {
    let value = request.get(rest::JSON_LENGTH_HEADER);
    Ok(value
        .map(|value| rest::json_length(value.as_bytes()))
        .transpose()?)
}

fn no_route(head: &RequestHeader) -> Refusal {
    Refusal::NoRoute {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
    }
}
