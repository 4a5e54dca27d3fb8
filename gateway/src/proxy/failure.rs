//! What a streamed request's failure means: for the endpoint, for a retry, and for the client.

use std::time::Instant;

use forebay_proto::status;
use http::HeaderMap;
use http::header::HeaderValue;
use pingora::http::ResponseHeader;
use pingora::prelude::Error;
use pingora::protocols::http::ServerSession;
use pingora::proxy::Session;
use pingora::{ErrorSource, ErrorType, Result};

use super::target;
use crate::context::Context;
use crate::refusal::Refusal;
use crate::traffic::retry::{Failure, Stage};
use crate::unary::{self, headers};

/// Ends the attempt that failed and says whether there may be another. `repeatable`: the request can be sent
/// again, as far as its method and its body go.
pub fn judge(ctx: &mut Context, failure: Failure, repeatable: bool) -> bool {
    let now = Instant::now();
    ctx.timed_out = failure == Failure::TimedOut;
    let late = ctx
        .routed
        .as_ref()
        .is_some_and(|routed| routed.is_late(now));
    if failure == Failure::Stale || (ctx.timed_out && late && ctx.is_grpc) {
        // Neither an idle connection's end nor the client's own deadline is the endpoint's fault.
        ctx.give_up_attempt();
    } else {
        ctx.end_attempt(failure.outcome(), Err(failure.describe()));
    }
    let repeatable = repeatable && failure.is_retryable(true);
    has_leave(ctx, repeatable, now) || target::fall_back(ctx, failure, repeatable, now)
}

/// A stream that its endpoint declined before it began: the error that has pingora ask another one. None: the answer
/// is for the client. Only what came without a message has its status in the head.
pub fn declined(session: &Session, head: &ResponseHeader, ctx: &mut Context) -> Option<Box<Error>> {
    if !ctx.is_grpc {
        return None;
    }
    let status = head
        .headers
        .get("grpc-status")?
        .to_str()
        .ok()?
        .parse()
        .ok()?;
    let stage = head.headers.get(headers::STAGE);
    let failure = Failure::answered(
        status,
        stage.and_then(|stage| Stage::parse(stage.as_bytes())),
    );
    let (route, cluster) = (ctx.route()?, ctx.cluster()?);
    let repeatable = failure.is_retryable(route.config.retry.idempotent)
        && !session.as_ref().retry_buffer_truncated()
        && (failure != Failure::Full || ctx.tried.len() < cluster.size());
    let now = Instant::now();
    if !has_leave(ctx, repeatable, now) && !target::fall_back(ctx, failure, repeatable, now) {
        return None;
    }
    ctx.end_attempt(failure.outcome(), Err(failure.describe()));
    ctx.declined = true;
    let mut error = Error::explain(ErrorType::HTTPStatus(503), failure.describe()).into_up();
    error.set_retry(true);
    Some(error)
}

/// Whether there may be another attempt, for which a token is held from now on.
fn has_leave(ctx: &mut Context, repeatable: bool, now: Instant) -> bool {
    // The token of the attempt before goes back before another one is asked for.
    ctx.token = None;
    let (Some(routed), Some(cluster)) = (&ctx.routed, ctx.cluster()) else {
        return false;
    };
    let route = routed.route();
    let is_last = ctx.attempts() >= route.config.retry.attempts as usize;
    if is_last || !repeatable || routed.is_late(now) {
        return false;
    }
    let token = route.budget.try_acquire(cluster.active(), now);
    if token.is_some() {
        route.metrics.retried();
    }
    ctx.token = token;
    ctx.token.is_some()
}

/// What the client is told.
pub fn refusal(ctx: &mut Context, error: &Error) -> Refusal {
    if let Some(refusal) = ctx.refusal.take() {
        return refusal;
    }
    let cluster = ctx
        .cluster()
        .map(|cluster| cluster.config.name.clone())
        .unwrap_or_default();
    let late = ctx
        .routed
        .as_ref()
        .is_some_and(|routed| routed.is_late(Instant::now()));
    match (error.esource(), error.etype()) {
        (
            ErrorSource::Downstream,
            ErrorType::ReadError | ErrorType::WriteError | ErrorType::ConnectionClosed,
        ) => Refusal::ClientGone,
        (ErrorSource::Downstream, _) => Refusal::BadRequest("the request is malformed".into()),
        (_, ErrorType::ReadTimedout | ErrorType::WriteTimedout) => Refusal::TimedOut {
            cluster,
            timeout: ctx.started.elapsed(),
        },
        _ if ctx.timed_out || late => Refusal::TimedOut {
            cluster,
            timeout: ctx.started.elapsed(),
        },
        _ => Refusal::Upstream {
            cluster,
            failure: "the connection failed",
        },
    }
}

/// Answers in the gateway's own name; `Ok(true)` is what a filter returns then.
pub async fn refuse(session: &mut Session, ctx: &mut Context, refusal: Refusal) -> Result<bool> {
    let refusal = target::degraded(ctx, refusal);
    ctx.status = Some(refusal.code());
    answer(&mut session.downstream_session, ctx.is_grpc, &refusal).await;
    Ok(true)
}

/// The answer to a request of which nothing was answered yet.
pub async fn answer(session: &mut ServerSession, is_grpc: bool, refusal: &Refusal) {
    if is_grpc && session.is_http2() {
        unary::refuse_grpc(session, refusal);
    } else {
        session.set_keepalive(None);
        unary::refuse_rest(session, refusal).await;
    }
}

/// Ends an answer that broke off: with a status for gRPC, which has room for one, else abruptly, so that
/// nobody takes it for complete.
pub async fn break_off(session: &mut ServerSession, is_grpc: bool, refusal: &Refusal) {
    let ServerSession::H2(h2) = session else {
        session.shutdown().await;
        return;
    };
    if is_grpc {
        let mut trailers = HeaderMap::with_capacity(2);
        trailers.insert("grpc-status", HeaderValue::from(refusal.code() as i32));
        let message = status::encode_message(&refusal.to_string()).into_owned();
        if let Ok(message) = HeaderValue::from_str(&message) {
            trailers.insert("grpc-message", message);
        }
        if h2.write_trailers(trailers).is_ok() {
            return;
        }
    }
    h2.shutdown_with_reason(h2::Reason::INTERNAL_ERROR);
}
