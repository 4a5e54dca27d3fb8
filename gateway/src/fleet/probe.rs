//! One active health check: `grpc.health.v1` Check, an HTTP GET, or a TCP connection that opens.
//!
//! Each probe opens a connection of its own: an endpoint that no longer accepts any is not healthy, however
//! well the pooled ones still do.

use bytes::Bytes;
use forebay_config::gateway::{Health, HealthProbe, Protocol};
use forebay_proto::framing;
use forebay_proto::health::health_check_response::ServingStatus;
use forebay_proto::health::{HealthCheckRequest, HealthCheckResponse};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;

use super::endpoint::EndpointBlueprint;
use crate::upstream::{ConnectError, Target};

#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("no answer within {0:?}")]
    TimedOut(std::time::Duration),
    #[error("{0}")]
    Http(String),
    #[error("health service says {0}")]
    NotServing(String),
}

/// Passes or fails within the probe's timeout; a bit for each of the health's models that the endpoint is ready for.
pub async fn once(
    target: &Target,
    blueprint: &EndpointBlueprint,
    health: &Health,
) -> Result<u64, ProbeError> {
    let mut target = target.clone();
    target.timeout = target.timeout.min(health.timeout);
    let work = async {
        match &health.probe {
            HealthProbe::Tcp => {
                target.open().await?;
                Ok(u64::MAX)
            }
            HealthProbe::Http { path } => {
                http(&target, blueprint, path).await?;
                Ok(u64::MAX)
            }
            HealthProbe::Grpc { service } => {
                grpc(&target, blueprint, service, &health.models).await
            }
        }
    };
    match tokio::time::timeout(health.timeout, work).await {
        Ok(result) => result,
        Err(_) => Err(ProbeError::TimedOut(health.timeout)),
    }
}

async fn http(
    target: &Target,
    blueprint: &EndpointBlueprint,
    path: &str,
) -> Result<(), ProbeError> {
    let builder = Request::builder()
        .method(Method::GET)
        .header("user-agent", "forebay-health");
    let status = match blueprint.protocol {
        Protocol::Http => {
            let request = builder
                .uri(path)
                .header("host", blueprint.authority.as_str())
                .body(Empty::<Bytes>::new())
                .map_err(|e| ProbeError::Http(e.to_string()))?;
            let io = TokioIo::new(target.open().await?);
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io)
                .await
                .map_err(broken)?;
            let answer = async {
                sender
                    .send_request(request)
                    .await
                    .map(|answer| answer.status())
                    .map_err(broken)
            };
            drive(connection, answer).await?
        }
        Protocol::Grpc => {
            let request = builder
                .uri(uri(target, blueprint, path)?)
                .body(Empty::<Bytes>::new())
                .map_err(|e| ProbeError::Http(e.to_string()))?;
            let io = TokioIo::new(target.open().await?);
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
                    .await
                    .map_err(broken)?;
            let answer = async {
                sender
                    .send_request(request)
                    .await
                    .map(|answer| answer.status())
                    .map_err(broken)
            };
            drive(connection, answer).await?
        }
    };
    if status.is_success() {
        Ok(())
    } else {
        Err(ProbeError::Http(format!("GET {path} answered {status}")))
    }
}

async fn grpc(
    target: &Target,
    blueprint: &EndpointBlueprint,
    service: &str,
    models: &[String],
) -> Result<u64, ProbeError> {
    let uri = uri(target, blueprint, "/grpc.health.v1.Health/Check")?;
    let io = TokioIo::new(target.open().await?);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .map_err(broken)?;
    let asking = async {
        check(&mut sender, &uri, service).await?;
        let mut ready = u64::MAX;
        for (place, model) in models.iter().enumerate() {
            match check(&mut sender, &uri, model).await {
                Ok(()) => {}
                Err(ProbeError::NotServing(_)) => ready &= !(1 << place),
                Err(error) => return Err(error),
            }
        }
        Ok(ready)
    };
    drive(connection, asking).await
}

/// Asks about one service.
async fn check(
    sender: &mut SendRequest<Full<Bytes>>,
    uri: &Uri,
    service: &str,
) -> Result<(), ProbeError> {
    let message = framing::frame(&HealthCheckRequest {
        service: service.to_owned(),
    })
    .map_err(|e| ProbeError::Http(e.to_string()))?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(uri.clone())
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "forebay-health")
        .body(Full::new(message))
        .map_err(|e| ProbeError::Http(e.to_string()))?;
    let answer = sender.send_request(request).await.map_err(broken)?;
    let (head, body) = answer.into_parts();
    let body = Incoming::collect(body).await.map_err(broken)?;
    if head.status != StatusCode::OK {
        return Err(ProbeError::Http(format!(
            "health check answered http {}",
            head.status
        )));
    }
    let status = body
        .trailers()
        .and_then(|trailers| trailers.get("grpc-status"))
        .or_else(|| head.headers.get("grpc-status"))
        .and_then(|status| status.to_str().ok())
        .unwrap_or("0")
        .to_owned();
    if status != "0" {
        return Err(ProbeError::NotServing(format!("grpc-status {status}")));
    }
    let message =
        framing::unary_message(&body.to_bytes()).map_err(|e| ProbeError::Http(e.to_string()))?;
    let answer =
        HealthCheckResponse::decode(message).map_err(|e| ProbeError::Http(e.to_string()))?;
    match answer.status() {
        ServingStatus::Serving => Ok(()),
        other => Err(ProbeError::NotServing(other.as_str_name().to_owned())),
    }
}

pub(super) fn uri(
    target: &Target,
    blueprint: &EndpointBlueprint,
    path: &str,
) -> Result<Uri, ProbeError> {
    let scheme = if target.tls.is_some() {
        "https"
    } else {
        "http"
    };
    Uri::builder()
        .scheme(scheme)
        .authority(blueprint.authority.clone())
        .path_and_query(path)
        .build()
        .map_err(|e| ProbeError::Http(e.to_string()))
}

fn broken(error: hyper::Error) -> ProbeError {
    ProbeError::Http(error.to_string())
}

/// Runs the connection beside the exchange and drops both when the exchange is done.
async fn drive<C, A, T>(connection: C, answer: A) -> Result<T, ProbeError>
where
    C: Future<Output = Result<(), hyper::Error>>,
    A: Future<Output = Result<T, ProbeError>>,
{
    tokio::pin!(connection, answer);
    tokio::select! {
        result = &mut answer => result,
        ended = &mut connection => {
            ended.map_err(broken)?;
            answer.await
        }
    }
}
