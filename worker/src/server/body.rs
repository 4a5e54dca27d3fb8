//! The body of every answer this process gives: nothing, one piece, a gRPC message, or a stream of frames.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use http::HeaderMap;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

/// Pieces are sent in order and never copied.
#[derive(Default)]
pub enum Body {
    #[default]
    Empty,
    /// One piece; an empty one ends the body.
    Full(Bytes),
    /// The pieces of a message, then trailers.
    Message {
        pieces: VecDeque<Bytes>,
        trailers: HeaderMap,
    },
    /// Trailers come last, if at all.
    Stream(BoxStream<'static, Frame<Bytes>>),
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Body::Empty => Poll::Ready(None),
            Body::Full(_) => match std::mem::take(&mut *self) {
                Body::Full(data) if !data.is_empty() => Poll::Ready(Some(Ok(Frame::data(data)))),
                _ => Poll::Ready(None),
            },
            Body::Message { pieces, trailers } => {
                let frame = match pieces.pop_front() {
                    Some(piece) => Frame::data(piece),
                    None => {
                        let trailers = std::mem::take(trailers);
                        *self = Body::Empty;
                        Frame::trailers(trailers)
                    }
                };
                Poll::Ready(Some(Ok(frame)))
            }
            Body::Stream(frames) => frames.poll_next_unpin(context).map(|frame| frame.map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Empty => true,
            Body::Full(data) => data.is_empty(),
            Body::Message { .. } | Body::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Empty => SizeHint::with_exact(0),
            Body::Full(data) => SizeHint::with_exact(data.len() as u64),
            Body::Message { pieces, .. } => {
                SizeHint::with_exact(pieces.iter().map(|piece| piece.len() as u64).sum())
            }
            Body::Stream(_) => SizeHint::new(),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Body({:?} bytes)", self.size_hint().exact())
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_message_is_its_pieces_then_its_trailers() {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        let body = Body::Message {
            pieces: [Bytes::from_static(b"ab"), Bytes::from_static(b"c")].into(),
            trailers: trailers.clone(),
        };
        assert_eq!(body.size_hint().exact(), Some(3));
        let collected = body.collect().await.unwrap();
        assert_eq!(collected.trailers(), Some(&trailers));
        assert_eq!(collected.to_bytes(), "abc");
    }

    #[tokio::test]
    async fn a_stream_is_its_frames() {
        let frames = ["a", "b"].map(|data| Frame::data(Bytes::from_static(data.as_bytes())));
        let body = Body::Stream(futures::stream::iter(frames).boxed());
        assert_eq!(body.collect().await.unwrap().to_bytes(), "ab");
    }

    #[tokio::test]
    async fn one_piece_is_sent_once() {
        let body = Body::Full(Bytes::from_static(b"abc"));
        assert!(!body.is_end_stream());
        assert_eq!(body.collect().await.unwrap().to_bytes(), "abc");
        assert!(Body::Full(Bytes::new()).is_end_stream());
    }
}
