//! Endpoints, the seldom warning, and real exports to a collector on loopback that is there or not.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use opentelemetry::trace::{Tracer as _, TracerProvider as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::*;

fn otlp(endpoint: &str, protocol: OtlpProtocol) -> Otlp {
    Otlp {
        endpoint: endpoint.to_owned(),
        protocol,
        timeout: Duration::from_secs(5),
    }
}

fn telemetry(otlp: Option<Otlp>) -> Telemetry {
    Telemetry {
        service_name: "forebay-under-test".to_owned(),
        otlp,
        sampling_ratio: 1.0,
        log_level: "info".to_owned(),
    }
}

/// A collector that takes everything and tells path and body.
async fn collector() -> (SocketAddr, mpsc::UnboundedReceiver<(String, Bytes)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let tell = tell.clone();
            let service =
                hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let tell = tell.clone();
                    async move {
                        let path = request.uri().path().to_owned();
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        tell.send((path, body)).unwrap();
                        let answer = http::Response::builder().header("grpc-status", "0");
                        answer
                            .header("content-type", "application/grpc")
                            .body(Full::new(Bytes::new()))
                    }
                });
            let serving = auto::Builder::new(TokioExecutor::new());
            tokio::spawn(async move {
                serving
                    .serve_connection(TokioIo::new(stream), service)
                    .await
                    .is_ok()
            });
        }
    });
    (address, told)
}

#[test]
fn http_gets_the_prescribed_path_unless_one_is_given() {
    let cases = [
        (
            "http://c:4318",
            OtlpProtocol::Http,
            "http://c:4318/v1/traces",
        ),
        (
            "http://c:4318/",
            OtlpProtocol::Http,
            "http://c:4318/v1/traces",
        ),
        ("http://c:4318/in", OtlpProtocol::Http, "http://c:4318/in"),
        ("http://c:4317", OtlpProtocol::Grpc, "http://c:4317"),
    ];
    for (given, protocol, want) in cases {
        assert_eq!(endpoint(&otlp(given, protocol)).unwrap(), want);
    }
}

#[test]
fn endpoints_that_cannot_work_are_refused() {
    for given in ["https://c:4318", "c:4318", "", "http://", "ftp://c"] {
        let error = endpoint(&otlp(given, OtlpProtocol::Http)).unwrap_err();
        assert!(error.to_string().contains(&format!("'{given}'")), "{error}");
    }
}

#[test]
fn one_warning_a_minute_and_it_counts_what_was_lost_since() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut failures = Failures::default();
    assert_eq!(failures.record(10, at(0)), Some(10));
    assert_eq!(failures.record(5, at(1)), None);
    assert_eq!(failures.record(5, at(59)), None);
    assert_eq!(failures.record(1, at(60)), Some(11));
    assert_eq!(failures.record(1, at(61)), None);
}

#[test]
fn without_a_collector_there_is_no_provider() {
    assert!(exporter(&telemetry(None)).unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_arrive_over_both_protocols() {
    for (protocol, want) in [
        (OtlpProtocol::Http, "/v1/traces"),
        (
            OtlpProtocol::Grpc,
            "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        ),
    ] {
        let (address, mut told) = collector().await;
        let config = telemetry(Some(otlp(&format!("http://{address}"), protocol)));
        let provider = exporter(&config).unwrap().unwrap();
        drop(provider.tracer("test").start("a-span-name"));
        let (path, body) = told.recv().await.unwrap();
        assert_eq!(path, want);
        for text in ["a-span-name", "forebay-under-test"] {
            assert!(
                body.windows(text.len())
                    .any(|window| window == text.as_bytes()),
                "no '{text}'"
            );
        }
        tokio::task::spawn_blocking(move || provider.shutdown().unwrap())
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_gone_holds_nobody_up() {
    for protocol in [OtlpProtocol::Http, OtlpProtocol::Grpc] {
        let (gone, _) = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            (listener.local_addr().unwrap(), listener)
        };
        let config = telemetry(Some(otlp(&format!("http://{gone}"), protocol)));
        let provider = exporter(&config).unwrap().unwrap();
        let tracer = provider.tracer("test");
        for _ in 0..2 * MAX_QUEUED_SPANS {
            drop(tracer.start("lost"));
        }
        let limit = Duration::from_millis(50);
        let shut = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(limit));
        assert!(
            shut.await.unwrap().is_err(),
            "nothing can have been exported"
        );
    }
}
