//! The gRPC calls: which there are, and how one is read and answered.
//!
//! Served on hyper without tonic's server, so that one error table, one size limit and one compression rule
//! hold for every call, and an inference costs no more than it must.

use std::future::{Future, ready};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use forebay_proto::health::HealthCheckRequest;
use forebay_proto::inference as wire;
use forebay_proto::orca::OrcaLoadReportRequest;
use futures::stream::{BoxStream, StreamExt};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::{Frame, Incoming};
use prost::Message;
use tonic::{Code, Status};

use super::compress::Compression;
use super::frame::{self, Messages};
use super::shared::no_cuda;
use super::{Arrival, Fault, Front, Progress, health, load_reports, stream};
use crate::server::{Body, Encoding};
use crate::telemetry::spans::ServerSpan;

const INFERENCE: &str = "inference.GRPCInferenceService";
const LOAD_REPORTS: &str = "xds.service.orca.v3.OpenRcaService";
const HEALTH: &str = "grpc.health.v1.Health";
const CONTENT: &str = "application/grpc";
const STATUS: &str = "grpc-status";

/// A call whose headers are here.
struct Call {
    at: Instant,
    headers: HeaderMap,
    body: Incoming,
}

/// Answers one call.
pub async fn answer(front: Arc<Front>, request: Request<Incoming>) -> Response<Body> {
    let at = Instant::now();
    let (parts, body) = request.into_parts();
    if parts.method != Method::POST || !is_grpc(&parts.headers) {
        let mut response = Response::new(Body::Empty);
        *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return response;
    }
    let call = Call {
        at,
        headers: parts.headers,
        body,
    };
    let path = parts.uri.path();
    match path.strip_prefix('/').and_then(|path| path.split_once('/')) {
        Some((INFERENCE, method)) => inference(&front, method, call).await,
        Some((HEALTH, "Check")) => {
            unary(&front, call, |request: HealthCheckRequest| {
                health::check(&front, &request.service)
            })
            .await
        }
        Some((HEALTH, "Watch")) => match call.message::<HealthCheckRequest>(&front).await {
            Ok(request) => respond(streaming(health::watch(front, request.service))),
            Err(fault) => refusal(fault),
        },
        Some((LOAD_REPORTS, "StreamCoreMetrics")) => {
            match call.message::<OrcaLoadReportRequest>(&front).await {
                Ok(request) => respond(streaming(load_reports::reports(front, &request))),
                Err(fault) => refusal(fault),
            }
        }
        _ => refusal(Fault::Unimplemented(format!(
            "this server has no call '{path}'"
        ))),
    }
}

/// Calls that always change the server.
const CHANGES: [&str; 6] = [
    "RepositoryModelLoad",
    "RepositoryModelUnload",
    "SystemSharedMemoryRegister",
    "SystemSharedMemoryUnregister",
    "CudaSharedMemoryRegister",
    "CudaSharedMemoryUnregister",
];

async fn inference(front: &Arc<Front>, method: &str, call: Call) -> Response<Body> {
    if CHANGES.contains(&method)
        && let Err(fault) = front.guard.check(&call.headers)
    {
        return refusal(fault);
    }
    match method {
        "ModelInfer" => model_infer(front, call).await,
        "ModelStreamInfer" => model_stream_infer(front, call),
        "ServerLive" => {
            let live = |_: wire::ServerLiveRequest| Ok(wire::ServerLiveResponse { live: true });
            unary(front, call, live).await
        }
        "ServerReady" => {
            let ready = |_: wire::ServerReadyRequest| {
                Ok(wire::ServerReadyResponse {
                    ready: front.ready(),
                })
            };
            unary(front, call, ready).await
        }
        "ServerMetadata" => {
            unary(front, call, |_: wire::ServerMetadataRequest| {
                Ok(front.server_metadata())
            })
            .await
        }
        "ModelReady" => {
            let ready = |request: wire::ModelReadyRequest| {
                let ready = front.model_ready(&request.name, &request.version);
                Ok(wire::ModelReadyResponse { ready })
            };
            unary(front, call, ready).await
        }
        "ModelMetadata" => {
            let metadata = |request: wire::ModelMetadataRequest| {
                front.model_metadata(&request.name, &request.version)
            };
            unary(front, call, metadata).await
        }
        "ModelConfig" => {
            let config = |request: wire::ModelConfigRequest| {
                front.model_config(&request.name, &request.version)
            };
            unary(front, call, config).await
        }
        "ModelStatistics" => {
            let statistics = |request: wire::ModelStatisticsRequest| {
                front.model_statistics(&request.name, &request.version)
            };
            unary(front, call, statistics).await
        }
        "RepositoryModelLoad" => {
            let load = |request: wire::RepositoryModelLoadRequest| front.load_model(request);
            unary_that_waits(front, call, load).await
        }
        "RepositoryModelUnload" => {
            let unload = |request: wire::RepositoryModelUnloadRequest| front.unload_model(request);
            unary_that_waits(front, call, unload).await
        }
        "RepositoryIndex" => {
            unary_that_waits(
                front,
                call,
                async |request: wire::RepositoryIndexRequest| {
                    Ok(front.repository_index(request.ready).await)
                },
            )
            .await
        }
        "SystemSharedMemoryStatus" => {
            let status =
                |request: wire::SystemSharedMemoryStatusRequest| front.system_memory(&request.name);
            unary(front, call, status).await
        }
        "SystemSharedMemoryRegister" => {
            let register = |request| front.register_system_memory(&request);
            unary(front, call, register).await
        }
        "SystemSharedMemoryUnregister" => {
            let unregister = |request: wire::SystemSharedMemoryUnregisterRequest| {
                Ok(front.unregister_system_memory(&request.name))
            };
            unary(front, call, unregister).await
        }
        "TraceSetting" => {
            let headers = call.headers.clone();
            let settings = |request: wire::TraceSettingRequest| {
                if !request.settings.is_empty() {
                    front.guard.check(&headers)?;
                }
                front.trace_settings(&request)
            };
            unary(front, call, settings).await
        }
        "LogSettings" => {
            let headers = call.headers.clone();
            let settings = |request: wire::LogSettingsRequest| {
                if !request.settings.is_empty() {
                    front.guard.check(&headers)?;
                }
                front.log_settings(&request)
            };
            unary(front, call, settings).await
        }
        "CudaSharedMemoryStatus" => {
            let status =
                |request: wire::CudaSharedMemoryStatusRequest| front.cuda_memory(&request.name);
            unary(front, call, status).await
        }
        "CudaSharedMemoryRegister" => {
            let register = |request: wire::CudaSharedMemoryRegisterRequest| {
                Err::<wire::CudaSharedMemoryRegisterResponse, _>(no_cuda(&request.name))
            };
            unary(front, call, register).await
        }
        "CudaSharedMemoryUnregister" => {
            let unregister = |_: wire::CudaSharedMemoryUnregisterRequest| {
                Ok(wire::CudaSharedMemoryUnregisterResponse {})
            };
            unary(front, call, unregister).await
        }
        _ => refusal(Fault::Unimplemented(format!(
            "this server does not support {INFERENCE}/{method}"
        ))),
    }
}

async fn model_infer(front: &Front, call: Call) -> Response<Body> {
    const NAME: &str = "inference.GRPCInferenceService/ModelInfer";
    let span = front
        .observer
        .tracing
        .server(NAME, traceparent(&call.headers));
    let mut progress = Progress::new(span);
    let arrival = Arrival {
        at: call.at,
        timeout: timeout(&call.headers),
    };
    let compression = Compression::of(&call.headers);
    let answer = async {
        let message = call.message(front).await?;
        let response = front.infer(message, arrival, &mut progress).await?;
        let framed = frame::frame_inference(response, front.max_message_bytes)?;
        Ok(compression.apply(framed).await)
    }
    .await;
    end(progress.span.take(), "ModelInfer", answer.as_ref().err());
    match answer {
        Ok(pieces) => {
            let mut trailers = trailers(None);
            progress.tell(&front.load, &mut trailers);
            let mut response = respond(Body::Message { pieces, trailers });
            compression.tell(response.headers_mut());
            response
        }
        Err(fault) => {
            let mut response = refusal(fault);
            progress.tell(&front.load, response.headers_mut());
            response
        }
    }
}

fn model_stream_infer(front: &Arc<Front>, call: Call) -> Response<Body> {
    let Call { headers, body, .. } = call;
    match messages(front, &headers, body) {
        Ok(messages) => {
            let compression = Compression::of(&headers);
            let answers = stream::answers(front.clone(), headers, messages);
            let mut response = respond(streaming(answers));
            compression.tell(response.headers_mut());
            response
        }
        Err(fault) => refusal(fault),
    }
}

async fn unary<Q, A>(
    front: &Front,
    call: Call,
    answer: impl FnOnce(Q) -> Result<A, Fault>,
) -> Response<Body>
where
    Q: Message + Default,
    A: Message,
{
    unary_that_waits(front, call, |request| ready(answer(request))).await
}

async fn unary_that_waits<Q, A, F>(
    front: &Front,
    call: Call,
    answer: impl FnOnce(Q) -> F,
) -> Response<Body>
where
    Q: Message + Default,
    A: Message,
    F: Future<Output = Result<A, Fault>>,
{
    let framed = async {
        let request = call.message(front).await?;
        frame::frame(&answer(request).await?, front.max_message_bytes)
    };
    match framed.await {
        Ok(framed) => respond(Body::Message {
            pieces: [framed].into(),
            trailers: trailers(None),
        }),
        Err(fault) => refusal(fault),
    }
}

impl Call {
    /// The message of a call that has but one.
    async fn message<Q: Message + Default>(self, front: &Front) -> Result<Q, Fault> {
        let messages = messages(front, &self.headers, self.body)?;
        decode(messages.only().await?)
    }
}

fn messages(
    front: &Front,
    headers: &HeaderMap,
    body: Incoming,
) -> Result<Messages<Incoming>, Fault> {
    let encoding = headers
        .get("grpc-encoding")
        .map_or("", |value| value.to_str().unwrap_or("?"));
    let encoding = Encoding::from_header(encoding)?;
    let limit = front.max_message_bytes;
    Ok(Messages::new(body, encoding, limit, &front.bodies))
}

pub(super) fn decode<Q: Message + Default>(message: Bytes) -> Result<Q, Fault> {
    Q::decode(message)
        .map_err(|error| Fault::Invalid(format!("message cannot be decoded: {error}")))
}

pub(super) fn traceparent(headers: &HeaderMap) -> Option<&[u8]> {
    headers.get("traceparent").map(HeaderValue::as_bytes)
}

/// Ends the span of a call.
pub(super) fn end(span: Option<ServerSpan>, method: &'static str, fault: Option<&Fault>) {
    let Some(mut span) = span else { return };
    span.set("rpc.system", "grpc");
    span.set("rpc.service", INFERENCE);
    span.set("rpc.method", method);
    let code = fault.map_or(Code::Ok, Fault::code);
    span.set("rpc.grpc.status_code", i64::from(i32::from(code)));
    span.end(fault.map(Fault::to_string));
}

/// How long the caller waits. A value that cannot be read counts for nothing, as gRPC servers have it.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get("grpc-timeout")?.as_bytes();
    let timeout = forebay_proto::timeout::parse(value)?;
    // gRPC's C core, on which most clients stand, rounds up to milliseconds: a client that waits for a
    // microsecond sends 1m. The least time that the value can stand for is taken, as what comes later is lost.
    let rounded_up_by = match value.last() {
        Some(b'n' | b'u') => Duration::ZERO,
        _ => Duration::from_millis(1),
    };
    Some(timeout.saturating_sub(rounded_up_by))
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let subtype = |value: &HeaderValue| {
        let rest = value.as_bytes().strip_prefix(CONTENT.as_bytes())?;
        matches!(rest.first(), None | Some(b'+' | b';')).then_some(())
    };
    headers.get(CONTENT_TYPE).and_then(subtype).is_some()
}

fn respond(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(CONTENT));
    response
}

/// An answer without a message: the status stands in the headers.
fn refusal(fault: Fault) -> Response<Body> {
    Status::from(fault).into_http()
}

/// Messages, then the status.
fn streaming(messages: BoxStream<'static, Result<Bytes, Fault>>) -> Body {
    let frames = futures::stream::unfold(Some(messages), |messages| async {
        let mut messages = messages?;
        Some(match messages.next().await {
            Some(Ok(message)) => (Frame::data(message), Some(messages)),
            Some(Err(fault)) => (Frame::trailers(trailers(Some(fault))), None),
            None => (Frame::trailers(trailers(None)), None),
        })
    });
    Body::Stream(frames.boxed())
}

fn trailers(fault: Option<Fault>) -> HeaderMap {
    match fault {
        None => HeaderMap::from_iter([(
            http::HeaderName::from_static(STATUS),
            HeaderValue::from_static("0"),
        )]),
        Some(fault) => refusal(fault).into_parts().0.headers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(
            http::HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )])
    }

    #[test]
    fn timeouts_of_clients_that_round_up_are_read_as_the_least_they_can_mean() {
        let cases = [
            ("1m", Some(Duration::ZERO)),
            ("30m", Some(Duration::from_millis(29))),
            ("2S", Some(Duration::from_millis(1_999))),
            ("1500u", Some(Duration::from_micros(1_500))),
            ("7n", Some(Duration::from_nanos(7))),
            ("soon", None),
        ];
        for (value, want) in cases {
            assert_eq!(timeout(&headers("grpc-timeout", value)), want, "{value}");
        }
        assert_eq!(timeout(&HeaderMap::new()), None);
    }

    #[test]
    fn grpc_is_told_by_its_content_type() {
        let cases = [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;v=1", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ];
        for (value, grpc) in cases {
            assert_eq!(is_grpc(&headers("content-type", value)), grpc, "{value}");
        }
    }
}
