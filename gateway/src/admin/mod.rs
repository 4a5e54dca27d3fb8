//! The admin interface: metrics, liveness, readiness and the state of every endpoint, over plain HTTP.

mod purge;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::task::AbortHandle;

use crate::gateway::Gateway;
use crate::telemetry::metrics;

/// Serves on `control`, on a socket that listens already. Aborted, no new connection is accepted.
pub fn start(
    socket: std::net::TcpListener,
    gateway: Arc<Gateway>,
    control: &Runtime,
) -> anyhow::Result<AbortHandle> {
    let _inside = control.enter();
    let listener = TcpListener::from_std(socket).context("admin cannot accept")?;
    let accepting = control.spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let gateway = gateway.clone();
                    tokio::spawn(async move {
                        let service = service_fn(move |request| answer(gateway.clone(), request));
                        let mut server = auto::Builder::new(TokioExecutor::new());
                        server.http1().timer(TokioTimer::new());
                        if let Err(error) =
                            server.serve_connection(TokioIo::new(stream), service).await
                        {
                            log::debug!("admin connection: {error}");
                        }
                    });
                }
                Err(error) => {
                    log::warn!("admin cannot accept: {error}");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    });
    Ok(accepting.abort_handle())
}

async fn answer(
    gateway: Arc<Gateway>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let now = Instant::now();
    let (status, kind, body) = if request.uri().path() == purge::PATH {
        let (method, query) = (request.method(), request.uri().query());
        let (status, body) = purge::answer(&gateway.snapshot(), method, query).await;
        (status, "application/json", body)
    } else if request.method() != Method::GET && request.method() != Method::HEAD {
        (
            StatusCode::METHOD_NOT_ALLOWED,
            "application/json",
            json!({"error": "use GET"}).to_string(),
        )
    } else {
        match request.uri().path() {
            "/metrics" => (
                StatusCode::OK,
                "text/plain; version=0.0.4",
                metrics::render(&gateway, now),
            ),
            "/healthz" => (StatusCode::OK, "text/plain", "ok\n".to_owned()),
            "/readyz" if gateway.is_ready() => (StatusCode::OK, "text/plain", "ready\n".to_owned()),
            "/readyz" => (
                StatusCode::SERVICE_UNAVAILABLE,
                "text/plain",
                "not ready\n".to_owned(),
            ),
            "/endpoints" => (StatusCode::OK, "application/json", endpoints(&gateway, now)),
            path => {
                let error = format!(
                    "no page '{path}': there are /metrics, /healthz, /readyz, /endpoints and /cache"
                );
                (
                    StatusCode::NOT_FOUND,
                    "application/json",
                    json!({ "error": error }).to_string(),
                )
            }
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
    Ok(response)
}

fn endpoints(gateway: &Gateway, now: Instant) -> String {
    let snapshot = gateway.snapshot();
    let clusters: Vec<_> = snapshot
        .clusters
        .iter()
        .map(|cluster| {
            json!({
                "name": cluster.config.name,
                "policy": cluster.config.policy.name(),
                "endpoints": cluster.views(now),
            })
        })
        .collect();
    json!({ "clusters": clusters }).to_string()
}
