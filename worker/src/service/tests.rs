//! The gRPC services over a real socket: what clients send and what they get, the wrong requests above all.

mod answers;
mod caching;
mod counters;
mod hostile;
mod load_reports;
mod patience;
mod stages;
mod streams;

use bytes::Bytes;
use forebay_config::worker::Model as ModelConfig;
use forebay_proto::health::health_check_response::ServingStatus;
use forebay_proto::health::health_client::HealthClient;
use forebay_proto::health::{HealthCheckRequest, HealthCheckResponse};
use forebay_proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use forebay_proto::inference::infer_parameter::ParameterChoice;
use forebay_proto::inference::model_infer_request::InferInputTensor;
use forebay_proto::inference::{self as wire, InferParameter};
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use prost::Message;
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::*;
use crate::engine::fake::{BAD, FAIL};
use crate::testbed::{Bed, MAX_MESSAGE_BYTES};

const MODEL_INFER: &str = "/inference.GRPCInferenceService/ModelInfer";

impl Bed {
    async fn channel(&self) -> Channel {
        let endpoint =
            tonic::transport::Endpoint::from_shared(format!("http://{}", self.grpc)).unwrap();
        endpoint.connect().await.unwrap()
    }

    async fn client(&self) -> GrpcInferenceServiceClient<Channel> {
        GrpcInferenceServiceClient::new(self.channel().await)
    }

    /// Sends these very bytes; code and message of the answer.
    async fn raw(&self, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> (Code, String) {
        let client = Client::builder(TokioExecutor::new())
            .http2_only(true)
            .build_http();
        let mut request = Request::post(format!("http://{}{path}", self.grpc))
            .header("content-type", "application/grpc");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = client
            .request(request.body(Full::new(Bytes::from(body))).unwrap())
            .await
            .unwrap();
        let (parts, body) = answer.into_parts();
        let trailers = body
            .collect()
            .await
            .unwrap()
            .trailers()
            .cloned()
            .unwrap_or_default();
        let headers = if parts.headers.contains_key("grpc-status") {
            &parts.headers
        } else {
            &trailers
        };
        let status = Status::from_header_map(headers).unwrap();
        (status.code(), status.message().to_owned())
    }
}

fn request(values: &[f32]) -> wire::ModelInferRequest {
    wire::ModelInferRequest {
        model_name: "fake".to_owned(),
        inputs: vec![InferInputTensor {
            name: "x".to_owned(),
            datatype: "FP32".to_owned(),
            shape: vec![values.len() as i64 / 2, 2],
            ..InferInputTensor::default()
        }],
        raw_input_contents: vec![
            values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
        ],
        ..wire::ModelInferRequest::default()
    }
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat()
}
