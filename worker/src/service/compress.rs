//! Compressed answers over gRPC.
//!
//! Most clients say that they accept compression without wishing for it, so the sign taken is a compressed
//! request: it is answered in kind.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};
use forebay_proto::framing::HEADER_LENGTH;
use http::{HeaderMap, HeaderValue};

use crate::server::{Encoding, WORTH_COMPRESSING, deflate};

/// Flag of a compressed message, and room for its length.
const HEADER: &[u8; HEADER_LENGTH] = &[1, 0, 0, 0, 0];

/// How the answers of a call are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compression(Option<Encoding>);

impl Compression {
    /// For a call with these headers.
    pub fn of(headers: &HeaderMap) -> Compression {
        let header = |name| {
            headers
                .get(name)
                .and_then(|value: &HeaderValue| value.to_str().ok())
        };
        let sent = header("grpc-encoding").and_then(Encoding::accepted);
        let accepts = |encoding: &Encoding| {
            let mut accepted = header("grpc-accept-encoding")
                .unwrap_or_default()
                .split(',');
            accepted.any(|name| name.trim() == encoding.name())
        };
        Compression(sent.filter(accepts))
    }

    /// Says it in the headers of the answer.
    pub fn tell(self, headers: &mut HeaderMap) {
        if let Some(encoding) = self.0 {
            headers.insert("grpc-encoding", HeaderValue::from_static(encoding.name()));
        }
    }

    /// The pieces of a framed message, as one compressed message if that is shorter.
    pub async fn apply(self, pieces: VecDeque<Bytes>) -> VecDeque<Bytes> {
        let length: usize = pieces.iter().map(Bytes::len).sum();
        let Some(encoding) = self.0.filter(|_| length >= WORTH_COMPRESSING) else {
            return pieces;
        };
        let mut message = Vec::from(pieces.clone());
        match message.first_mut() {
            Some(first) if first.len() >= HEADER_LENGTH => first.advance(HEADER_LENGTH),
            _ => return pieces,
        }
        let Some(mut compressed) = deflate(HEADER, message, encoding).await else {
            return pieces;
        };
        let Ok(length) = u32::try_from(compressed.len() - HEADER_LENGTH) else {
            return pieces;
        };
        compressed[1..HEADER_LENGTH].copy_from_slice(&length.to_be_bytes());
        VecDeque::from([Bytes::from(compressed)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::{Bodies, inflate};

    fn headers(sent: &'static str, accepted: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-encoding", HeaderValue::from_static(sent));
        headers.insert("grpc-accept-encoding", HeaderValue::from_static(accepted));
        headers
    }

    #[test]
    fn requests_are_answered_in_kind() {
        for (sent, accepted, wanted) in [
            ("gzip", "identity, deflate, gzip", Some(Encoding::Gzip)),
            ("deflate", "identity,deflate,gzip", Some(Encoding::Deflate)),
            ("gzip", "identity", None),
            ("identity", "identity, deflate, gzip", None),
        ] {
            assert_eq!(
                Compression::of(&headers(sent, accepted)).0,
                wanted,
                "{sent}"
            );
        }
        assert_eq!(Compression::of(&HeaderMap::new()).0, None);
    }

    #[tokio::test]
    async fn a_message_in_pieces_becomes_one_compressed_message() {
        let content = [vec![7; 900], vec![8; 900]];
        let header = [&[0][..], &1_800_u32.to_be_bytes()].concat();
        let pieces = VecDeque::from([
            Bytes::from([header, content[0].clone()].concat()),
            Bytes::from(content[1].clone()),
        ]);
        let compression = Compression(Some(Encoding::Gzip));
        let compressed = Vec::from(compression.apply(pieces.clone()).await);
        let [message] = &compressed[..] else {
            panic!("one piece, not {compressed:?}")
        };
        let length = u32::from_be_bytes(message[1..5].try_into().unwrap()) as usize;
        assert_eq!((message[0], length), (1, message.len() - HEADER_LENGTH));
        let inflated = inflate(
            message.slice(HEADER_LENGTH..),
            Encoding::Gzip,
            1_800,
            Bodies::unbounded().share(),
        )
        .await
        .unwrap();
        assert_eq!(inflated, content.concat());

        assert_eq!(Compression(None).apply(pieces.clone()).await, pieces);
        let short = VecDeque::from([Bytes::from_static(&[0; 100])]);
        assert_eq!(compression.apply(short.clone()).await, short);
    }
}
