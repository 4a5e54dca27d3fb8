//! One attempt of a unary call: request out, answer in, or the failure that decides what happens next.
//!
//! The answer is read whole up to a limit, so that a worker that dies in mid-answer costs a retry and not an
//! error; an answer beyond the limit is handed over as a stream. Dropping the future resets the stream, which
//! is how a per-try timeout and a vanished client stop the worker's work.

use std::pin::pin;

use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;
use smallvec::SmallVec;

use super::channel::Channels;
use super::connect::ConnectError;
use crate::memory::Held;
use crate::traffic::retry::Failure;

/// A request or answer body as it was read: chunks that are shared, never copied.
#[derive(Debug, Default, Clone)]
pub struct Message {
    chunks: SmallVec<[Bytes; 2]>,
    length: usize,
}

pub struct Answer {
    pub head: http::response::Parts,
    pub body: Message,
    /// None: the trailers came in `head` (a gRPC answer without messages), or there are none.
    pub trailers: Option<HeaderMap>,
    /// What did not fit into `body`; its trailers follow it.
    pub rest: Option<RecvStream>,
    /// What `body` takes.
    pub held: Held,
}

impl Message {
    pub fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.length += chunk.len();
            self.chunks.push(chunk);
        }
    }

    pub fn len(&self) -> usize {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub fn chunks(self) -> impl ExactSizeIterator<Item = Bytes> {
        self.chunks.into_iter()
    }

    /// The first bytes, at most `most`; copied only when they are in several pieces.
    pub fn head(&self, most: usize) -> Bytes {
        match self.chunks.as_slice() {
            [] => Bytes::new(),
            [first, ..] if first.len() >= most.min(self.length) => {
                first.slice(..most.min(first.len()))
            }
            chunks => {
                let bytes = chunks.iter().flat_map(|chunk| chunk.iter());
                bytes.copied().take(most).collect()
            }
        }
    }

    /// In one piece; copies only when there are several.
    pub fn make_contiguous(&mut self) -> &Bytes {
        static EMPTY: Bytes = Bytes::new();
        if self.chunks.len() > 1 {
            let whole = Bytes::from(self.chunks.concat());
            self.chunks.clear();
            self.chunks.push(whole);
        }
        self.chunks.first().unwrap_or(&EMPTY)
    }
}

impl From<Bytes> for Message {
    fn from(bytes: Bytes) -> Self {
        let mut message = Self::default();
        message.push(bytes);
        message
    }
}

/// Sends `request` with `body` over the endpoint's connection and reads the answer, of which at most
/// `hold_back` bytes (and one frame) are held back, and no more than find room in `held`.
///
/// A pooled connection that turns out to be dead before the request left is replaced once, at no cost to the
/// caller's retries.
pub async fn exchange(
    channels: &Channels,
    request: http::Request<()>,
    body: Message,
    hold_back: usize,
    mut held: Held,
) -> Result<Answer, Failure> {
    let mut reconnected = false;
    let (sender, generation) = loop {
        let sender = pin!(channels.sender()).await.map_err(|error| {
            log::debug!("{error}");
            match error {
                ConnectError::Unwelcome { .. } => Failure::Unwelcome,
                _ => Failure::Connect,
            }
        })?;
        let generation = sender.generation;
        match sender.h2.ready().await {
            Ok(ready) => break (ready, generation),
            Err(_) if !reconnected => {
                channels.retire(generation);
                reconnected = true;
            }
            Err(_) => return Err(Failure::Stale),
        }
    };
    let failed = |error: h2::Error| {
        if error.is_io() || error.is_go_away() {
            channels.retire(generation);
        }
        classify(&error)
    };
    let mut sender = sender;
    let (response, mut stream) = sender
        .send_request(request, body.is_empty())
        .map_err(failed)?;
    let mut left = body.chunks.len();
    for chunk in body.chunks {
        left -= 1;
        if let Err(error) = stream.send_data(chunk, left == 0) {
            // The worker may have answered and closed before it read everything; its answer decides.
            log::debug!("request body not taken: {error}");
            break;
        }
    }
    let (head, mut incoming) = response.await.map_err(failed)?.into_parts();
    let mut body = Message::default();
    while let Some(chunk) = incoming.data().await {
        let chunk = chunk.map_err(failed)?;
        let _ = incoming.flow_control().release_capacity(chunk.len());
        let length = chunk.len();
        body.push(chunk);
        let room = held.try_grow(length);
        if !room {
            held.must_grow(length);
        }
        if !room || body.len() > hold_back {
            return Ok(Answer {
                head,
                body,
                trailers: None,
                rest: Some(incoming),
                held,
            });
        }
    }
    let trailers = incoming.trailers().await.map_err(failed)?;
    Ok(Answer {
        head,
        body,
        trailers,
        rest: None,
        held,
    })
}

/// What an HTTP/2 error says about whether the worker may have executed the call.
fn classify(error: &h2::Error) -> Failure {
    if error.reason() == Some(h2::Reason::REFUSED_STREAM) {
        return Failure::Refused;
    }
    if error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR) {
        // RFC 9113, section 6.8: streams above the last one named were not processed.
        return Failure::Refused;
    }
    Failure::Reset
}
