//! Undoing compression, within a limit on what comes out.
//!
//! What follows the compressed data is refused: decoders differ in whether they read on, and a worker must not find
//! more, or less, in a message than was looked at here.

use std::io::Read;

use bytes::Bytes;
use flate2::bufread::{GzDecoder, ZlibDecoder};

use crate::refusal::Refusal;

/// `encoding` as in `Content-Encoding` or `grpc-encoding`; reads at most one byte more than `limit`.
pub fn inflate(encoding: &[u8], body: &[u8], limit: u64) -> Result<Bytes, Refusal> {
    let mut plain = Vec::new();
    let (read, left) = match encoding {
        b"identity" => return Ok(Bytes::copy_from_slice(body)),
        b"gzip" => {
            let mut decoder = GzDecoder::new(body).take(limit + 1);
            let read = decoder.read_to_end(&mut plain);
            (read, decoder.into_inner().into_inner().len())
        }
        b"deflate" => {
            let mut decoder = ZlibDecoder::new(body).take(limit + 1);
            let read = decoder.read_to_end(&mut plain);
            (read, decoder.into_inner().into_inner().len())
        }
        other => {
            let name = String::from_utf8_lossy(other);
            return Err(Refusal::UnsupportedEncoding(format!(
                "encoding '{name}' is not supported, use gzip, deflate or identity"
            )));
        }
    };
    match read {
        Ok(_) if plain.len() as u64 > limit => Err(Refusal::TooLarge { limit }),
        Ok(_) if left > 0 => Err(Refusal::BadRequest(format!(
            "{left} bytes follow the compressed body"
        ))),
        Ok(_) => Ok(plain.into()),
        Err(error) => Err(Refusal::BadRequest(format!(
            "the compressed body is malformed: {error}"
        ))),
    }
}

/// At most the first `most` bytes of what comes out, and fewer where the input ends or is malformed.
pub fn inflate_head(encoding: &[u8], body: &[u8], most: usize) -> Bytes {
    let mut plain = vec![0; most];
    let mut reader: Box<dyn Read + '_> = match encoding {
        b"gzip" => Box::new(GzDecoder::new(body)),
        b"deflate" => Box::new(ZlibDecoder::new(body)),
        b"identity" => Box::new(body),
        _ => return Bytes::new(),
    };
    let mut length = 0;
    while length < most {
        match reader.read(&mut plain[length..]) {
            Ok(0) | Err(_) => break,
            Ok(read) => length += read,
        }
    }
    plain.truncate(length);
    plain.into()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};

    use super::*;

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn gives_back_what_went_in() {
        let plain = b"tensors".repeat(100);
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
        zlib.write_all(&plain).unwrap();
        assert_eq!(inflate(b"gzip", &gzip(&plain), 700).unwrap(), plain);
        assert_eq!(
            inflate(b"deflate", &zlib.finish().unwrap(), 700).unwrap(),
            plain
        );
        assert_eq!(inflate(b"identity", &plain, 700).unwrap(), plain);
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let bomb = gzip(&vec![0; 8 << 20]);
        assert!(bomb.len() < 1 << 18, "{}", bomb.len());
        assert!(
            matches!(inflate(b"gzip", &bomb, 1 << 20), Err(Refusal::TooLarge { limit }) if limit == 1 << 20)
        );
    }

    #[test]
    fn nothing_hides_behind_the_compressed_data() {
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
        zlib.write_all(b"one").unwrap();
        let zlib = zlib.finish().unwrap();
        for (encoding, one) in [(&b"gzip"[..], gzip(b"one")), (b"deflate", zlib)] {
            assert_eq!(inflate(encoding, &one, 3).unwrap(), &b"one"[..]);
            let two = [one.clone(), one].concat();
            let error = inflate(encoding, &two, 100).unwrap_err();
            assert!(matches!(error, Refusal::BadRequest(_)), "{error}");
        }
    }

    #[test]
    fn what_is_malformed_or_unknown_is_named() {
        assert!(matches!(
            inflate(b"gzip", b"no gzip", 100),
            Err(Refusal::BadRequest(_))
        ));
        let error = inflate(b"zstd", b"", 100).unwrap_err().to_string();
        assert!(error.contains("'zstd'"), "{error}");
    }
}
