//! Unary gRPC calls, passed through: the message is peeked at for its model, never decoded.

use std::pin::pin;
use std::time::Instant;

use forebay_proto::framing;
use forebay_proto::status::{self, Code};
use http::HeaderMap;
use http::header::{CONTENT_TYPE, HeaderValue};
use opentelemetry::KeyValue;
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::HttpSession;

use super::attempts::{self, Answered, Call};
use super::inflate::inflate;
use super::{body, headers};
use crate::gateway::{Gateway, Route, Snapshot};
use crate::plan;
use crate::protocol::method::Method;
use crate::protocol::peek::{ModelRef, Peek, peek_framed, peek_model};
use crate::refusal::Refusal;
use crate::telemetry::trace::RequestTrace;
use crate::traffic::deadline::Deadline;
use crate::upstream::Message;

/// Serves one call to its end; whatever goes wrong becomes a status.
pub async fn serve(
    gateway: &Gateway,
    snapshot: &Snapshot,
    session: &mut ServerSession,
    method: Method,
) {
    let started = Instant::now();
    let _counted = gateway.enter();
    let mut trace = begin(gateway, session);
    let result = pin!(handle(gateway, snapshot, session, method, started, &trace)).await;
    let (route, code, error) = match result {
        Ok((route, answered)) => {
            let code = Code::from_i32(i32::from(answered.status));
            pin!(respond(session, answered)).await;
            (Some(route), code, None)
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
) -> Handled<'s> {
    let mut message = pin!(body::read(
        session,
        snapshot.max_request_bytes,
        snapshot.max_timeout
    ))
    .await
    .map_err(|refusal| (None, refusal))?;
    let route = find_route(snapshot, session, method, &mut message).map_err(|refusal| {
        gateway.count_unrouted();
        (None, refusal)
    })?;
    if message.len() as u64 > route.config.max_request_bytes {
        return Err((
            Some(route),
            Refusal::TooLarge {
                limit: route.config.max_request_bytes,
            },
        ));
    }
    let head = session.req_header();
    let Some(path) = head.uri.path_and_query().cloned() else {
        return Err((
            Some(route),
            Refusal::BadRequest("a request needs a path".into()),
        ));
    };
    let client_timeout = headers::client_timeout(&head.headers);
    let call = Call {
        path,
        headers: headers::for_grpc(&head.headers),
        body: message,
        deadline: Deadline::from(started, route.config.timeout, client_timeout),
        client_timeout,
    };
    let mut run = pin!(attempts::run(route, call, trace));
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

fn find_route<'s>(
    snapshot: &'s Snapshot,
    session: &ServerSession,
    method: Method,
    message: &mut Message,
) -> Result<&'s Route, Refusal> {
    let head = session.req_header();
    let mut model = ModelRef::default();
    let inflated;
    if snapshot.routes_by_model()
        && let Some(fields) = method.model_fields()
    {
        // The whole message, as the worker will read it: a field given twice must not route to one model and
        // run another.
        let framed = message.make_contiguous();
        let peeked = match peek_framed(framed, fields, true) {
            Peek::Compressed => {
                let encoding = head
                    .headers
                    .get("grpc-encoding")
                    .map_or(&b"identity"[..], |value| value.as_bytes());
                inflated = inflate(
                    encoding,
                    &framed[framing::HEADER_LENGTH..],
                    snapshot.max_request_bytes,
                )?;
                peek_model(&inflated, fields, true)
            }
            peeked => peeked,
        };
        let Peek::Found(found) = peeked else {
            return Err(Refusal::BadRequest(
                "the request message is malformed: it names no model".into(),
            ));
        };
        model = found;
    }
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

fn begin(gateway: &Gateway, session: &ServerSession) -> RequestTrace {
    let head = session.req_header();
    gateway
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
        answer, endpoint, ..
    } = answered;
    let mut head = answer.head;
    headers::remove_hop_by_hop(&mut head.headers);
    head.headers.insert(headers::ENDPOINT, endpoint);
    let only_head = answer.body.is_empty() && answer.trailers.is_none() && answer.rest.is_none();
    session.write_response_header(Box::new(ResponseHeader::from(head)), only_head)?;
    for chunk in answer.body.chunks() {
        session.write_body(chunk, false).await?;
    }
    let mut trailers = answer.trailers;
    if let Some(mut rest) = answer.rest {
        let broken = |e: h2::Error| {
            pingora::Error::because(pingora::ErrorType::ReadError, "answer broke off", e)
        };
        while let Some(chunk) = rest.data().await {
            let chunk = chunk.map_err(broken)?;
            let length = chunk.len();
            session.write_body(chunk, false).await?;
            let _ = rest.flow_control().release_capacity(length);
        }
        trailers = rest.trailers().await.map_err(broken)?;
    }
    match trailers {
        Some(trailers) => session.write_trailers(trailers),
        None => session.finish(),
    }
}

/// A trailers-only answer: HTTP 200, and the refusal in `grpc-status`.
pub fn refuse(session: &mut ServerSession, refusal: &Refusal) {
    let Some(session) = http2(session) else {
        return;
    };
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from(refusal.code() as i32));
    if let Ok(message) = HeaderValue::from_str(&status::encode_message(&refusal.to_string())) {
        headers.insert("grpc-message", message);
    }
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.headers = headers;
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
