//! Unary gRPC calls, passed through: the message is peeked at for its model, never decoded.

use std::pin::pin;
use std::time::Instant;

use forebay_proto::framing;
use forebay_proto::status::{self, Code};
use h2::RecvStream;
use http::HeaderMap;
use http::header::{CONTENT_TYPE, HeaderValue};
use opentelemetry::KeyValue;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::HttpSession;

use super::attempts::{self, Answered, Call};
use super::course;
use super::inflate::inflate;
use super::tail::Tail;
use super::{body, headers};
use crate::gateway::{Gateway, Route, Snapshot};
use crate::limits::{self, Permit};
use crate::plan;
use crate::protocol::method::Method;
use crate::protocol::peek::{ModelRef, Peek, peek_framed, peek_model};
use crate::refusal::Refusal;
use crate::telemetry::trace::RequestTrace;
use crate::traffic::deadline::Deadline;
use crate::upstream::Message;

/// Answers up to this size are held back until they are complete, so that a worker that dies in mid-answer costs
/// a retry.
const HOLD_BACK: usize = 4 << 20;

/// Serves one call to its end; whatever goes wrong becomes a status.
pub async fn serve(
    gateway: &Gateway,
    snapshot: &Snapshot,
    session: &mut ServerSession,
    method: Method,
) {
    let started = Instant::now();
    let _counted = gateway.enter();
    let mut trace = begin(snapshot, session);
    let mut permit = None;
    let result = pin!(handle(
        gateway,
        snapshot,
        session,
        method,
        started,
        &trace,
        &mut permit
    ))
    .await;
    let (route, code, error) = match result {
        Ok((route, answered)) => {
            let code = Code::from_i32(i32::from(answered.status));
            trace.describe_cache(route.cache.is_some(), &answered.answer.head.headers);
            pin!(respond(session, answered)).await;
            let error = (code != Code::Ok).then(|| code.description().to_owned());
            (Some(route), code, error)
        }
        Err((route, refusal)) => {
            refuse(session, &refusal);
            (route, refusal.code(), Some(refusal.to_string()))
        }
    };
    if let Some(route) = route {
        route.metrics.record(code, started.elapsed());
        trace.describe(|| vec![KeyValue::new("forebay.route", route.config.name.clone())]);
    }
    trace.describe(|| {
        vec![
            KeyValue::new("rpc.system", "grpc"),
            KeyValue::new("rpc.grpc.status_code", code as i64),
        ]
    });
    trace.end(error.as_deref());
}

type Handled<'s> = Result<(&'s Route, Answered), (Option<&'s Route>, Refusal)>;

async fn handle<'s>(
    gateway: &Gateway,
    snapshot: &'s Snapshot,
    session: &mut ServerSession,
    method: Method,
    started: Instant,
    trace: &RequestTrace,
    permit: &mut Option<Permit>,
) -> Handled<'s> {
    let head = session.req_header();
    let client_timeout = headers::client_timeout(&head.headers);
    let named = snapshot.routes_by_model() && method.model_fields().is_some();
    // A route that looks at models is known only after the body: the most that any route allows bounds it.
    let early = match named {
        true => None,
        false => Some(
            find_route(snapshot, head, ModelRef::default()).map_err(|refusal| {
                gateway.count_unrouted();
                (None, refusal)
            })?,
        ),
    };
    if let Some(route) = early {
        let taken = limits::take(route, session).await;
        taken.map_err(|refusal| (early, refusal))?;
    }
    let limit = early.map_or(snapshot.max_request_bytes, |route| {
        route.config.max_request_bytes
    });
    let time = early.map_or(snapshot.max_timeout, |route| route.config.timeout);
    let time = client_timeout.map_or(time, |own| own.min(time));
    let mut held = gateway.memory.hold();
    let mut message = pin!(body::read(session, limit, time, &mut held))
        .await
        .map_err(|refusal| (early, refusal))?;
    let head = session.req_header();
    let route = match early {
        Some(route) => route,
        None => {
            let route = route_by_model(snapshot, head, method, &mut message);
            let route = route.map_err(|refusal| {
                gateway.count_unrouted();
                (None, refusal)
            })?;
            let taken = limits::take(route, session).await;
            taken.map_err(|refusal| (Some(route), refusal))?;
            route
        }
    };
    *permit = limits::enter(route).map_err(|refusal| (Some(route), refusal))?;
    if message.len() as u64 > route.config.max_request_bytes {
        let limit = route.config.max_request_bytes;
        return Err((Some(route), Refusal::TooLarge { limit }));
    }
    let Some(path) = head.uri.path_and_query().cloned() else {
        return Err((
            Some(route),
            Refusal::BadRequest("a request needs a path".into()),
        ));
    };
    let call = Call {
        path,
        headers: headers::for_grpc(&head.headers),
        body: message,
        deadline: Deadline::from(started, route.config.timeout, client_timeout),
        client_timeout,
        hold_back: HOLD_BACK,
        held,
        source: plan::source(snapshot, session),
        wish: route.wish(&head.headers),
    };
    let mut run = pin!(course::run(route, call, trace));
    // A client that resets its stream ends the attempts, which resets them in turn.
    tokio::select! {
        biased;
        result = &mut run => match result {
            Ok(answered) => Ok((route, answered)),
            Err(refusal) => Err((Some(route), refusal)),
        },
        _ = session.read_body_or_idle(true) => Err((Some(route), Refusal::ClientGone)),
    }
}

/// The route of a call whose model stands in its message, which is read as the worker will read it: a field given
/// twice must not route to one model and run another.
fn route_by_model<'s>(
    snapshot: &'s Snapshot,
    head: &RequestHeader,
    method: Method,
    message: &mut Message,
) -> Result<&'s Route, Refusal> {
    let Some(fields) = method.model_fields() else {
        return find_route(snapshot, head, ModelRef::default());
    };
    let framed = message.make_contiguous();
    let inflated;
    let peeked = match peek_framed(framed, fields, true) {
        Peek::Compressed => {
            let encoding = head.headers.get("grpc-encoding");
            let encoding = encoding.map_or(&b"identity"[..], |value| value.as_bytes());
            let body = &framed[framing::HEADER_LENGTH..];
            inflated = inflate(encoding, body, snapshot.max_request_bytes)?;
            peek_model(&inflated, fields, true)
        }
        peeked => peeked,
    };
    match peeked {
        Peek::Found(model) => find_route(snapshot, head, model),
        _ => Err(Refusal::BadRequest(
            "the request message is malformed: it names no model".into(),
        )),
    }
}

fn find_route<'s>(
    snapshot: &'s Snapshot,
    head: &RequestHeader,
    model: ModelRef<'_>,
) -> Result<&'s Route, Refusal> {
    let wanted = plan::request_head(head, model.name, model.version);
    let route = snapshot.route(&wanted).ok_or_else(|| Refusal::NoRoute {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
    })?;
    if route.cluster.config.protocol != forebay_config::gateway::Protocol::Grpc {
        return Err(Refusal::NotGrpc {
            route: route.config.name.clone(),
            cluster: route.config.cluster.clone(),
        });
    }
    Ok(route)
}

fn begin(snapshot: &Snapshot, session: &ServerSession) -> RequestTrace {
    let head = session.req_header();
    snapshot
        .tracing
        .begin(&head.headers, head.uri.path().trim_start_matches('/'))
}

async fn respond(session: &mut ServerSession, answered: Answered) {
    let Some(session) = http2(session) else {
        return;
    };
    if let Err(error) = write(session, answered).await {
        log::debug!("answer not written: {error}");
        session.shutdown_with_reason(h2::Reason::CANCEL);
    }
}

async fn write(session: &mut HttpSession, answered: Answered) -> pingora::Result<()> {
    let Answered {
        answer,
        endpoint,
        tail,
        ..
    } = answered;
    let mut head = answer.head;
    headers::strip_answer(&mut head.headers);
    head.headers.insert(headers::ENDPOINT, endpoint.name());
    let only_head = answer.body.is_empty() && answer.trailers.is_none() && answer.rest.is_none();
    session.write_response_header(Box::new(ResponseHeader::from(head)), only_head)?;
    for chunk in answer.body.chunks() {
        session.write_body(chunk, false).await?;
    }
    let mut trailers = answer.trailers;
    if let (Some(rest), Some(tail)) = (answer.rest, tail) {
        trailers = stream(session, rest, tail).await?;
    }
    match trailers {
        Some(mut trailers) => {
            headers::strip_answer(&mut trailers);
            session.write_trailers(trailers)
        }
        None => session.finish(),
    }
}

/// Passes on the rest of an answer that was too large to be held back, and gives back its trailers. The call's
/// deadline holds, and a client that goes away ends it.
async fn stream(
    session: &mut HttpSession,
    mut rest: RecvStream,
    tail: Tail,
) -> pingora::Result<Option<HeaderMap>> {
    let broken = |reason: String| pingora::Error::explain(pingora::ErrorType::ReadError, reason);
    let passing = async {
        loop {
            let chunk = tokio::select! {
                biased;
                chunk = rest.data() => chunk,
                gone = session.read_body_or_idle(true) => return gone.map(|_| Ok(None)),
            };
            let Some(chunk) = chunk else {
                return Ok(rest.trailers().await);
            };
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(error) => return Ok(Err(error)),
            };
            let length = chunk.len();
            session.write_body(chunk, false).await?;
            let _ = rest.flow_control().release_capacity(length);
        }
    };
    match tokio::time::timeout(tail.time_left(), passing).await {
        Err(_) => {
            tail.end(None);
            Err(broken(
                "the rest of the answer did not come in time".to_owned(),
            ))
        }
        // The client went away: the tail is dropped, and the attempt counts as given up.
        Ok(Err(gone)) => Err(gone),
        Ok(Ok(Err(error))) => {
            tail.end(None);
            Err(broken(error.to_string()))
        }
        Ok(Ok(Ok(trailers))) => {
            let status = trailers.as_ref().and_then(attempts::grpc_status);
            tail.end(Some(status.unwrap_or(Code::Unknown as u16)));
            Ok(trailers)
        }
    }
}

/// A trailers-only answer: HTTP 200, and the refusal in `grpc-status`.
pub fn refuse(session: &mut ServerSession, refusal: &Refusal) {
    let Some(session) = http2(session) else {
        return;
    };
    let mut response = HeaderMap::with_capacity(4);
    response.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response.insert("grpc-status", HeaderValue::from(refusal.code() as i32));
    if let Ok(message) = HeaderValue::from_str(&status::encode_message(&refusal.to_string())) {
        response.insert("grpc-message", message);
    }
    if let Some(pause) = refusal.retry_after() {
        response.insert("grpc-retry-pushback-ms", headers::pushback(pause));
    }
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.headers = response;
    if let Err(error) = session.write_response_header(Box::new(ResponseHeader::from(parts)), true) {
        log::debug!("refusal not written: {error}");
    }
}

fn http2(session: &mut ServerSession) -> Option<&mut HttpSession> {
    match session {
        ServerSession::H2(session) => Some(session),
        _ => None,
    }
}
