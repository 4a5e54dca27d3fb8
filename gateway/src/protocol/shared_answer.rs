//! How a kept answer is written down where other gateways read it.
//!
//! ```text
//! "FBA" | format 1 | key 32 | made 8 | until 8 | endpoint's length 2 | endpoint | message | digest 16
//! ```
//!
//! Numbers are little-endian, times are milliseconds since 1970. The digest is over all before it, the key is the one
//! that was asked for: what is damaged, cut off, of another format or about something else is as good as nothing. A
//! digest is no signature: whoever can write there is trusted.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use forebay_cache::{Digest, Key};
use http::HeaderValue;

use super::kept;

/// Another one for another format.
const MAGIC: [u8; 4] = *b"FBA\x01";
const HEAD: usize = MAGIC.len() + 32 + 8 + 8 + 2;
const DIGEST: usize = 16;
/// No endpoint is named at greater length.
const LONGEST_ENDPOINT: usize = 512;
/// Bytes that are written besides the message, at most.
pub const OVERHEAD: usize = HEAD + LONGEST_ENDPOINT + DIGEST;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedAnswer {
    /// The message without frame and id.
    pub message: Bytes,
    pub endpoint: HeaderValue,
    /// Since 1970, by the clock of the gateway that wrote it.
    pub made: Duration,
    pub until: Duration,
}

impl SharedAnswer {
    /// None: its endpoint has no name that could be written.
    pub fn encode(&self, key: &Key) -> Option<Bytes> {
        let endpoint = self.endpoint.as_bytes();
        if endpoint.len() > LONGEST_ENDPOINT {
            return None;
        }
        let mut out = BytesMut::with_capacity(OVERHEAD + self.message.len());
        out.put_slice(&MAGIC);
        out.put_slice(key.as_bytes());
        out.put_u64_le(milliseconds(self.made));
        out.put_u64_le(milliseconds(self.until));
        out.put_u16_le(endpoint.len() as u16);
        out.put_slice(endpoint);
        out.put_slice(&self.message);
        let digest = digest(&out);
        out.put_slice(&digest);
        Some(out.freeze())
    }

    /// None: it is anything but the answer to `key`.
    pub fn decode(value: &Bytes, key: &Key) -> Option<Self> {
        let (written, end) = value.split_at_checked(value.len().checked_sub(DIGEST)?)?;
        if digest(written) != end || !written.starts_with(&MAGIC) {
            return None;
        }
        let mut rest = value.slice(MAGIC.len()..written.len());
        let mut asked = [0; 32];
        rest.try_copy_to_slice(&mut asked).ok()?;
        if asked != *key.as_bytes() {
            return None;
        }
        let made = Duration::from_millis(rest.try_get_u64_le().ok()?);
        let until = Duration::from_millis(rest.try_get_u64_le().ok()?);
        let length = usize::from(rest.try_get_u16_le().ok()?);
        if length > rest.len() {
            return None;
        }
        let endpoint = rest.split_to(length);
        if !kept::is_without_id(&rest) {
            return None;
        }
        Some(Self {
            message: rest,
            endpoint: HeaderValue::from_bytes(&endpoint).ok()?,
            made,
            until,
        })
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn digest(written: &[u8]) -> [u8; DIGEST] {
    let mut digest = Digest::new();
    digest.bytes(written);
    let mut short = [0; DIGEST];
    short.copy_from_slice(&digest.key().as_bytes()[..DIGEST]);
    short
}

#[cfg(test)]
mod tests {
    use forebay_proto::inference::ModelInferResponse;
    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    fn key(number: usize) -> Key {
        let mut digest = Digest::new();
        digest.number(number);
        digest.key()
    }

    fn answer() -> SharedAnswer {
        let response = ModelInferResponse {
            model_name: "m".into(),
            raw_output_contents: vec![vec![7; 100].into()],
            ..Default::default()
        };
        SharedAnswer {
            message: response.encode_to_vec().into(),
            endpoint: HeaderValue::from_static("worker-1:8001"),
            made: Duration::from_millis(1_700_000_000_123),
            until: Duration::from_millis(1_700_000_060_123),
        }
    }

    #[test]
    fn what_is_written_is_read_under_its_key_alone() {
        let written = answer().encode(&key(1)).unwrap();
        assert!(written.len() <= answer().message.len() + OVERHEAD);
        assert_eq!(SharedAnswer::decode(&written, &key(1)), Some(answer()));
        assert_eq!(SharedAnswer::decode(&written, &key(2)), None);
    }

    #[test]
    fn another_format_or_another_program_is_nothing() {
        let written = answer().encode(&key(1)).unwrap();
        let mut later = written[..written.len() - DIGEST].to_vec();
        later[3] = 2;
        later.extend(digest(&later));
        for value in [later, Vec::new(), b"a string of somebody else's".to_vec()] {
            assert_eq!(SharedAnswer::decode(&value.into(), &key(1)), None);
        }
    }

    #[test]
    fn an_answer_that_bears_an_id_is_nothing() {
        let mut with_id = answer();
        with_id.message = [&with_id.message[..], &[3 << 3 | 2, 1, b'7']]
            .concat()
            .into();
        let written = with_id.encode(&key(1)).unwrap();
        assert_eq!(SharedAnswer::decode(&written, &key(1)), None);
    }

    proptest! {
        #[test]
        fn damage_is_noticed(place in any::<prop::sample::Index>(), bit in 0_u8..8) {
            let mut written = answer().encode(&key(1)).unwrap().to_vec();
            let place = place.index(written.len());
            written[place] ^= 1 << bit;
            prop_assert_eq!(SharedAnswer::decode(&written.into(), &key(1)), None);
        }

        #[test]
        fn what_is_cut_off_is_nothing(end in any::<prop::sample::Index>()) {
            let written = answer().encode(&key(1)).unwrap();
            let end = end.index(written.len());
            prop_assert_eq!(SharedAnswer::decode(&written.slice(..end), &key(1)), None);
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), sealed in any::<bool>()) {
            let mut bytes = [&MAGIC[..], &bytes].concat();
            if sealed {
                bytes.extend(digest(&bytes));
            }
            let _ = SharedAnswer::decode(&bytes.into(), &key(1));
        }
    }
}
