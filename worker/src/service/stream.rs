//! `ModelStreamInfer`: every request of the stream gets one answer, in the order of the requests.
//!
//! As in Triton an inference that fails is an answer with an error message, and the call goes on; with the
//! metadata `triton_grpc_error: true` it ends the call with a gRPC status. A stream that cannot be read ends
//! the call in both cases.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use forebay_proto::inference::infer_parameter::ParameterChoice;
use forebay_proto::inference::{
    InferParameter, ModelInferRequest, ModelInferResponse, ModelStreamInferResponse,
};
use futures::stream::{BoxStream, StreamExt};
use http::HeaderMap;
use hyper::body::Incoming;

use super::compress::Compression;
use super::frame::{self, Messages};
use super::{Arrival, Fault, Front, Progress, grpc};
use crate::server::draining;

/// Requests of one stream that are worked on at the same time; further ones wait unread.
const MAX_IN_FLIGHT: usize = 64;
/// Asks that each answer say whether it is its request's last.
const WANTS_FINAL: &str = "triton_enable_empty_final_response";
const IS_FINAL: &str = "triton_final_response";

/// The framed answers of a stream.
pub fn answers(
    front: Arc<Front>,
    headers: HeaderMap,
    messages: Messages<Incoming>,
) -> BoxStream<'static, Result<Bytes, Fault>> {
    let stream = Arc::new(Stream {
        strict: headers
            .get("triton_grpc_error")
            .is_some_and(|value| value == "true"),
        headers,
        front,
    });
    requests(stream.front.clone(), messages)
        .map(move |request| {
            let stream = stream.clone();
            async move { stream.answer(request?).await }
        })
        .buffered(MAX_IN_FLIGHT)
        .boxed()
}

struct Stream {
    front: Arc<Front>,
    headers: HeaderMap,
    strict: bool,
}

impl Stream {
    async fn answer(&self, request: ModelInferRequest) -> Result<Bytes, Fault> {
        const NAME: &str = "inference.GRPCInferenceService/ModelStreamInfer";
        let arrival = Arrival {
            at: Instant::now(),
            timeout: None,
        };
        let id = request.id.clone();
        let wants_final = matches!(
            request
                .parameters
                .get(WANTS_FINAL)
                .and_then(|value| value.parameter_choice.as_ref()),
            Some(ParameterChoice::BoolParam(true))
        );
        let span = self
            .front
            .observer
            .tracing
            .server(NAME, grpc::traceparent(&self.headers));
        let mut progress = Progress::new(span);
        let answer = self.front.infer(request, arrival, &mut progress).await;
        grpc::end(progress.span, "ModelStreamInfer", answer.as_ref().err());

        let (mut response, error_message) = match answer {
            Ok(response) => (response, String::new()),
            Err(fault) if self.strict => return Err(fault),
            Err(fault) => (
                ModelInferResponse {
                    id,
                    ..ModelInferResponse::default()
                },
                fault.to_string(),
            ),
        };
        if wants_final {
            let last = InferParameter {
                parameter_choice: Some(ParameterChoice::BoolParam(true)),
            };
            response.parameters.insert(IS_FINAL.to_owned(), last);
        }
        let answer = ModelStreamInferResponse {
            error_message,
            infer_response: Some(response),
        };
        let framed = frame::frame(&answer, self.front.max_message_bytes)?;
        let pieces = Compression::of(&self.headers).apply([framed].into()).await;
        Ok(pieces.into_iter().next().unwrap_or_default())
    }
}

/// The requests as they come; when the process drains, the stream ends after those that are here.
fn requests(
    front: Arc<Front>,
    messages: Messages<Incoming>,
) -> impl futures::Stream<Item = Result<ModelInferRequest, Fault>> {
    futures::stream::unfold(Some((front, messages)), |state| async {
        let (front, mut messages) = state?;
        let mut drain = front.drain.clone();
        let next = tokio::select! {
            biased;
            next = messages.next() => next,
            () = draining(&mut drain) => Err(Fault::Unavailable("server is shutting down".to_owned())),
        };
        match next.and_then(|message| message.map(grpc::decode).transpose()) {
            Ok(Some(request)) => Some((Ok(request), Some((front, messages)))),
            Ok(None) => None,
            Err(fault) => Some((Err(fault), None)),
        }
    })
}
