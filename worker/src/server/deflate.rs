//! Answers compressed for clients that ask for it, when they are large enough to be worth it.

use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};

use super::Encoding;

/// Shorter bodies fit into a packet anyway.
pub const WORTH_COMPRESSING: usize = 1 << 10;
/// Compressing so many bytes takes about a millisecond.
const WORTH_A_THREAD: usize = 128 << 10;
/// Levels above it gain little on tensors and take far longer.
const LEVEL: Compression = Compression::fast();

impl Encoding {
    /// As `content-encoding` and `grpc-encoding` have it.
    pub fn name(self) -> &'static str {
        match self {
            Encoding::Gzip => "gzip",
            Encoding::Deflate => "deflate",
        }
    }

    /// The encoding that a client prefers, out of `accept-encoding` or `grpc-accept-encoding`: the highest
    /// weight, gzip among equals.
    pub fn accepted(header: &str) -> Option<Encoding> {
        let mut best: Option<(Encoding, f32)> = None;
        for item in header.split(',') {
            let (name, weight) = match item.split_once(';') {
                None => (item, 1.0),
                Some((name, parameter)) => {
                    let weight = parameter.trim().strip_prefix("q=");
                    (
                        name,
                        weight
                            .and_then(|weight| weight.trim().parse().ok())
                            .unwrap_or(0.0),
                    )
                }
            };
            let encoding = match name.trim() {
                "gzip" => Encoding::Gzip,
                "deflate" => Encoding::Deflate,
                _ => continue,
            };
            let better = best.is_none_or(|(found, heaviest)| {
                weight > heaviest || (weight == heaviest && found == Encoding::Deflate)
            });
            if weight > 0.0 && better {
                best = Some((encoding, weight));
            }
        }
        best.map(|(encoding, _)| encoding)
    }

    /// All pieces as one, behind `head`, which stays as it is.
    fn deflate(self, head: &[u8], pieces: &[Bytes]) -> std::io::Result<Vec<u8>> {
        let write_to = head.to_vec();
        match self {
            Encoding::Gzip => {
                let mut encoder = GzEncoder::new(write_to, LEVEL);
                pieces
                    .iter()
                    .try_for_each(|piece| encoder.write_all(piece))?;
                encoder.finish()
            }
            Encoding::Deflate => {
                let mut encoder = ZlibEncoder::new(write_to, LEVEL);
                pieces
                    .iter()
                    .try_for_each(|piece| encoder.write_all(piece))?;
                encoder.finish()
            }
        }
    }
}

/// Compresses `pieces` as one behind `head`, on a thread that may take its time if they are many bytes. None
/// when it does not get shorter.
pub async fn deflate(
    head: &'static [u8],
    pieces: Vec<Bytes>,
    encoding: Encoding,
) -> Option<Vec<u8>> {
    let length: usize = pieces.iter().map(Bytes::len).sum();
    let work = move || encoding.deflate(head, &pieces).ok();
    let compressed = if length < WORTH_A_THREAD {
        work()
    } else {
        tokio::task::spawn_blocking(work).await.ok().flatten()
    };
    compressed.filter(|compressed| compressed.len() < head.len() + length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::{Bodies, inflate};

    #[test]
    fn the_heaviest_known_encoding_is_taken() {
        for (header, wanted) in [
            ("", None),
            ("identity", None),
            ("br, zstd", None),
            ("gzip", Some(Encoding::Gzip)),
            ("deflate", Some(Encoding::Deflate)),
            ("identity, deflate, gzip", Some(Encoding::Gzip)),
            ("gzip;q=0.5, deflate;q=0.8", Some(Encoding::Deflate)),
            ("gzip;q=0, deflate;q=0.1", Some(Encoding::Deflate)),
            ("gzip; q=0", None),
            ("gzip;level=9", None),
        ] {
            assert_eq!(Encoding::accepted(header), wanted, "{header}");
        }
    }

    #[tokio::test]
    async fn what_is_compressed_is_inflated_to_itself() {
        let pieces = vec![Bytes::from(vec![1; 4_000]), Bytes::from(vec![2; 300_000])];
        let whole = pieces.concat();
        for encoding in [Encoding::Gzip, Encoding::Deflate] {
            let compressed = deflate(b"head", pieces.clone(), encoding).await.unwrap();
            assert_eq!(&compressed[..4], b"head");
            let data = Bytes::copy_from_slice(&compressed[4..]);
            assert_eq!(
                inflate(data, encoding, whole.len(), Bodies::unbounded().share())
                    .await
                    .unwrap(),
                whole
            );
        }
    }

    #[tokio::test]
    async fn what_does_not_get_shorter_stays() {
        let noise: Vec<u8> = (0..200u8)
            .map(|byte| byte.wrapping_mul(167) ^ 0x5a)
            .collect();
        assert_eq!(
            deflate(b"", vec![Bytes::from(noise)], Encoding::Gzip).await,
            None
        );
    }
}
