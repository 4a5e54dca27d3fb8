//! One attempt over HTTP/1.1: the request out, the answer in, or the failure that decides what happens next.

use std::time::Duration;

use http::StatusCode;
use http::header::{CONTENT_LENGTH, HeaderValue};
use pingora::connectors::http::v1::Connector;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::HttpPeer;
use pingora::protocols::http::v1::client::HttpSession;

use crate::memory::Held;
use crate::traffic::retry::Failure;
use crate::upstream::Message;

/// Answers up to this size are held back until they are complete.
const HOLD_BACK: usize = 4 << 20;

/// Its end may be still to come.
pub struct Answer {
    pub head: ResponseHeader,
    pub body: Message,
    pub rest: Option<HttpSession>,
    /// What of the process's memory `body` takes.
    pub held: Held,
    /// Who answered, for `x-forebay-endpoint`.
    pub endpoint: HeaderValue,
}

/// What an attempt came to, when it did not succeed; with what the endpoint itself said, if it did.
pub struct Failed {
    pub failure: Failure,
    pub answer: Option<Box<Answer>>,
}

pub struct Attempt<'a> {
    pub connector: &'a Connector,
    pub peer: &'a HttpPeer,
    pub endpoint: HeaderValue,
    pub head: RequestHeader,
    pub body: Message,
    /// Also an answer that does not say how long it is.
    pub hold_back_all: bool,
    /// For the answer; what finds no room there streams.
    pub held: Held,
}

impl Attempt<'_> {
    /// `time`: for all of it, but for what is not held back. None: it may take for ever.
    pub async fn within(self, time: Option<Duration>) -> Result<Box<Answer>, Failed> {
        let Some(time) = time else {
            return self.run().await;
        };
        match pingora::time::timeout(time, self.run()).await {
            Ok(result) => result,
            Err(_) => Err(Failure::TimedOut.into()),
        }
    }

    async fn run(mut self) -> Result<Box<Answer>, Failed> {
        let opened = self.connector.get_http_session(self.peer).await;
        let (mut session, reused) = opened.map_err(|error| {
            log::debug!("{error}");
            Failure::Connect
        })?;
        // A kept connection that breaks before a word was said had died before.
        let silent = if reused {
            Failure::Stale
        } else {
            Failure::Reset
        };
        let sent = send(&mut session, self.head, self.body).await;
        let head = match head(&mut session).await {
            Ok(head) => head,
            Err(error) => {
                log::debug!("{error}, request sent: {sent:?}");
                return Err(silent.into());
            }
        };
        let mut hold_back = match declared(&head) {
            Some(length) => length <= HOLD_BACK,
            None => self.hold_back_all,
        };
        let mut body = Message::default();
        let mut complete = false;
        while hold_back && !complete && body.len() <= HOLD_BACK {
            match session.read_body_bytes().await {
                Ok(Some(chunk)) => {
                    hold_back = self.held.try_grow(chunk.len());
                    if !hold_back {
                        self.held.must_grow(chunk.len());
                    }
                    body.push(chunk);
                }
                Ok(None) => complete = true,
                Err(error) => {
                    log::debug!("{error}");
                    return Err(Failure::Reset.into());
                }
            }
        }
        let status = head.status;
        let rest = match complete {
            false => Some(session),
            true => {
                if sent.is_ok() {
                    let kept = self.connector;
                    kept.release_http_session(session, self.peer, None).await;
                }
                None
            }
        };
        let answer = Box::new(Answer {
            head,
            body,
            rest,
            held: self.held,
            endpoint: self.endpoint,
        });
        match status {
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => Err(Failed {
                failure: Failure::HttpStatus(status.as_u16()),
                answer: Some(answer),
            }),
            _ => Ok(answer),
        }
    }
}

/// An answer may come before all is sent, and then the connection may well be closed.
async fn send(
    session: &mut HttpSession,
    head: RequestHeader,
    body: Message,
) -> pingora::Result<()> {
    session.write_request_header(Box::new(head)).await?;
    for chunk in body.chunks() {
        session.write_body(&chunk).await?;
    }
    session.finish_body().await?;
    Ok(())
}

/// The answer's head, after whatever came before it to say that it is on its way.
async fn head(session: &mut HttpSession) -> pingora::Result<ResponseHeader> {
    loop {
        let head = session.read_resp_header_parts().await?;
        if !head.status.is_informational() {
            return Ok(*head);
        }
    }
}

fn declared(head: &ResponseHeader) -> Option<usize> {
    head.headers
        .get(CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            answer: None,
        }
    }
}
