//! The data path of everything that streams: generic HTTP, WebSocket, server-sent events, streaming gRPC.
//!
//! pingora's proxy moves the bytes; each phase here is a short step: route, lease, adjust headers, judge the
//! outcome. Unary inference over HTTP/1 arrives here too, since pingora reads HTTP/1 heads, and is handed to
//! `unary` in the first phase.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use forebay_config::gateway::{Mode, Protocol};
use forebay_proto::status::{self, Code};
use http::header::{self, HeaderMap};
use opentelemetry::KeyValue;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::{Error, HttpPeer};
use pingora::protocols::http::ServerSession;
use pingora::proxy::{FailToProxy, ProxyHttp, Session};
use pingora::{ErrorSource, ErrorType, Result};

use crate::context::{Context, Routed};
use crate::fleet::Outcome;
use crate::gateway::{Gateway, Snapshot};
use crate::plan::{self, Plan};
use crate::protocol::method::Method;
use crate::protocol::peek::{Peek, peek_framed};
use crate::protocol::rest_model::RestModel;
use crate::refusal::Refusal;
use crate::telemetry::trace::TRACEPARENT;
use crate::traffic::deadline::Deadline;
use crate::traffic::retry::Failure;
use crate::unary::{self, headers};

/// Concurrent streams per pooled upstream connection; part of pingora's reuse key, so one value for all.
const UPSTREAM_STREAMS: usize = 128;

/// What is read of a stream before its route is known; pingora replays no more than 64 KiB to the endpoint.
const PEEK_LIMIT: usize = 32 << 10;

/// How long an HTTP/1 client may pause within a body, and between two requests (nginx's defaults are 60 s and 75 s).
const CLIENT_SILENCE: Duration = Duration::from_secs(60);

pub struct Proxy {
    pub gateway: Arc<Gateway>,
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context::new(&self.gateway)
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Context) -> Result<bool> {
        let snapshot = self.gateway.snapshot();
        let http2 = session.is_http2();
        ctx.is_grpc = session
            .req_header()
            .headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"));
        if !http2 {
            self.relax_timeouts(session);
            if ctx.is_grpc {
                return refuse(session, ctx, Refusal::GrpcOverHttp1).await;
            }
            if let Plan::Rest = plan::of(&snapshot, session.req_header(), false) {
                ctx.handled = true;
                ctx.counted = None;
                unary::serve_rest(&self.gateway, &snapshot, &mut session.downstream_session).await;
                return Ok(true);
            }
        }
        let head = session.req_header();
        ctx.trace = self.gateway.tracing.begin(
            &head.headers,
            &format!("{} {}", head.method, head.uri.path()),
        );
        let found = match self.find_route(&snapshot, session).await {
            Ok(found) => found,
            Err(refusal) => {
                self.gateway.count_unrouted();
                return refuse(session, ctx, refusal).await;
            }
        };
        let route = &snapshot.routes[found];
        if route.cluster.config.protocol == Protocol::Grpc
            && !ctx.is_grpc
            && route.config.mode != Mode::Stream
        {
            let head = session.req_header();
            let (method, path) = (head.method.to_string(), head.uri.path().to_owned());
            return refuse(session, ctx, Refusal::NoRoute { method, path }).await;
        }
        let deadline = headers::client_timeout(&session.req_header().headers)
            .map(|own| Deadline::from(ctx.started, Duration::MAX, Some(own)));
        ctx.routed = Some(Routed::new(snapshot, found, deadline));
        Ok(false)
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        ctx: &mut Context,
    ) -> Result<Box<HttpPeer>> {
        let now = Instant::now();
        let Some(routed) = &ctx.routed else {
            return Err(Error::explain(ErrorType::HTTPStatus(404), "no route"));
        };
        let route = routed.route();
        let cluster = &route.cluster;
        let Ok(lease) = cluster.lease(&ctx.tried, fastrand::u64(..), now) else {
            if ctx.refusal.is_none() {
                ctx.refusal = Some(Refusal::NoHealthyEndpoint(cluster.config.name.clone()));
            }
            return Err(Error::explain(
                ErrorType::HTTPStatus(503),
                "no healthy endpoint",
            ));
        };
        let endpoint = lease.endpoint();
        let tls = cluster.config.tls.as_ref();
        let name = tls.map(|tls| tls.server_name.clone()).unwrap_or_default();
        let mut peer = HttpPeer::new(endpoint.blueprint.resolved, tls.is_some(), name);
        if cluster.config.protocol == Protocol::Grpc {
            peer.options.set_http_version(2, 2);
            peer.options.max_h2_streams = UPSTREAM_STREAMS;
            peer.options.h2_stream_window_size = Some(1 << 20);
            peer.options.h2_connection_window_size = Some(4 << 20);
        }
        peer.options.ca = endpoint.roots.clone();
        peer.options.connection_timeout = Some(cluster.config.connect_timeout);
        peer.options.total_connection_timeout = Some(cluster.config.connect_timeout);
        let upgraded = session.is_upgrade_req();
        let left = routed
            .deadline
            .map(|deadline| deadline.remaining(now).unwrap_or(Duration::from_millis(1)));
        peer.options.read_timeout = match left {
            Some(left) => Some(left),
            None if upgraded || ctx.is_grpc => None,
            None => Some(
                route
                    .config
                    .retry
                    .per_try_timeout
                    .unwrap_or(route.config.timeout),
            ),
        };
        ctx.tried.push(lease.index);
        ctx.lease = Some(lease);
        Ok(Box::new(peer))
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        upstream: &mut RequestHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        if !session.is_upgrade_req() {
            for name in [header::CONNECTION, header::UPGRADE] {
                upstream.remove_header(&name);
            }
            for name in ["keep-alive", "proxy-connection"] {
                upstream.remove_header(name);
            }
        }
        if ctx.is_grpc {
            // pingora strips it between protocol versions; gRPC servers insist on it.
            upstream.insert_header(header::TE, "trailers")?;
        } else {
            forwarded(session, upstream)?;
        }
        if let Some(deadline) = ctx.routed.as_ref().and_then(|routed| routed.deadline)
            && let Some(left) = deadline.remaining(Instant::now())
        {
            upstream.insert_header(
                headers::GRPC_TIMEOUT,
                forebay_proto::timeout::format(left).as_bytes(),
            )?;
        }
        let mut added = HeaderMap::new();
        let retry = ctx.tried.len() as i64 - 1;
        ctx.attempt = ctx.trace.attempt(&mut added, || {
            let address = ctx
                .lease
                .as_ref()
                .map(|l| l.endpoint().blueprint.address.clone())
                .unwrap_or_default();
            vec![
                KeyValue::new("server.address", address),
                KeyValue::new("forebay.retry", retry),
            ]
        });
        if let Some(value) = added.remove(TRACEPARENT) {
            upstream.insert_header(TRACEPARENT, value)?;
        }
        Ok(())
    }

    async fn response_filter(
        &self,
        _session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        if let Some(lease) = &ctx.lease {
            response.insert_header(headers::ENDPOINT, lease.endpoint().name_header.clone())?;
        }
        ctx.status = match grpc_status(&response.headers) {
            Some(code) => Some(code),
            None if ctx.is_grpc => None,
            None => Some(status::code_of_http(response.status)),
        };
        Ok(())
    }

    async fn response_trailer_filter(
        &self,
        _session: &mut Session,
        trailers: &mut HeaderMap,
        ctx: &mut Context,
    ) -> Result<Option<bytes::Bytes>> {
        if let Some(code) = grpc_status(trailers) {
            ctx.status = Some(code);
        }
        Ok(None)
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        peer: &HttpPeer,
        ctx: &mut Context,
        mut error: Box<Error>,
    ) -> Box<Error> {
        log::debug!("{peer}: {error}");
        error.set_retry(judge(ctx, Failure::Connect));
        error
    }

    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        ctx: &mut Context,
        reused: bool,
    ) -> Box<Error> {
        let mut error = error.more_context(format!("endpoint {peer}"));
        if *error.esource() != ErrorSource::Upstream {
            error.set_retry(false);
            return error;
        }
        let failure = match error.etype() {
            _ if session.response_written().is_some() => Failure::ResponseStarted,
            ErrorType::ReadTimedout => Failure::TimedOut,
            _ if reused && error.retry() => Failure::Stale,
            _ => Failure::Reset,
        };
        let replayable = !session.as_ref().retry_buffer_truncated();
        let safe = session.req_header().method.is_idempotent() || failure == Failure::Stale;
        let retry = judge(ctx, failure) && replayable && safe;
        error.set_retry(retry);
        error
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        ctx: &mut Context,
    ) -> FailToProxy {
        let cluster = ctx
            .route()
            .map(|route| route.config.cluster.clone())
            .unwrap_or_default();
        let refusal = match ctx.refusal.take() {
            Some(refusal) => refusal,
            None => match (error.esource(), error.etype()) {
                (
                    ErrorSource::Downstream,
                    ErrorType::ReadError | ErrorType::WriteError | ErrorType::ConnectionClosed,
                ) => Refusal::ClientGone,
                (ErrorSource::Downstream, _) => {
                    Refusal::BadRequest("the request is malformed".into())
                }
                (_, ErrorType::ReadTimedout | ErrorType::WriteTimedout) => Refusal::TimedOut {
                    timeout: ctx.started.elapsed(),
                    cluster,
                },
                _ => Refusal::Upstream {
                    cluster,
                    failure: "the connection failed",
                },
            },
        };
        ctx.status = Some(refusal.code());
        let gone = matches!(refusal, Refusal::ClientGone);
        let code = if gone { 0 } else { refusal.http().as_u16() };
        if !gone && session.response_written().is_none() {
            answer(&mut session.downstream_session, ctx.is_grpc, &refusal).await;
        } else if let ServerSession::H2(h2) = &mut *session.downstream_session {
            h2.shutdown_with_reason(h2::Reason::INTERNAL_ERROR);
        }
        FailToProxy {
            error_code: code,
            can_reuse_downstream: false,
        }
    }

    fn suppress_error_log(&self, _session: &Session, _ctx: &Context, error: &Error) -> bool {
        log::debug!("{error}");
        true
    }

    async fn logging(&self, _session: &mut Session, error: Option<&Error>, ctx: &mut Context) {
        if ctx.handled {
            return;
        }
        let failed_upstream = error.is_some_and(|error| *error.esource() == ErrorSource::Upstream);
        let code = ctx.status.unwrap_or(if error.is_some() {
            Code::Cancelled
        } else {
            Code::Unknown
        });
        if error.is_none() || failed_upstream {
            let failure = Failure::Status(u8::try_from(code as i32).unwrap_or(u8::MAX));
            let outcome = match code {
                _ if failed_upstream || failure.counts_against_endpoint() => Outcome::Failure,
                Code::Ok => Outcome::Success,
                _ => Outcome::Neutral,
            };
            ctx.end_attempt(outcome, Ok(u16::try_from(code as i32).unwrap_or(u16::MAX)));
        }
        if let Some(route) = ctx.route() {
            let now = Instant::now();
            if code == Code::Ok {
                route.budget.succeeded(now);
            }
            route
                .metrics
                .record(code, now.saturating_duration_since(ctx.started));
        }
        ctx.trace
            .end((code != Code::Ok).then(|| code.description()));
    }
}

impl Proxy {
    /// After an HTTP/1 head: the connection may be kept, the body may take its time, and a WebSocket may be silent.
    fn relax_timeouts(&self, session: &mut Session) {
        let silence = (!session.is_upgrade_req()).then_some(CLIENT_SILENCE);
        session.set_read_timeout(silence);
        // pingora has read from version and headers whether to keep it at all; then without a bound.
        if session.get_keepalive().is_some() {
            let kept = (!self.gateway.is_draining()).then_some(CLIENT_SILENCE.as_secs());
            session.set_keepalive(kept);
        }
    }

    /// The route's position; reads the head of a stream's first message when routes look at models.
    async fn find_route(
        &self,
        snapshot: &Snapshot,
        session: &mut Session,
    ) -> Result<usize, Refusal> {
        let fields = Method::of(session.req_header().uri.path()).model_fields();
        let mut seen = Vec::new();
        if let Some(fields) = fields
            && snapshot.routes_by_model()
        {
            session.as_mut().enable_retry_buffering();
            while seen.len() < PEEK_LIMIT && peek_framed(&seen, fields, false) == Peek::NeedMore {
                match session.downstream_session.read_request_body().await {
                    Ok(Some(chunk)) => seen.extend_from_slice(&chunk),
                    _ => break,
                }
            }
        }
        let head = session.req_header();
        let path = head.uri.path();
        let named = RestModel::of(path);
        let (model, version) = match (fields, &named) {
            (Some(fields), _) => match peek_framed(&seen, fields, false) {
                Peek::Found(found) => (found.name, found.version),
                Peek::NeedMore | Peek::Invalid | Peek::Compressed => (None, None),
            },
            (None, Some(named)) => named.name_and_version(),
            (None, None) => (None, None),
        };
        snapshot
            .find(&plan::request_head(head, model, version))
            .ok_or_else(|| Refusal::NoRoute {
                method: head.method.to_string(),
                path: path.to_owned(),
            })
    }
}

/// Ends the attempt that failed and says whether there may be another.
fn judge(ctx: &mut Context, failure: Failure) -> bool {
    let outcome = if failure.counts_against_endpoint() {
        Outcome::Failure
    } else {
        Outcome::Neutral
    };
    ctx.end_attempt(outcome, Err(failure.describe()));
    let Some(route) = ctx.routed.as_ref().map(Routed::route) else {
        return false;
    };
    if ctx.tried.len() >= route.config.retry.attempts as usize || !failure.is_retryable(true) {
        return false;
    }
    let active = route.cluster.active();
    let token = route.budget.try_acquire(active, Instant::now());
    let allowed = token.is_some();
    if allowed {
        route.metrics.retried();
        ctx.token = token;
    }
    allowed
}

async fn refuse(session: &mut Session, ctx: &mut Context, refusal: Refusal) -> Result<bool> {
    ctx.status = Some(refusal.code());
    answer(&mut session.downstream_session, ctx.is_grpc, &refusal).await;
    Ok(true)
}

async fn answer(session: &mut ServerSession, is_grpc: bool, refusal: &Refusal) {
    if is_grpc && session.is_http2() {
        unary::refuse_grpc(session, refusal);
    } else {
        unary::refuse_rest(session, refusal).await;
    }
}

fn grpc_status(headers: &HeaderMap) -> Option<Code> {
    headers
        .get("grpc-status")
        .map(|value| Code::from_bytes(value.as_bytes()))
}

/// `X-Forwarded-*`, as reverse proxies add them for the application behind.
fn forwarded(session: &Session, upstream: &mut RequestHeader) -> Result<()> {
    if let Some(client) = session.client_addr().and_then(|address| address.as_inet()) {
        let client = client.ip().to_string();
        let chain = match upstream
            .headers
            .get("x-forwarded-for")
            .and_then(|value| value.to_str().ok())
        {
            Some(before) => format!("{before}, {client}"),
            None => client,
        };
        upstream.insert_header("x-forwarded-for", chain)?;
    }
    let tls = session
        .digest()
        .is_some_and(|digest| digest.ssl_digest.is_some());
    if !upstream.headers.contains_key("x-forwarded-proto") {
        upstream.insert_header("x-forwarded-proto", if tls { "https" } else { "http" })?;
    }
    if !upstream.headers.contains_key("x-forwarded-host")
        && let Some(host) = upstream.headers.get(header::HOST).cloned()
    {
        upstream.insert_header("x-forwarded-host", host)?;
    }
    Ok(())
}
