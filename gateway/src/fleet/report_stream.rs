//! Reads one endpoint's load reports out of band, for as long as the endpoint lives: ORCA's
//! `xds.service.orca.v3.OpenRcaService/StreamCoreMetrics`, one stream over a connection of its own.
//!
//! Reports that come with answers tell nothing of an endpoint that is asked seldom; these do. A stream that ends or
//! breaks is opened again with backoff. An endpoint that does not know the service, or reports nothing of use, is not
//! asked again before it turns healthy anew, as after an upgrade, or for five minutes.
//!
//! What a peer sends is bounded: a message longer than `LONGEST` ends the stream, and a silence the connection.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use forebay_proto::framing::{self, HEADER_LENGTH};
use forebay_proto::orca::OrcaLoadReportRequest;
use forebay_proto::status::Code;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::endpoint::Endpoint;
use super::probe::uri;
use crate::protocol::load_report;
use crate::traffic::retry::Backoff;

const PATH: &str = "/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics";
/// Between reports: half of what a report is good for.
const INTERVAL: Duration = Duration::from_millis(100);
/// Without a report for so long the connection is taken for dead.
const SILENCE: Duration = Duration::from_secs(5);
/// Bytes of a report; one that names a thousand models has some hundred thousand.
const LONGEST: usize = 1 << 20;
const BACKOFF: Backoff = Backoff {
    first: Duration::from_secs(1),
    max: Duration::from_secs(30),
};
/// Before another stream at least.
const PAUSE: Duration = Duration::from_millis(100);
/// Before one that has no reports is asked again.
const LONG_PAUSE: Duration = Duration::from_secs(300);
/// A thousand newcomers must not all be connected to at once.
static OPENING: Semaphore = Semaphore::const_new(64);

/// How a stream ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The endpoint does not have the service.
    Unsupported,
    /// Reports came, and then no more.
    Broken,
    /// None came.
    Failed,
    /// Nobody wants them any more.
    Gone,
}

/// Starts reading on `runtime`.
pub fn start(endpoint: &Arc<Endpoint>, runtime: &Handle) {
    let weak = Arc::downgrade(endpoint);
    let recovered = endpoint.recovered.clone();
    let task = runtime.spawn(async move {
        let mut failures = 0_u32;
        loop {
            match follow(&weak).await {
                End::Gone => return,
                End::Unsupported => {
                    failures = 0;
                    let _ = tokio::time::timeout(LONG_PAUSE, recovered.notified()).await;
                    continue;
                }
                End::Broken => failures = 1,
                End::Failed => failures = failures.saturating_add(1),
            }
            let pause = BACKOFF.delay(failures, fastrand::u64(..)).max(PAUSE);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = recovered.notified() => {}
            }
        }
    });
    endpoint.keep_task(task.abort_handle());
}

/// One stream, to its end.
async fn follow(endpoint: &Weak<Endpoint>) -> End {
    let mut heard = false;
    let lost = |heard| if heard { End::Broken } else { End::Failed };
    let opening = {
        // The semaphore is never closed.
        let _turn = OPENING.acquire().await;
        let Some(endpoint) = endpoint.upgrade() else {
            return End::Gone;
        };
        tokio::time::timeout(SILENCE, open(endpoint)).await
    };
    let mut body = match opening {
        Ok(Ok(body)) => body,
        Ok(Err(end)) => return end,
        Err(_) => return End::Failed,
    };
    let mut buffer = BytesMut::new();
    loop {
        let frame = match tokio::time::timeout(SILENCE, body.0.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            _ => return lost(heard),
        };
        if let Some(trailers) = frame.trailers_ref() {
            return match is_unimplemented(trailers) {
                true => End::Unsupported,
                false => lost(heard),
            };
        }
        let Ok(data) = frame.into_data() else {
            continue;
        };
        buffer.extend_from_slice(&data);
        loop {
            match next_message(&mut buffer) {
                Ok(Some(report)) => {
                    let Some(endpoint) = endpoint.upgrade() else {
                        return End::Gone;
                    };
                    heard = true;
                    let Some(rows) = load_report::rows(&report) else {
                        return End::Unsupported;
                    };
                    endpoint.has_rows(rows, Instant::now());
                }
                Ok(None) => break,
                // It would send the same again.
                Err(Malformed) => return End::Unsupported,
            }
        }
    }
}

/// The answer's body; its connection is driven beside it and ends with it.
struct Reports(Incoming, tokio::task::AbortHandle);

impl Drop for Reports {
    fn drop(&mut self) {
        self.1.abort();
    }
}

async fn open(endpoint: Arc<Endpoint>) -> Result<Reports, End> {
    let failed = |error: &dyn std::fmt::Display| {
        let address = &endpoint.blueprint.address;
        log::debug!("no load reports of {address}: {error}");
        End::Failed
    };
    let message = framing::frame(&OrcaLoadReportRequest::every(INTERVAL));
    let request = Request::builder()
        .method(Method::POST)
        .uri(uri(&endpoint.target, &endpoint.blueprint, PATH).map_err(|error| failed(&error))?)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "forebay-load-reports")
        .body(Full::new(message.map_err(|error| failed(&error))?))
        .map_err(|error| failed(&error))?;
    let transport = endpoint.target.open().await;
    let io = TokioIo::new(transport.map_err(|error| failed(&error))?);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .map_err(|error| failed(&error))?;
    let driver = tokio::spawn(async move {
        // Its end is seen in the body.
        let _ = connection.await;
    });
    let answer = sender.send_request(request).await;
    let (head, body) = match answer {
        Ok(answer) => answer.into_parts(),
        Err(error) => {
            driver.abort();
            return Err(failed(&error));
        }
    };
    let reports = Reports(body, driver.abort_handle());
    if is_unimplemented(&head.headers) {
        return Err(End::Unsupported);
    }
    match head.status {
        StatusCode::OK => Ok(reports),
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            Err(End::Failed)
        }
        // Whatever answers there, it is not gRPC.
        _ => Err(End::Unsupported),
    }
}

fn is_unimplemented(headers: &HeaderMap) -> bool {
    headers
        .get("grpc-status")
        .is_some_and(|status| Code::from_bytes(status.as_bytes()) == Code::Unimplemented)
}

/// A message that cannot be read on from.
#[derive(Debug, PartialEq, Eq)]
struct Malformed;

/// Takes the first message out of what has come so far. None: it is not all there.
fn next_message(buffer: &mut BytesMut) -> Result<Option<Bytes>, Malformed> {
    let Some(&[flag, ref length @ ..]) = buffer.first_chunk::<HEADER_LENGTH>() else {
        return Ok(None);
    };
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| Malformed)?;
    if flag != 0 || length > LONGEST {
        return Err(Malformed);
    }
    if buffer.len() < HEADER_LENGTH + length {
        return Ok(None);
    }
    buffer.advance(HEADER_LENGTH);
    Ok(Some(buffer.split_to(length).freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_one_by_one_however_they_come() {
        let bytes = [0, 0, 0, 0, 2, b'a', b'b', 0, 0, 0, 0, 0];
        let mut buffer = BytesMut::new();
        let mut taken = Vec::new();
        for byte in bytes {
            buffer.extend_from_slice(&[byte]);
            taken.extend(next_message(&mut buffer).unwrap());
        }
        assert_eq!(taken, [Bytes::from_static(b"ab"), Bytes::new()]);
        assert!(buffer.is_empty());
        let mut together = BytesMut::from(&bytes[..]);
        assert_eq!(next_message(&mut together).unwrap().unwrap(), "ab");
        assert_eq!(next_message(&mut together).unwrap().unwrap(), "");
    }

    #[test]
    fn compressed_and_endless_messages_are_malformed() {
        for head in [[1, 0, 0, 0, 0], [0, 0xff, 0xff, 0xff, 0xff]] {
            assert_eq!(next_message(&mut BytesMut::from(&head[..])), Err(Malformed));
        }
    }
}
