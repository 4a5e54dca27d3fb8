//! Compressed request bodies, gunzipped or inflated up to a limit, and booked as they grow.

use std::io::Read;

use bytes::Bytes;

use crate::server::bodies::{NoRoom, Share};

/// Bytes that are inflated before they are booked.
const STEP: u64 = 64 << 10;

/// The compressions that HTTP and gRPC name alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Gzip,
    /// The zlib format (RFC 1950).
    Deflate,
}

/// Why a body could not be inflated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InflateError {
    #[error("inflated body exceeds the limit of {0} bytes")]
    TooLarge(usize),
    #[error("body is not valid {0:?} data")]
    Corrupt(Encoding),
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
}

impl Encoding {
    /// From `content-encoding` or `grpc-encoding`; `Ok(None)` when the body is not compressed.
    pub fn from_header(value: &str) -> Result<Option<Encoding>, UnknownEncoding> {
        match value.trim() {
            "" | "identity" => Ok(None),
            "gzip" => Ok(Some(Encoding::Gzip)),
            "deflate" => Ok(Some(Encoding::Deflate)),
            other => Err(UnknownEncoding(other.to_owned())),
        }
    }

    /// At most `limit` bytes come out; memory is taken as they do, not as the data claims.
    fn inflate(self, data: &[u8], limit: usize, share: Share) -> Result<Bytes, InflateError> {
        match self {
            Encoding::Gzip => self.drain(flate2::read::MultiGzDecoder::new(data), limit, share),
            Encoding::Deflate => self.drain(flate2::read::ZlibDecoder::new(data), limit, share),
        }
    }

    fn drain(
        self,
        mut reader: impl Read,
        limit: usize,
        mut share: Share,
    ) -> Result<Bytes, InflateError> {
        let mut inflated = Vec::new();
        loop {
            let before = inflated.len();
            let mut part = reader.by_ref().take(STEP);
            part.read_to_end(&mut inflated)
                .map_err(|_| InflateError::Corrupt(self))?;
            let more = inflated.len() - before;
            if more == 0 {
                return Ok(share.hold(inflated.into()));
            }
            if inflated.len() > limit {
                return Err(InflateError::TooLarge(limit));
            }
            share.grow(more)?;
        }
    }
}

/// Inflates on a thread that may take its time. At most `limit` bytes come out, booked in `share`.
pub async fn inflate(
    data: Bytes,
    encoding: Encoding,
    limit: usize,
    share: Share,
) -> Result<Bytes, InflateError> {
    tokio::task::spawn_blocking(move || encoding.inflate(&data, limit, share))
        .await
        .unwrap_or(Err(InflateError::Corrupt(encoding)))
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("encoding '{0}' is not supported, use gzip, deflate or identity")]
pub struct UnknownEncoding(String);

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};

    use super::*;
    use crate::server::Bodies;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn share() -> Share {
        Bodies::unbounded().share()
    }

    #[test]
    fn what_is_inflated_is_booked_and_stops_where_there_is_no_room() {
        let data = gzip(&vec![0; 300 << 10]);
        let bodies = Bodies::new(300 << 10);
        let inflated = Encoding::Gzip.inflate(&data, 1 << 20, bodies.share());
        assert_eq!(bodies.held(), 300 << 10);
        let refused = Encoding::Gzip.inflate(&data, 1 << 20, bodies.share());
        assert!(
            matches!(refused, Err(InflateError::NoRoom(_))),
            "{refused:?}"
        );
        drop(inflated);
        assert_eq!(bodies.held(), 0);
    }

    #[test]
    fn both_formats_round_trip() {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(b"tensor").unwrap();
        let zlib = encoder.finish().unwrap();
        assert_eq!(
            Encoding::Deflate.inflate(&zlib, 6, share()).unwrap(),
            "tensor"
        );
        assert_eq!(
            Encoding::Gzip
                .inflate(&gzip(b"tensor"), 6, share())
                .unwrap(),
            "tensor"
        );
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let bomb = gzip(&vec![0; 8 << 20]);
        assert!(bomb.len() < 1 << 18);
        assert_eq!(
            Encoding::Gzip.inflate(&bomb, 1 << 20, share()),
            Err(InflateError::TooLarge(1 << 20))
        );
    }

    #[test]
    fn broken_data_is_refused() {
        let mut cut = gzip(b"tensor");
        cut.truncate(12);
        for data in [&cut[..], b"not compressed", b""] {
            assert_eq!(
                Encoding::Gzip.inflate(data, 100, share()),
                Err(InflateError::Corrupt(Encoding::Gzip))
            );
        }
    }

    #[test]
    fn only_known_encodings_pass() {
        assert_eq!(Encoding::from_header("identity"), Ok(None));
        assert_eq!(Encoding::from_header("gzip"), Ok(Some(Encoding::Gzip)));
        assert!(Encoding::from_header("br").is_err());
    }
}
