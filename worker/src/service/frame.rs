//! gRPC messages out of a request body, and into an answer's.
//!
//! A message that arrives in one piece is not copied, large outputs leave without a copy, a claimed length
//! takes no memory, and a message beyond the limit is RESOURCE_EXHAUSTED, also when only inflating shows it.
//! Frames are as in "gRPC over HTTP2".

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use forebay_proto::framing::{self, HEADER_LENGTH};
use forebay_proto::inference::ModelInferResponse;
use http_body_util::BodyExt;
use hyper::body::Body;
use prost::Message;

use super::Fault;
use crate::server::{Bodies, Encoding, Gathered, inflate};

/// Outputs below this size are copied behind their head: cheaper than a DATA frame of their own.
const SEPARATE: usize = 32 << 10;
/// Tag of `raw_output_contents`: field 6, length-delimited.
const RAW_OUTPUT_TAG: u8 = 6 << 3 | 2;

/// The messages of a request body, in order.
#[derive(Debug)]
pub struct Messages<B> {
    body: B,
    encoding: Option<Encoding>,
    /// Bytes of a message at most, compressed and inflated.
    limit: usize,
    received: Gathered,
}

impl<B> Messages<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    /// What arrives is booked with `bodies`.
    pub fn new(body: B, encoding: Option<Encoding>, limit: usize, bodies: &Bodies) -> Messages<B> {
        Messages {
            body,
            encoding,
            limit,
            received: Gathered::new(bodies),
        }
    }

    /// The message of a call that has but one.
    pub async fn only(mut self) -> Result<Bytes, Fault> {
        let Some(message) = self.next().await? else {
            return Err(Fault::Invalid(
                "request has no message, send one".to_owned(),
            ));
        };
        match self.next().await? {
            None => Ok(message),
            Some(_) => Err(Fault::Invalid(
                "request has more than one message, send one".to_owned(),
            )),
        }
    }

    /// The next message; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        loop {
            if let Some((message, compressed)) = first_message(&mut self.received, self.limit)? {
                return self.plain(message, compressed).await.map(Some);
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.received.push(data)?;
                    }
                }
                Some(Err(error)) => {
                    return Err(Fault::Invalid(format!("request body broke off: {error}")));
                }
                None if self.received.bytes().is_empty() => return Ok(None),
                None => {
                    return Err(Fault::Invalid(format!(
                        "request ended {} bytes into a message that is longer",
                        self.received.bytes().len()
                    )));
                }
            }
        }
    }

    async fn plain(&self, message: Bytes, compressed: bool) -> Result<Bytes, Fault> {
        match (compressed, self.encoding) {
            (false, _) => Ok(message),
            (true, Some(encoding)) => {
                Ok(inflate(message, encoding, self.limit, self.received.share()).await?)
            }
            (true, None) => Err(Fault::Invalid(
                "message is flagged as compressed, but grpc-encoding names no compression"
                    .to_owned(),
            )),
        }
    }
}

/// Takes the first message, if all of it is here, without its header; and whether it is compressed.
fn first_message(received: &mut Gathered, limit: usize) -> Result<Option<(Bytes, bool)>, Fault> {
    let Some(&[flag, a, b, c, d]) = received.bytes().first_chunk::<HEADER_LENGTH>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if length > limit {
        return Err(too_large("message", length, limit));
    }
    if flag > 1 {
        return Err(Fault::Invalid(format!(
            "compressed flag is {flag}, must be 0 or 1"
        )));
    }
    if received.bytes().len() - HEADER_LENGTH < length {
        return Ok(None);
    }
    let mut message = received.take(HEADER_LENGTH + length);
    message.advance(HEADER_LENGTH);
    Ok(Some((message, flag == 1)))
}

/// Any message but an inference's, in its frame.
pub fn frame(message: &impl Message, limit: usize) -> Result<Bytes, Fault> {
    let length = message.encoded_len();
    if length > limit {
        return Err(too_large("answer", length, limit));
    }
    framing::frame(message).map_err(|_| too_large("answer", length, limit))
}

/// The pieces of an inference's answer, in order; outputs of some size are pieces of their own.
pub fn frame_inference(
    mut response: ModelInferResponse,
    limit: usize,
) -> Result<VecDeque<Bytes>, Fault> {
    let outputs = std::mem::take(&mut response.raw_output_contents);
    let field_length = |length: usize| 1 + prost::length_delimiter_len(length) + length;
    let length = response.encoded_len()
        + outputs
            .iter()
            .map(|output| field_length(output.len()))
            .sum::<usize>();
    let header = framing::header(length).ok().filter(|_| length <= limit);
    let header = header.ok_or_else(|| too_large("answer", length, limit))?;
    let separate: usize = outputs
        .iter()
        .map(Bytes::len)
        .filter(|length| *length >= SEPARATE)
        .sum();

    let mut buffer = BytesMut::with_capacity(HEADER_LENGTH + length - separate);
    buffer.put_slice(&header);
    response.encode_raw(&mut buffer);
    let mut pieces = VecDeque::with_capacity(1);
    for output in outputs {
        buffer.put_u8(RAW_OUTPUT_TAG);
        prost::encode_length_delimiter(output.len(), &mut buffer)
            .expect("the buffer grows as needed");
        if output.len() < SEPARATE {
            buffer.extend_from_slice(&output);
        } else {
            pieces.push_back(buffer.split().freeze());
            pieces.push_back(output);
        }
    }
    if !buffer.is_empty() {
        pieces.push_back(buffer.freeze());
    }
    Ok(pieces)
}

fn too_large(what: &str, length: usize, limit: usize) -> Fault {
    Fault::TooLarge(format!(
        "{what} of {length} bytes exceeds the limit of {limit} bytes"
    ))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use forebay_proto::inference::model_infer_response::InferOutputTensor;
    use futures::StreamExt;
    use http_body_util::StreamBody;
    use hyper::body::Frame;

    use super::*;

    fn framed(flag: u8, length: u32, data: &[u8]) -> Vec<u8> {
        [&[flag][..], &length.to_be_bytes(), data].concat()
    }

    fn messages(
        wire: &[u8],
        piece: usize,
        limit: usize,
    ) -> Messages<impl Body<Data = Bytes, Error = Infallible> + Unpin> {
        let pieces: Vec<Bytes> = wire.chunks(piece).map(Bytes::copy_from_slice).collect();
        let frames = futures::stream::iter(pieces).map(|piece| Ok(Frame::data(piece)));
        Messages::new(StreamBody::new(frames), None, limit, &Bodies::unbounded())
    }

    #[tokio::test]
    async fn pieces_of_any_size_make_the_same_messages() {
        let wire = [
            framed(0, 6, b"tensor"),
            framed(0, 0, b""),
            framed(0, 1, b"x"),
        ]
        .concat();
        for piece in 1..=wire.len() {
            let mut messages = messages(&wire, piece, 6);
            for want in ["tensor", "", "x"] {
                assert_eq!(messages.next().await.unwrap().unwrap(), want);
            }
            assert_eq!(messages.next().await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn a_unary_call_has_one_message() {
        let one = framed(0, 6, b"tensor");
        assert_eq!(messages(&one, 4, 6).only().await.unwrap(), "tensor");
        let two = [one.clone(), one].concat();
        for wire in [&two[..], &[]] {
            assert!(matches!(
                messages(wire, 4, 6).only().await,
                Err(Fault::Invalid(_))
            ));
        }
    }

    #[tokio::test]
    async fn truncated_and_malformed_bodies_are_refused() {
        let wire = framed(0, 6, b"tensor");
        for length in 1..wire.len() {
            let fault = messages(&wire[..length], 3, 6).next().await.unwrap_err();
            assert!(
                matches!(&fault, Fault::Invalid(text) if text.contains("ended")),
                "{fault}"
            );
        }
        for flag in [1, 2, 255] {
            let wire = framed(flag, 6, b"tensor");
            assert!(matches!(
                messages(&wire, 4, 6).next().await,
                Err(Fault::Invalid(_))
            ));
        }
    }

    fn received(wire: Vec<u8>) -> Gathered {
        let mut received = Gathered::new(&Bodies::unbounded());
        received.push(Bytes::from(wire)).unwrap();
        received
    }

    #[test]
    fn a_claim_beyond_the_limit_is_refused_before_its_bytes_arrive() {
        let mut received = received(framed(0, 1 << 30, b"x"));
        assert!(matches!(
            first_message(&mut received, 1 << 20),
            Err(Fault::TooLarge(_))
        ));
    }

    #[test]
    fn a_claim_within_the_limit_is_waited_for() {
        let mut received = received(framed(0, 1 << 30, b"x"));
        assert_eq!(first_message(&mut received, 1 << 30), Ok(None));
    }

    #[tokio::test]
    async fn a_message_that_there_is_no_room_for_is_refused_as_it_arrives() {
        let wire = framed(0, 40 << 10, &vec![7; 40 << 10]);
        let bodies = Bodies::new(64 << 10);
        let messages = || {
            let pieces: Vec<Bytes> = wire.chunks(1 << 10).map(Bytes::copy_from_slice).collect();
            let frames =
                futures::stream::iter(pieces).map(|piece| Ok::<_, Infallible>(Frame::data(piece)));
            Messages::new(StreamBody::new(frames), None, 1 << 20, &bodies)
        };
        let first = messages().only().await.unwrap();
        let refused = messages().only().await.unwrap_err();
        assert!(matches!(refused, Fault::Busy { .. }), "{refused}");
        drop(first);
        assert!(messages().only().await.is_ok());
        assert_eq!(bodies.held(), 0);
    }

    #[tokio::test]
    async fn an_answer_decodes_to_itself_whatever_the_sizes() {
        for sizes in [
            vec![],
            vec![0],
            vec![40, SEPARATE, 7],
            vec![SEPARATE],
            vec![3 * SEPARATE; 2],
        ] {
            let response = ModelInferResponse {
                model_name: "mlp".to_owned(),
                id: "abc-1".to_owned(),
                outputs: vec![InferOutputTensor {
                    name: "y".to_owned(),
                    ..Default::default()
                }],
                raw_output_contents: sizes
                    .iter()
                    .map(|size| Bytes::from(vec![7; *size]))
                    .collect(),
                ..Default::default()
            };
            let wire = frame_inference(response.clone(), 1 << 20).unwrap();
            let wire: Vec<u8> = wire.into_iter().flatten().collect();
            let message = messages(&wire, wire.len(), 1 << 20).only().await.unwrap();
            assert_eq!(ModelInferResponse::decode(message).unwrap(), response);
        }
    }

    #[test]
    fn large_outputs_are_not_copied() {
        let output = Bytes::from(vec![1; SEPARATE]);
        let response = ModelInferResponse {
            raw_output_contents: vec![output.clone()],
            ..Default::default()
        };
        let pieces = frame_inference(response, 1 << 20).unwrap();
        assert_eq!(pieces[1].as_ptr(), output.as_ptr());
    }

    #[test]
    fn an_answer_beyond_the_limit_is_refused() {
        let response = ModelInferResponse {
            raw_output_contents: vec![Bytes::from(vec![0; 100])],
            ..Default::default()
        };
        assert!(matches!(
            frame_inference(response.clone(), 100),
            Err(Fault::TooLarge(_))
        ));
        assert!(matches!(frame(&response, 100), Err(Fault::TooLarge(_))));
    }
}
