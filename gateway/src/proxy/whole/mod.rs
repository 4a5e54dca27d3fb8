//! Requests to `http` clusters that are read whole, so that every attempt can send them again, whatever their size.
//!
//! pingora replays 64 KiB of a body at most, and passes an answer on as it comes: an endpoint that dies in mid-answer
//! is an error to the client. Here an endpoint is leased only once the body is here, the body is kept for further
//! attempts, and an answer is held back until it is complete. `mode = "unary"` asks for that; in `auto` a body that
//! pingora could not replay is reason enough, but there only an answer that says how long it is is held back: any
//! other may be a stream of events.

mod attempt;
mod hedge;

use std::pin::pin;

use forebay_config::gateway as config;
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, StatusCode, Version};
use pingora::Result;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::HttpPeer;
use pingora::protocols::http::v1::client::HttpSession;
use pingora::proxy::{ProxyHttp, Session};

use self::attempt::{Answer, Attempt};
use super::{Proxy, failure, request};
use crate::context::Context;
use crate::memory::Held;
use crate::refusal::Refusal;
use crate::traffic::retry::Failure;
use crate::unary::{self, headers};
use crate::upstream::Message;

/// What pingora replays.
const REPLAYED: u64 = 64 << 10;

/// Whether a request that the route takes to an `http` cluster goes this way.
pub fn takes(route: &config::Route, head: &RequestHeader) -> bool {
    if request::is_websocket(head) || head.method == Method::CONNECT {
        return false;
    }
    match route.mode {
        config::Mode::Unary => true,
        config::Mode::Stream => false,
        config::Mode::Auto => {
            let length = head.headers.get(header::CONTENT_LENGTH);
            let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
            let kept = |length: u64| length > REPLAYED && length <= route.max_request_bytes;
            route.retry.attempts > 1 && length.is_some_and(kept)
        }
    }
}

/// A request that was read whole.
struct Whole<'a> {
    proxy: &'a Proxy,
    body: Message,
    hold_back_all: bool,
    /// What it takes of the process's memory.
    held: Held,
}

impl Whole<'_> {
    /// One at the endpoint that the context has a lease for.
    async fn attempt<'b>(
        &'b self,
        session: &mut Session,
        ctx: &mut Context,
        peer: &'b HttpPeer,
    ) -> Result<Attempt<'b>> {
        let mut head = outgoing(session.req_header(), self.body.len())?;
        let filtering = self.proxy.upstream_request_filter(session, &mut head, ctx);
        filtering.await?;
        let endpoint = ctx.lease.as_ref().map(|lease| lease.endpoint());
        Ok(Attempt {
            connector: &self.proxy.connector,
            peer,
            endpoint: endpoint.map_or(HeaderValue::from_static("-"), |endpoint| {
                endpoint.name_header.clone()
            }),
            head,
            body: self.body.clone(),
            hold_back_all: self.hold_back_all,
            held: self.held.another(),
        })
    }
}

/// What comes out, or None once the client is gone.
async fn unless_gone<T>(session: &mut Session, done: impl Future<Output = T>) -> Option<T> {
    let done = pin!(done);
    tokio::select! {
        biased;
        result = done => Some(result),
        _ = session.downstream_session.read_body_or_idle(true) => None,
    }
}

/// Serves one request to its end; what `request_filter` returns then.
pub async fn serve(proxy: &Proxy, session: &mut Session, ctx: &mut Context) -> Result<bool> {
    let Some(route) = ctx.route() else {
        return Ok(false);
    };
    let hold_back_all = route.config.mode == config::Mode::Unary;
    // What a route says about inference holds where it asks for whole requests.
    let repeatable = session.req_header().method.is_idempotent()
        || (hold_back_all && route.config.retry.idempotent);
    let (limit, time) = (route.config.max_request_bytes, route.config.timeout);
    let mut held = proxy.gateway.memory.hold();
    let client = &mut session.downstream_session;
    let body = match unary::read_body(client, limit, time, &mut held).await {
        Ok(body) => body,
        Err(refusal) => return failure::refuse(session, ctx, refusal).await,
    };
    let whole = Whole {
        proxy,
        body,
        hold_back_all,
        held,
    };
    let mut last: Option<Box<Answer>> = None;
    loop {
        let peer = match (proxy.upstream_peer(session, ctx).await, last) {
            (Ok(peer), _) => peer,
            // An endpoint's own refusal says more than that there is no other endpoint.
            (Err(_), Some(answer)) => return deliver(proxy, session, ctx, *answer).await,
            (Err(error), None) => {
                let refusal = failure::refusal(ctx, &error);
                return failure::refuse(session, ctx, refusal).await;
            }
        };
        let attempt = whole.attempt(session, ctx, &peer).await?;
        let Some(result) = hedge::run(&whole, session, ctx, attempt).await? else {
            ctx.give_up_attempt();
            return failure::refuse(session, ctx, Refusal::ClientGone).await;
        };
        let failed = match result {
            Ok(answer) => return deliver(proxy, session, ctx, *answer).await,
            Err(failed) => failed,
        };
        if failure::judge(ctx, failed.failure, failed.failure.is_retryable(repeatable)) {
            last = failed.answer;
            continue;
        }
        let cluster = ctx.cluster().map(|cluster| cluster.config.name.clone());
        let cluster = cluster.unwrap_or_default();
        let refusal = match (failed.answer, failed.failure) {
            (Some(answer), _) => return deliver(proxy, session, ctx, *answer).await,
            (None, Failure::TimedOut) => Refusal::TimedOut {
                cluster,
                timeout: ctx.started.elapsed(),
            },
            (None, failure) => Refusal::Upstream {
                cluster,
                failure: failure.describe(),
            },
        };
        return failure::refuse(session, ctx, refusal).await;
    }
}

/// The request's head as it goes on: to an HTTP/1.1 server, with a body of `length` bytes in one piece.
fn outgoing(incoming: &RequestHeader, length: usize) -> Result<RequestHeader> {
    let mut head = incoming.clone();
    head.set_version(Version::HTTP_11);
    if incoming.version == Version::HTTP_2
        && let Some(authority) = incoming.uri.authority()
    {
        head.insert_header(header::HOST, authority.as_str())?;
    }
    if let Some(nominated) = incoming.headers.get(header::CONNECTION) {
        for name in nominated.as_bytes().split(|byte| *byte == b',') {
            match HeaderName::from_bytes(name.trim_ascii()) {
                Ok(name) if name != header::HOST => drop(head.remove_header(&name)),
                _ => {}
            }
        }
    }
    let had_length = head.remove_header(&header::CONTENT_LENGTH).is_some();
    for name in [header::TRANSFER_ENCODING, header::EXPECT, header::TE] {
        head.remove_header(&name);
    }
    head.remove_header("http2-settings");
    if length > 0 || had_length {
        head.insert_header(header::CONTENT_LENGTH, length)?;
    }
    Ok(head)
}

/// Passes an answer on. Errors are those of its client, or of an answer that was too large to be held back.
async fn deliver(
    proxy: &Proxy,
    session: &mut Session,
    ctx: &mut Context,
    answer: Answer,
) -> Result<bool> {
    let Answer {
        mut head,
        body,
        rest,
        endpoint,
        held: _held,
    } = answer;
    let has_body = session.req_header().method != Method::HEAD
        && !matches!(
            head.status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        );
    let length = (has_body && rest.is_none()).then_some(body.len());
    let chunked = has_body && session.req_header().version == Version::HTTP_11;
    frame(&mut head, length, chunked)?;
    proxy.response_filter(session, &mut head, ctx).await?;
    head.insert_header(headers::ENDPOINT, endpoint)?;
    let client = &mut session.downstream_session;
    client
        .write_response_header(Box::new(head))
        .await
        .map_err(|error| error.into_down())?;
    for chunk in body.chunks() {
        client
            .write_response_body(chunk, false)
            .await
            .map_err(|error| error.into_down())?;
    }
    if let Some(rest) = rest {
        pass_on(session, rest).await?;
    }
    session
        .downstream_session
        .write_response_body(Default::default(), true)
        .await
        .map_err(|error| error.into_down())?;
    Ok(true)
}

/// `length`: of a body that is here; None: it is said already, not known, or there is none. `chunked`: what does not say
/// how long it is may come in chunks.
fn frame(head: &mut ResponseHeader, length: Option<usize>, chunked: bool) -> Result<()> {
    for name in [
        header::CONNECTION,
        header::UPGRADE,
        header::TRANSFER_ENCODING,
    ] {
        head.remove_header(&name);
    }
    head.remove_header("proxy-connection");
    if let Some(length) = length {
        head.insert_header(header::CONTENT_LENGTH, length)?;
    } else if chunked && !head.headers.contains_key(header::CONTENT_LENGTH) {
        head.insert_header(header::TRANSFER_ENCODING, "chunked")?;
    }
    Ok(())
}

/// The rest of an answer, as it comes.
async fn pass_on(session: &mut Session, mut rest: HttpSession) -> Result<()> {
    let client = &mut session.downstream_session;
    loop {
        let chunk = tokio::select! {
            biased;
            chunk = rest.read_body_bytes() => chunk.map_err(|error| error.into_up())?,
            gone = client.read_body_or_idle(true) => {
                gone.map_err(|error| error.into_down())?;
                return Err(pingora::Error::new_down(pingora::ErrorType::ConnectionClosed));
            }
        };
        let Some(chunk) = chunk else {
            return Ok(());
        };
        client
            .write_response_body(chunk, false)
            .await
            .map_err(|error| error.into_down())?;
    }
}
