//! gRPC's message framing for unary calls: one flag byte, a big-endian `u32` length, then the message.
//!
//! Compressed messages are refused, as no message encoding is ever offered to a peer. Streams of messages are
//! not read here.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use tonic::Code;

/// Bytes in front of each message.
pub const HEADER_LENGTH: usize = 5;

/// A body that is not exactly one message, or a message that no frame can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    #[error("body is empty, want one message")]
    Empty,

    #[error("message is compressed, send it with grpc-encoding identity")]
    Compressed,

    #[error("message begins with the flag byte {0}, want 0 or 1")]
    Flag(u8),

    #[error("body ends within a message: {needed} bytes are needed, {actual} were sent")]
    Truncated { needed: u64, actual: usize },

    #[error("body goes on for {0} bytes after its message, a unary call has one message")]
    MoreThanOne(usize),

    #[error("message of {0} bytes is longer than the 4294967295 that its frame can say")]
    TooLong(usize),
}

impl FramingError {
    /// The code that gRPC gives each.
    pub const fn code(&self) -> Code {
        match self {
            Self::Compressed | Self::MoreThanOne(_) => Code::Unimplemented,
            Self::Empty | Self::Flag(_) | Self::Truncated { .. } => Code::InvalidArgument,
            Self::TooLong(_) => Code::ResourceExhausted,
        }
    }
}

/// What goes in front of a message of this many bytes.
///
/// # Errors
/// A length that the frame cannot say.
pub fn header(length: usize) -> Result<[u8; HEADER_LENGTH], FramingError> {
    let length = u32::try_from(length).map_err(|_| FramingError::TooLong(length))?;
    let [a, b, c, d] = length.to_be_bytes();
    Ok([0, a, b, c, d])
}

/// Encodes a message in its frame, uncompressed.
///
/// # Errors
/// A message too long for a frame.
pub fn frame(message: &impl Message) -> Result<Bytes, FramingError> {
    let length = message.encoded_len();
    let mut framed = BytesMut::with_capacity(HEADER_LENGTH.saturating_add(length));
    framed.put_slice(&header(length)?);
    message
        .encode(&mut framed)
        .expect("the buffer grows as needed");
    Ok(framed.freeze())
}

/// Frames a message that is encoded already.
///
/// # Errors
/// A message too long for a frame.
pub fn frame_bytes(message: &[u8]) -> Result<Bytes, FramingError> {
    let header = header(message.len())?;
    let mut framed = BytesMut::with_capacity(HEADER_LENGTH + message.len());
    framed.put_slice(&header);
    framed.put_slice(message);
    Ok(framed.freeze())
}

/// The one message of a complete unary body, sharing the body's memory.
///
/// # Errors
/// A body that is anything but one uncompressed message.
pub fn unary_message(body: &Bytes) -> Result<Bytes, FramingError> {
    let Some((&[flag, a, b, c, d], message)) = body.split_first_chunk::<HEADER_LENGTH>() else {
        return Err(if body.is_empty() {
            FramingError::Empty
        } else {
            FramingError::Truncated {
                needed: HEADER_LENGTH as u64,
                actual: body.len(),
            }
        });
    };
    match flag {
        0 => {}
        1 => return Err(FramingError::Compressed),
        other => return Err(FramingError::Flag(other)),
    }
    let length = u32::from_be_bytes([a, b, c, d]);
    match usize::try_from(length) {
        Ok(length) if length == message.len() => Ok(body.slice(HEADER_LENGTH..)),
        Ok(length) if length < message.len() => {
            Err(FramingError::MoreThanOne(message.len() - length))
        }
        _ => Err(FramingError::Truncated {
            needed: HEADER_LENGTH as u64 + u64::from(length),
            actual: body.len(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::inference::ModelReadyRequest;

    #[test]
    fn a_message_is_framed_and_read_back() {
        let message = ModelReadyRequest {
            name: "m".into(),
            version: String::new(),
        };
        let framed = frame(&message).unwrap();
        assert_eq!(framed, &b"\0\0\0\0\x03\x0a\x01m"[..]);
        assert_eq!(frame_bytes(&message.encode_to_vec()).unwrap(), framed);
        let read = unary_message(&framed).unwrap();
        assert_eq!(ModelReadyRequest::decode(read).unwrap(), message);
    }

    #[test]
    fn anything_but_one_message_is_refused() {
        for (body, error) in [
            (&b""[..], FramingError::Empty),
            (
                b"\0\0\0",
                FramingError::Truncated {
                    needed: 5,
                    actual: 3,
                },
            ),
            (b"\x01\0\0\0\0", FramingError::Compressed),
            (b"\x02\0\0\0\0", FramingError::Flag(2)),
            (
                b"\0\0\0\0\x02a",
                FramingError::Truncated {
                    needed: 7,
                    actual: 6,
                },
            ),
            (
                b"\0\xff\xff\xff\xffa",
                FramingError::Truncated {
                    needed: 4_294_967_300,
                    actual: 6,
                },
            ),
            (b"\0\0\0\0\x01ab", FramingError::MoreThanOne(1)),
            (b"\0\0\0\0\0\0\0\0\0\0", FramingError::MoreThanOne(5)),
        ] {
            assert_eq!(unary_message(&Bytes::from_static(body)), Err(error));
        }
    }

    #[test]
    fn a_length_that_no_frame_can_say_is_refused() {
        let length = usize::try_from(u64::from(u32::MAX) + 1).unwrap();
        assert_eq!(header(length), Err(FramingError::TooLong(length)));
        assert_eq!(header(length - 1), Ok([0, 0xff, 0xff, 0xff, 0xff]));
    }

    #[test]
    fn a_message_shares_the_memory_of_its_body() {
        let body = Bytes::from(b"\0\0\0\0\x02ab".to_vec());
        let message = unary_message(&body).unwrap();
        assert_eq!(message.as_ptr(), body[5..].as_ptr());
    }

    proptest! {
        #[test]
        fn frames_are_read_back(message: Vec<u8>) {
            let framed = frame_bytes(&message).unwrap();
            prop_assert_eq!(unary_message(&framed).unwrap(), message);
        }

        #[test]
        fn any_body_is_read_without_panic(body: Vec<u8>) {
            let length = body.len();
            if let Ok(message) = unary_message(&body.into()) {
                prop_assert_eq!(message.len() + HEADER_LENGTH, length);
            }
        }
    }
}
