//! The data path of everything that streams: generic HTTP, WebSocket, server-sent events, streaming gRPC.
//!
//! pingora's proxy moves the bytes; each phase here is a short step: route, lease, adjust headers, judge the
//! outcome. Unary inference over HTTP/1 arrives here too, since pingora reads HTTP/1 heads, and is handed to
//! `unary` in the first phase; plain requests that are kept for further attempts, to `whole`.

mod affinity;
mod failure;
mod find;
mod peer;
mod request;
mod target;
mod turn;
mod whole;

use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use forebay_config::gateway::{Mode, Protocol};
use forebay_proto::status::{self, Code};
use http::header::{self, HeaderMap};
use http::{StatusCode, Version};
use opentelemetry::KeyValue;
use pingora::connectors::http::v1::Connector;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::{Error, HttpPeer};
use pingora::protocols::Digest;
use pingora::proxy::{FailToProxy, ProxyHttp, Session};
use pingora::{ErrorSource, ErrorType, Result};

use crate::context::{Context, Routed};
use crate::gateway::Gateway;
use crate::head_timer::HeadTimer;
use crate::limits;
use crate::plan::{self, Plan};
use crate::refusal::Refusal;
use crate::telemetry::trace::TRACEPARENT;
use crate::traffic::retry::{Failure, Outcome};
use crate::unary::{self, headers};

/// How long an HTTP/1 client may pause within a body, and between two requests (nginx's defaults are 60 s and 75 s).
pub const CLIENT_SILENCE: Duration = Duration::from_secs(60);

pub struct Proxy {
    pub gateway: Arc<Gateway>,
    /// For what does not go through pingora's own.
    pub connector: Connector,
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
        ctx.is_grpc = plan::is_grpc(&session.req_header().headers);
        if !http2 {
            self.relax_timeouts(session);
            if ctx.is_grpc {
                return failure::refuse(session, ctx, Refusal::GrpcOverHttp1).await;
            }
            if let Plan::Rest = plan::of(&snapshot, session.req_header(), false) {
                ctx.handled = true;
                ctx.counted = None;
                unary::serve_rest(&self.gateway, &snapshot, &mut session.downstream_session).await;
                return Ok(true);
            }
        }
        let head = session.req_header();
        ctx.trace = snapshot.tracing.begin(
            &head.headers,
            &format!("{} {}", head.method, head.uri.path()),
        );
        let found = match find::route(&snapshot, session).await {
            Ok(found) => {
                ctx.bearings = found.bearings;
                found.route
            }
            Err(refusal) => {
                self.gateway.count_unrouted();
                return failure::refuse(session, ctx, refusal).await;
            }
        };
        let route = &snapshot.routes[found];
        if route.cluster.config.protocol == Protocol::Grpc
            && !ctx.is_grpc
            && route.config.mode != Mode::Stream
        {
            let head = session.req_header();
            let (method, path) = (head.method.to_string(), head.uri.path().to_owned());
            return failure::refuse(session, ctx, Refusal::NoRoute { method, path }).await;
        }
        let is_whole = route.cluster.config.protocol == Protocol::Http
            && !ctx.is_grpc
            && whole::takes(&route.config, session.req_header());
        let client = headers::client_timeout(&session.req_header().headers);
        let routed = Routed::new(snapshot, found, ctx.started, client, ctx.is_grpc);
        let route = ctx.routed.insert(routed).route();
        let taken = limits::take(route, &session.downstream_session).await;
        match taken.and_then(|()| limits::enter(route)) {
            Ok(permit) => ctx.permit = permit,
            Err(refusal) => return failure::refuse(session, ctx, refusal).await,
        }
        if is_whole {
            return whole::serve(self, session, ctx).await;
        }
        Ok(false)
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        ctx: &mut Context,
    ) -> Result<Box<HttpPeer>> {
        let no_route = || Error::explain(ErrorType::HTTPStatus(404), "no route");
        let (Some(routed), Some(cluster)) = (&ctx.routed, ctx.cluster()) else {
            return Err(no_route());
        };
        let route = routed.route();
        if !ctx.tried.is_empty() {
            let retry = u32::try_from(ctx.attempts()).unwrap_or(u32::MAX);
            tokio::time::sleep(route.backoff.delay(retry, fastrand::u64(..))).await;
        }
        let now = Instant::now();
        if routed.is_late(now) {
            ctx.refusal = Some(Refusal::TimedOut {
                cluster: cluster.config.name.clone(),
                timeout: now.saturating_duration_since(ctx.started),
            });
            return Err(Error::explain(
                ErrorType::HTTPStatus(504),
                "the deadline has passed",
            ));
        }
        let lease = match target::lease(session, ctx, now).await {
            Ok(lease) => lease,
            Err(refusal) => {
                let status = refusal.http().as_u16();
                ctx.refusal.get_or_insert(refusal);
                let error = ErrorType::HTTPStatus(status);
                return Err(Error::explain(error, "no endpoint"));
            }
        };
        let (Some(routed), Some(cluster)) = (&ctx.routed, ctx.cluster()) else {
            return Err(no_route());
        };
        let now = Instant::now();
        let left = routed
            .stream_deadline
            .map(|deadline| deadline.remaining(now).unwrap_or(Duration::from_millis(1)));
        let peer = peer::peer(cluster, &lease, left);
        ctx.tried.push(lease.index);
        ctx.lease = Some(lease);
        Ok(peer)
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        upstream: &mut RequestHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        request::end_hop(session, upstream);
        if ctx.is_grpc {
            // pingora strips it between protocol versions; gRPC servers insist on it.
            upstream.insert_header(header::TE, "trailers")?;
        } else {
            request::add_forwarded(session, upstream)?;
        }
        if let Some(deadline) = ctx
            .routed
            .as_ref()
            .and_then(|routed| routed.stream_deadline)
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
            let mut attributes = vec![KeyValue::new("forebay.retry", retry)];
            if let (Some(lease), Some(cluster)) = (&ctx.lease, ctx.cluster()) {
                let cluster = &cluster.config;
                let address = lease.endpoint().blueprint.address.clone();
                attributes.push(KeyValue::new("server.address", address));
                attributes.push(KeyValue::new("forebay.cluster", cluster.name.clone()));
                attributes.push(KeyValue::new("forebay.policy", cluster.policy.name()));
            }
            if !ctx.waited.is_zero() {
                let waited = ctx.waited.as_secs_f64();
                attributes.push(KeyValue::new("forebay.queue.seconds", waited));
            }
            attributes
        });
        if let Some(value) = added.remove(TRACEPARENT) {
            upstream.insert_header(TRACEPARENT, value)?;
        }
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        failure::declined(session, response, ctx).map_or(Ok(()), Err)
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        ctx.head_timer = None;
        response.remove_header("keep-alive");
        if self.gateway.is_closing() {
            session.set_keepalive(None);
        }
        if session.req_header().version == Version::HTTP_10 {
            // It knows no chunks: the body ends with the connection.
            response.remove_header(&header::TRANSFER_ENCODING);
            session.set_keepalive(None);
        }
        if let Some(lease) = &ctx.lease {
            response.insert_header(headers::ENDPOINT, lease.endpoint().name_header.clone())?;
        }
        if response.status.is_informational() && response.status != StatusCode::SWITCHING_PROTOCOLS
        {
            return Ok(());
        }
        ctx.status = match grpc_status(&response.headers) {
            Some(code) => Some(code),
            None if ctx.is_grpc => None,
            None if response.status.as_u16() < 400 => Some(Code::Ok),
            None => Some(status::code_of_http(response.status)),
        };
        if !ctx.is_grpc {
            ctx.http_status = Some(response.status);
            if let Some(lease) = &ctx.lease
                && ctx.status == Some(Code::Ok)
            {
                // How long the rest takes is up to what is streamed, and says nothing about the endpoint.
                lease.head_arrived(Instant::now());
            }
        }
        Ok(())
    }

    async fn response_trailer_filter(
        &self,
        _session: &mut Session,
        trailers: &mut HeaderMap,
        ctx: &mut Context,
    ) -> Result<Option<Bytes>> {
        if let Some(code) = grpc_status(trailers) {
            ctx.status = Some(code);
        }
        Ok(None)
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        _reused: bool,
        _peer: &HttpPeer,
        socket: RawFd,
        _digest: Option<&Digest>,
        ctx: &mut Context,
    ) -> Result<()> {
        let time = ctx
            .routed
            .as_ref()
            .and_then(|routed| routed.head_time(Instant::now()));
        ctx.head_timer = time.and_then(|time| HeadTimer::start(socket, time));
        Ok(())
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        _end_of_stream: bool,
        ctx: &mut Context,
    ) -> Result<()> {
        if let (Some(timer), Some(_)) = (&ctx.head_timer, &body) {
            timer.extend();
        }
        Ok(())
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        peer: &HttpPeer,
        ctx: &mut Context,
        mut error: Box<Error>,
    ) -> Box<Error> {
        log::debug!("{peer}: {error}");
        error.set_retry(failure::judge(ctx, Failure::Connect, true));
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
        // pingora leaves errors of kept connections undecided, and panics when such an error is asked.
        error.retry.decide_reuse(reused);
        if std::mem::take(&mut ctx.declined) {
            error.set_retry(true);
            return error;
        }
        if *error.esource() != ErrorSource::Upstream {
            error.set_retry(false);
            return error;
        }
        let fired = ctx.head_timer.take().is_some_and(|timer| timer.has_fired());
        let failure = match error.etype() {
            _ if session.response_written().is_some() => Failure::ResponseStarted,
            ErrorType::ReadTimedout => Failure::TimedOut,
            _ if fired => Failure::TimedOut,
            _ if error.retry() && reused => Failure::Stale,
            // What pingora says may be retried without reuse was refused before it was processed.
            _ if error.retry() => Failure::Refused,
            _ => Failure::Reset,
        };
        let unprocessed = matches!(failure, Failure::Stale | Failure::Refused);
        let repeatable = session.req_header().method.is_idempotent() || unprocessed;
        let replayable = !session.as_ref().retry_buffer_truncated();
        error.set_retry(failure::judge(ctx, failure, repeatable && replayable));
        error
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        ctx: &mut Context,
    ) -> FailToProxy {
        let mut refusal = failure::refusal(ctx, error);
        if session.response_written().is_none() {
            refusal = target::degraded(ctx, refusal);
        }
        ctx.status = Some(refusal.code());
        let gone = matches!(refusal, Refusal::ClientGone);
        let code = if gone { 0 } else { refusal.http().as_u16() };
        if !gone && session.response_written().is_none() {
            failure::answer(&mut session.downstream_session, ctx.is_grpc, &refusal).await;
        } else {
            failure::break_off(&mut session.downstream_session, ctx.is_grpc, &refusal).await;
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
            let failure = match ctx.http_status {
                Some(status) => Failure::HttpStatus(status.as_u16()),
                None => Failure::Status(u8::try_from(code as i32).unwrap_or(u8::MAX)),
            };
            let outcome = if failed_upstream {
                Outcome::Failure
            } else {
                failure.outcome()
            };
            ctx.end_attempt(outcome, Ok(u16::try_from(code as i32).unwrap_or(u16::MAX)));
        }
        if let Some(route) = ctx.route() {
            let now = Instant::now();
            if code == Code::Ok {
                route.budget.succeeded(now);
            }
            let took = now.saturating_duration_since(ctx.started);
            route.metrics.record(code, took);
            if let Some(target) = ctx.target() {
                target.metrics.record(code, took);
            }
        }
        ctx.trace
            .end((code != Code::Ok).then(|| code.description()));
    }
}

impl Proxy {
    /// After an HTTP/1 head: the connection may be kept, the body may take its time, and a WebSocket may be silent.
    fn relax_timeouts(&self, session: &mut Session) {
        let silence = (!request::is_websocket(session.req_header())).then_some(CLIENT_SILENCE);
        session.set_read_timeout(silence);
        // pingora has read from version and headers whether to keep it at all; then without a bound.
        if session.get_keepalive().is_some() {
            session.set_keepalive(Some(CLIENT_SILENCE.as_secs()));
        }
    }
}

fn grpc_status(headers: &HeaderMap) -> Option<Code> {
    headers
        .get("grpc-status")
        .map(|value| Code::from_bytes(value.as_bytes()))
}
