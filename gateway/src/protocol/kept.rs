//! An answer without its id, so that it can be given to other requests, and put together again with theirs.
//!
//! Of a ModelInferResponse the id is one top-level field, and fields may come in any order: cut out once, it is put in
//! front of what is kept, which is then shared and never copied again.

use bytes::{BufMut, Bytes, BytesMut};
use forebay_proto::framing::{self, FramingError};

use super::wire::{Reader, Stop};

/// Of ModelInferResponse.
const ID: u32 = 3;

/// A copy of `message`, a ModelInferResponse without its frame, without its id. It holds no other memory.
///
/// # Errors
/// A message that is none.
pub fn without_id(message: &[u8]) -> Result<Bytes, Stop> {
    let mut reader = Reader::new(message);
    let mut kept = Vec::with_capacity(message.len());
    while let Some(field) = reader.field()? {
        if field.number != ID {
            kept.extend_from_slice(field.whole);
        }
    }
    kept.shrink_to_fit();
    Ok(kept.into())
}

/// Whether `message` can be kept as it is.
pub fn is_without_id(message: &[u8]) -> bool {
    let mut reader = Reader::new(message);
    loop {
        match reader.field() {
            Ok(None) => return true,
            Ok(Some(field)) if field.number != ID => {}
            Ok(Some(_)) | Err(_) => return false,
        }
    }
}

/// What goes in front of a kept message of `length` bytes to make it the answer to the request with this id: the frame,
/// and the id.
///
/// # Errors
/// A message too long for a frame.
pub fn front(length: usize, id: &str) -> Result<Bytes, FramingError> {
    let mut field = BytesMut::with_capacity(framing::HEADER_LENGTH + 6 + id.len());
    field.put_bytes(0, framing::HEADER_LENGTH);
    if !id.is_empty() {
        field.put_u8((ID << 3 | 2) as u8);
        put_varint(&mut field, id.len());
        field.put_slice(id.as_bytes());
    }
    let whole = field.len() - framing::HEADER_LENGTH + length;
    field[..framing::HEADER_LENGTH].copy_from_slice(&framing::header(whole)?);
    Ok(field.freeze())
}

fn put_varint(out: &mut BytesMut, mut number: usize) {
    while number >= 0x80 {
        out.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

#[cfg(test)]
mod tests {
    use forebay_proto::inference::ModelInferResponse;
    use prost::Message;

    use super::*;

    #[test]
    fn each_request_gets_its_own_id() {
        let answer = ModelInferResponse {
            model_name: "m".into(),
            model_version: "3".into(),
            id: "the first".into(),
            raw_output_contents: vec![vec![7; 1_000].into()],
            ..Default::default()
        };
        let kept = without_id(&answer.encode_to_vec()).unwrap();
        assert!(is_without_id(&kept) && !is_without_id(&answer.encode_to_vec()));
        for id in ["", "second", &"x".repeat(300)] {
            let framed = [front(kept.len(), id).unwrap(), kept.clone()].concat();
            let message = framing::unary_message(&framed.into()).unwrap();
            let got = ModelInferResponse::decode(message).unwrap();
            let want = ModelInferResponse {
                id: id.to_owned(),
                ..answer.clone()
            };
            assert_eq!(got, want);
        }
    }

    #[test]
    fn what_is_no_message_is_not_kept() {
        assert!(!is_without_id(&[0, 0]));
        assert_eq!(without_id(&[0, 0]), Err(Stop::Malformed));
        assert_eq!(without_id(&[1 << 3 | 2, 9]), Err(Stop::Truncated));
    }
}
