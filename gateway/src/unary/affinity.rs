//! The key and the model of a call, for clusters that go by them.

use bytes::Bytes;
use forebay_proto::framing;

use super::attempts::Call;
use super::inflate::inflate_head;
use crate::fleet::{Bearings, Cluster};
use crate::protocol::method::Method;
use crate::traffic::affinity::{MessageHead, Seen};

/// How far into a message is looked: parameters stand before the tensors.
const HEAD: usize = 16 << 10;

pub(super) fn bearings(cluster: &Cluster, call: &Call) -> Bearings {
    let reads_messages = cluster.reads_messages();
    if cluster.affinity.is_none() && !reads_messages {
        return Bearings::default();
    }
    let head = reads_messages.then(|| head(call)).flatten();
    cluster.bearings(&Seen {
        headers: &call.headers,
        source: call.source,
        model: None,
        message: head.as_ref().map(|(bytes, complete)| MessageHead {
            bytes,
            complete: *complete,
            method: Method::of(call.path.path()),
        }),
    })
}

/// The beginning of the call's message without its framing, and whether it is all of it.
fn head(call: &Call) -> Option<(Bytes, bool)> {
    let framed = call.body.head(HEAD);
    let (flag, message) = (framed.first()?, framed.get(framing::HEADER_LENGTH..)?);
    let complete = framed.len() == call.body.len();
    if *flag == 0 {
        return Some((framed.slice_ref(message), complete));
    }
    let encoding = call.headers.get("grpc-encoding")?;
    let plain = inflate_head(encoding.as_bytes(), message, HEAD);
    let complete = complete && plain.len() < HEAD;
    Some((plain, complete))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::{Duration, Instant};

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use http::uri::PathAndQuery;
    use http::{HeaderMap, HeaderValue};

    use super::*;
    use crate::memory::Memory;
    use crate::traffic::deadline::Deadline;
    use crate::traffic::subset::Wish;
    use crate::upstream::Message;

    fn call(flag: u8, message: &[u8], pieces: usize) -> Call {
        let length = u32::try_from(message.len()).unwrap();
        let framed = [&[flag][..], &length.to_be_bytes(), message].concat();
        let mut body = Message::default();
        for piece in framed.chunks(framed.len().div_ceil(pieces)) {
            body.push(Bytes::copy_from_slice(piece));
        }
        let mut headers = HeaderMap::new();
        headers.insert("grpc-encoding", HeaderValue::from_static("gzip"));
        Call {
            path: PathAndQuery::from_static("/inference.GRPCInferenceService/ModelInfer"),
            headers,
            body,
            deadline: Deadline::from(Instant::now(), Duration::from_secs(1), None),
            client_timeout: None,
            hold_back: 0,
            held: Memory::new(None).hold(),
            source: None,
            wish: Wish::Nothing,
        }
    }

    #[test]
    fn the_beginning_of_a_message_is_seen_however_it_comes() {
        let small: Vec<u8> = (0..200).collect();
        let large: Vec<u8> = (0..100_000_u32).map(|number| number as u8).collect();
        for pieces in [1, 2, 40] {
            let (bytes, complete) = head(&call(0, &small, pieces)).unwrap();
            assert_eq!((&bytes[..], complete), (&small[..], true), "{pieces}");
            let (bytes, complete) = head(&call(0, &large, pieces)).unwrap();
            let end = HEAD - framing::HEADER_LENGTH;
            assert_eq!((&bytes[..], complete), (&large[..end], false), "{pieces}");
        }
        assert!(
            head(&call(0, &[], 1)).is_some_and(|(bytes, complete)| bytes.is_empty() && complete)
        );
    }

    #[test]
    fn compressed_messages_are_seen_too() {
        let gzip = |plain: &[u8]| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(plain).unwrap();
            encoder.finish().unwrap()
        };
        let (bytes, complete) = head(&call(1, &gzip(b"names"), 1)).unwrap();
        assert_eq!((&bytes[..], complete), (&b"names"[..], true));
        let (bytes, complete) = head(&call(1, &gzip(&vec![7; 1 << 20]), 3)).unwrap();
        assert_eq!((bytes.len(), complete), (HEAD, false));
        // What is no gzip has no beginning.
        let (bytes, _) = head(&call(1, b"names", 1)).unwrap();
        assert!(bytes.is_empty());
    }
}
