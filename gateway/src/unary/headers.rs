//! Which headers pass through, and what the gateway adds to each attempt.

use std::time::Duration;

use forebay_proto::timeout;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// Tells the client which endpoint answered.
pub const ENDPOINT: HeaderName = HeaderName::from_static("x-forebay-endpoint");
/// Tells the client how a call on a route with a cache was served.
pub const CACHE: HeaderName = HeaderName::from_static("x-forebay-cache");
/// How far an endpoint got with a call.
pub const STAGE: HeaderName = HeaderName::from_static("forebay-stage");

/// How loaded an endpoint is (ORCA): said to whoever balances over endpoints, which ends here.
pub const LOAD: HeaderName = HeaderName::from_static("endpoint-load-metrics-bin");

/// Connection-level headers, which end at each hop (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
    header::HOST,
];

/// What describes the REST body and its answer, and means nothing to the gRPC call made of it.
const REST_ONLY: [HeaderName; 8] = [
    header::CONTENT_TYPE,
    header::CONTENT_LENGTH,
    header::CONTENT_ENCODING,
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::EXPECT,
    HeaderName::from_static("grpc-encoding"),
    HeaderName::from_static("grpc-accept-encoding"),
];

/// The headers of a gRPC call as they go on to an endpoint.
pub fn for_grpc(incoming: &HeaderMap) -> HeaderMap {
    let mut headers = incoming.clone();
    remove_hop_by_hop(&mut headers);
    headers
}

/// The headers of the gRPC call that a REST request becomes: the client's own (authentication, tracing,
/// request ids) without those that describe its body.
pub fn for_rest(incoming: &HeaderMap) -> HeaderMap {
    let mut headers = incoming.clone();
    remove_hop_by_hop(&mut headers);
    for name in &REST_ONLY {
        headers.remove(name);
    }
    headers.remove("inference-header-content-length");
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    headers
}

/// Removes from the headers or trailers of an answer what is not for the client.
pub fn strip_answer(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
    headers.remove(LOAD);
}

/// What the headers of an answer say about the cache of its route.
pub fn of_cache(answer: &HeaderMap) -> HeaderMap {
    let named = |name: HeaderName| Some((name.clone(), answer.get(name)?.clone()));
    [CACHE, header::AGE].into_iter().filter_map(named).collect()
}

/// Removes what must not cross a hop; cheap when there is nothing, as on HTTP/2.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if let Some(nominated) = headers.get(header::CONNECTION).cloned() {
        for name in nominated.as_bytes().split(|byte| *byte == b',') {
            if let Ok(name) = HeaderName::from_bytes(name.trim_ascii()) {
                headers.remove(name);
            }
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// The time that the client allows, from `grpc-timeout`; None when absent or malformed.
pub fn client_timeout(headers: &HeaderMap) -> Option<Duration> {
    timeout::parse(headers.get(GRPC_TIMEOUT)?.as_bytes())
}

/// Tells the worker how much time this attempt has.
pub fn set_timeout(headers: &mut HeaderMap, left: Duration) {
    if let Ok(mut value) = HeaderValue::from_bytes(timeout::format(left).as_bytes()) {
        value.set_sensitive(true);
        headers.insert(GRPC_TIMEOUT, value);
    }
}

/// For `grpc-retry-pushback-ms` (gRFC A6).
pub fn pushback(pause: Duration) -> HeaderValue {
    let milliseconds = pause.as_nanos().div_ceil(1_000_000);
    HeaderValue::from(u64::try_from(milliseconds).unwrap_or(u64::MAX))
}

/// For `Retry-After` (RFC 9110, section 10.2.3): whole seconds, at least one.
pub fn retry_after(pause: Duration) -> HeaderValue {
    let seconds = pause.as_nanos().div_ceil(1_000_000_000).max(1);
    HeaderValue::from(u64::try_from(seconds).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(k, v)| (HeaderName::from_static(k), HeaderValue::from_static(v)))
            .collect()
    }

    #[test]
    fn grpc_calls_keep_all_but_the_hop() {
        let sent = for_grpc(&map(&[
            ("te", "trailers"),
            ("connection", "close"),
            ("host", "h"),
            ("x-tenant", "a"),
        ]));
        assert_eq!(sent, map(&[("te", "trailers"), ("x-tenant", "a")]));
    }

    #[test]
    fn rest_calls_lose_what_describes_their_body() {
        let rest = map(&[
            ("content-type", "application/json"),
            ("content-length", "12"),
            ("content-encoding", "gzip"),
            ("accept-encoding", "gzip"),
            ("inference-header-content-length", "5"),
            ("authorization", "Bearer t"),
        ]);
        let want = map(&[
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("authorization", "Bearer t"),
        ]);
        assert_eq!(for_rest(&rest), want);
    }

    #[test]
    fn answers_lose_the_hop_and_the_load_report() {
        let mut answer = map(&[
            ("grpc-status", "0"),
            ("connection", "close"),
            ("endpoint-load-metrics-bin", "AAAA"),
            ("forebay-stage", "done"),
        ]);
        strip_answer(&mut answer);
        let want = map(&[("grpc-status", "0"), ("forebay-stage", "done")]);
        assert_eq!(answer, want);
    }

    #[test]
    fn pauses_are_never_shorter_than_meant() {
        let pause = Duration::from_micros(1_200_001);
        assert_eq!(pushback(pause), "1201");
        assert_eq!(retry_after(pause), "2");
        assert_eq!(pushback(Duration::ZERO), "0");
        assert_eq!(retry_after(Duration::ZERO), "1");
    }

    #[test]
    fn the_time_left_replaces_what_the_client_sent() {
        let mut headers = map(&[("grpc-timeout", "5S")]);
        assert_eq!(client_timeout(&headers), Some(Duration::from_secs(5)));
        set_timeout(&mut headers, Duration::from_millis(250));
        assert_eq!(headers.get_all(GRPC_TIMEOUT).iter().count(), 1);
        assert_eq!(client_timeout(&headers), Some(Duration::from_millis(250)));
        assert_eq!(client_timeout(&map(&[("grpc-timeout", "soon")])), None);
    }
}
