//! Reading the beginning of a request off a plain connection, and putting it back for whoever parses it.
//!
//! The HTTP/2 preface is told from HTTP/1 byte by byte: the whole of an HTTP/1 request may be shorter than the
//! preface. Of HTTP/1 the whole head is awaited, so that one timeout bounds it however slowly it drips in;
//! pingora's own timeouts hold for each read only. TLS connections are opaque here: ALPN tells their protocol,
//! and pingora's timeouts bound their reads.

use std::time::Duration;

use pingora::protocols::Stream;
use pingora::protocols::l4::stream::Stream as TcpStream;
use tokio::io::AsyncReadExt;

/// RFC 9113, section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A longer head is left to the parser, which refuses it.
const LONGEST_HEAD: usize = 64 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

/// Waits for the first request on a new plain connection. None: the client left first.
pub async fn first(stream: Stream) -> Option<(Stream, Protocol)> {
    let mut stream = stream.into_any().downcast::<TcpStream>().ok()?;
    let mut seen = Vec::with_capacity(1024);
    let mut scanned = 0;
    let protocol = loop {
        if let Some(protocol) = protocol_of(&seen, scanned) {
            break protocol;
        }
        scanned = seen.len();
        if stream.read_buf(&mut seen).await.ok()? == 0 {
            return None;
        }
    };
    stream.rewind(&seen);
    Some((stream, protocol))
}

/// Waits for the next HTTP/1 request on a connection that is kept: `silence` for its first byte, then `time` for
/// the rest of its head. None: it is over. TLS connections come back at once.
pub async fn next(stream: Stream, silence: Duration, time: Duration) -> Option<Stream> {
    if !(*stream).as_any().is::<TcpStream>() {
        return Some(stream);
    }
    let mut stream = stream.into_any().downcast::<TcpStream>().ok()?;
    let mut seen = Vec::with_capacity(1024);
    let begun = tokio::time::timeout(silence, stream.read_buf(&mut seen));
    if begun.await.ok()?.ok()? == 0 {
        return None;
    }
    let rest = async {
        let mut scanned = 0;
        while !is_whole_head(&seen, scanned) {
            scanned = seen.len();
            if stream.read_buf(&mut seen).await.ok()? == 0 {
                return None;
            }
        }
        Some(())
    };
    tokio::time::timeout(time, rest).await.ok()??;
    stream.rewind(&seen);
    Some(stream)
}

/// None: more must be read to tell.
fn protocol_of(seen: &[u8], scanned: usize) -> Option<Protocol> {
    let compared = seen.len().min(PREFACE.len());
    if seen[..compared] == PREFACE[..compared] {
        return (compared == PREFACE.len()).then_some(Protocol::Http2);
    }
    is_whole_head(seen, scanned).then_some(Protocol::Http1)
}

/// A blank line ends it; servers take a bare line feed for a line's end as well (RFC 9112, section 2.2).
/// The first `scanned` bytes were looked at before.
fn is_whole_head(seen: &[u8], scanned: usize) -> bool {
    let fresh = &seen[scanned.saturating_sub(3).min(seen.len())..];
    seen.len() >= LONGEST_HEAD
        || fresh.windows(4).any(|end| end == b"\r\n\r\n")
        || fresh.windows(2).any(|end| end == b"\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_protocol_shows_as_early_as_it_can() {
        let cases: [(&[u8], Option<Protocol>); 8] = [
            (b"", None),
            (b"PRI * HTTP/2.0", None),
            (PREFACE, Some(Protocol::Http2)),
            (b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", Some(Protocol::Http1)),
            (b"GET / HTTP/1.0\r\n\r\n", Some(Protocol::Http1)),
            (b"GET / HTTP/1.0\n\n", Some(Protocol::Http1)),
            (b"GET / HTTP/1.1\r\nhost: x\r\n", None),
            (b"P", None),
        ];
        for (seen, want) in cases {
            assert_eq!(
                protocol_of(seen, 0),
                want,
                "{}",
                String::from_utf8_lossy(seen)
            );
        }
    }

    #[test]
    fn an_end_that_comes_in_two_reads_is_seen() {
        let head = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
        for split in 1..head.len() {
            assert!(!is_whole_head(&head[..split], 0), "{split}");
            assert!(is_whole_head(head, split), "{split}");
        }
    }

    #[test]
    fn an_endless_head_is_passed_on_to_be_refused() {
        assert_eq!(
            protocol_of(&vec![b'x'; LONGEST_HEAD], 0),
            Some(Protocol::Http1)
        );
    }
}
