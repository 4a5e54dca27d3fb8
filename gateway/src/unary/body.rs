//! Reading a request body whole, within a size and a time.

use std::time::Duration;

use http::HeaderMap;
use http::header::{CONTENT_LENGTH, EXPECT};
use pingora::protocols::http::ServerSession;

use crate::memory::Held;
use crate::proxy::CLIENT_SILENCE;
use crate::refusal::Refusal;
use crate::upstream::Message;

/// At most `limit` bytes within `time`, and as many as find room in `held`; what is over either is refused without
/// reading on.
pub async fn read(
    session: &mut ServerSession,
    limit: u64,
    time: Duration,
    held: &mut Held,
) -> Result<Message, Refusal> {
    if let Some(length) = declared_length(&session.req_header().headers) {
        if length > limit {
            return Err(Refusal::TooLarge { limit });
        }
        held.expect(length)?;
    }
    session.set_write_timeout(Some(CLIENT_SILENCE));
    if !session.is_http2() && session.req_header().headers.contains_key(EXPECT) {
        // The client waits for leave to send its body. pingora takes that for an answer before the body's end, after
        // which it would close.
        let kept = session.get_keepalive();
        let leave = session.write_continue_response().await;
        leave.map_err(|_| Refusal::ClientGone)?;
        session.set_keepalive(kept);
    }
    let work = async {
        let mut message = Message::default();
        loop {
            match session.read_request_body().await {
                Ok(Some(chunk)) => {
                    held.grow(chunk.len())?;
                    message.push(chunk);
                    if message.len() as u64 > limit {
                        return Err(Refusal::TooLarge { limit });
                    }
                }
                Ok(None) => return Ok(message),
                Err(error) => {
                    log::debug!("request body: {error}");
                    return Err(Refusal::ClientGone);
                }
            }
        }
    };
    match pingora::time::timeout(time, work).await {
        Ok(result) => result,
        Err(_) => Err(Refusal::BodyTimedOut(time)),
    }
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()
}
