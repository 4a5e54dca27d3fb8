//! Who calls: tonic over gRPC, hyper over HTTP, and bare sockets for what neither would send.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use forebay_proto::health::health_client::HealthClient;
use forebay_proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use forebay_proto::inference::infer_parameter::ParameterChoice;
use forebay_proto::inference::model_infer_request::InferInputTensor;
use forebay_proto::inference::{InferParameter, ModelInferRequest, ModelInferResponse};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};

/// No answer takes longer in any test that does not say so.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub type Inference = GrpcInferenceServiceClient<Channel>;

/// One HTTP/2 connection that speaks gRPC.
pub async fn channel(address: SocketAddr) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    endpoint
        .connect()
        .await
        .with_context(|| format!("no gRPC connection to {address}"))
}

pub async fn inference(address: SocketAddr) -> anyhow::Result<Inference> {
    Ok(Inference::new(channel(address).await?))
}

pub async fn health(address: SocketAddr) -> anyhow::Result<HealthClient<Channel>> {
    Ok(HealthClient::new(channel(address).await?))
}

/// Asks `model` about FP32 `x` `[rows, 4]`.
pub fn floats(model: &str, values: &[f32]) -> ModelInferRequest {
    let data: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    request(model, "x", "FP32", vec![values.len() as i64 / 4, 4], data)
}

/// Asks `model` about the INT64 column `name`, one row each.
pub fn integers(model: &str, name: &str, values: &[i64]) -> ModelInferRequest {
    let data: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    request(model, name, "INT64", vec![values.len() as i64, 1], data)
}

pub fn request(
    model: &str,
    name: &str,
    datatype: &str,
    shape: Vec<i64>,
    data: Vec<u8>,
) -> ModelInferRequest {
    ModelInferRequest {
        model_name: model.to_owned(),
        inputs: vec![InferInputTensor {
            name: name.to_owned(),
            datatype: datatype.to_owned(),
            shape,
            ..Default::default()
        }],
        raw_input_contents: vec![data.into()],
        ..Default::default()
    }
}

/// The same, with the upstream told how to behave.
pub fn behaving(behaviour: &str, mut request: ModelInferRequest) -> ModelInferRequest {
    let choice = ParameterChoice::StringParam(behaviour.to_owned());
    request.parameters.insert(
        "behave".to_owned(),
        InferParameter {
            parameter_choice: Some(choice),
        },
    );
    request
}

/// The first output's elements.
pub fn output_floats(response: &ModelInferResponse) -> anyhow::Result<Vec<f32>> {
    let raw = response
        .raw_output_contents
        .first()
        .context("the answer has no output")?;
    Ok(raw
        .as_chunks()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect())
}

pub fn output_integers(response: &ModelInferResponse) -> anyhow::Result<Vec<i64>> {
    let raw = response
        .raw_output_contents
        .first()
        .context("the answer has no output")?;
    Ok(raw
        .as_chunks()
        .0
        .iter()
        .map(|bytes| i64::from_le_bytes(*bytes))
        .collect())
}

/// HTTP to one address, over as many connections as it takes.
#[derive(Clone)]
pub struct Rest {
    client: Client<HttpConnector, Full<Bytes>>,
    address: SocketAddr,
}

#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Rest {
    pub fn new(address: SocketAddr) -> Self {
        Self {
            client: Client::builder(TokioExecutor::new()).build_http(),
            address,
        }
    }

    pub fn http2(address: SocketAddr) -> Self {
        Self {
            client: Client::builder(TokioExecutor::new())
                .http2_only(true)
                .build_http(),
            address,
        }
    }

    pub async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.send(Request::builder(), Method::GET, path, "").await
    }

    pub async fn post(&self, path: &str, body: impl Into<Bytes>) -> anyhow::Result<Answer> {
        self.send(Request::builder(), Method::POST, path, body)
            .await
    }

    /// Asks `model` about one row of FP32 `x`.
    pub async fn infer(&self, model: &str, row: [f32; 4]) -> anyhow::Result<Answer> {
        self.post(
            &format!("/v2/models/{model}/infer"),
            json_request(row, None).to_string(),
        )
        .await
    }

    /// `builder` has the headers.
    pub async fn send(
        &self,
        builder: http::request::Builder,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
    ) -> anyhow::Result<Answer> {
        let exchange = async {
            let (head, body) = self.open(builder, method, path, body).await?.into_parts();
            let body = body
                .collect()
                .await
                .context("the answer broke off")?
                .to_bytes();
            Ok(Answer {
                status: head.status,
                headers: head.headers,
                body,
            })
        };
        tokio::time::timeout(PATIENCE, exchange)
            .await
            .with_context(|| format!("{path}: no answer"))?
    }

    /// The answer's head, its body still to come.
    pub async fn open(
        &self,
        builder: http::request::Builder,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
    ) -> anyhow::Result<http::Response<Incoming>> {
        let uri = format!("http://{}{path}", self.address);
        let request = builder
            .method(method)
            .uri(uri)
            .body(Full::new(body.into()))?;
        self.client
            .request(request)
            .await
            .with_context(|| format!("{path}: the request failed"))
    }
}

/// The JSON form of `floats` with one row.
pub fn json_request(row: [f32; 4], behaviour: Option<&str>) -> Value {
    let mut body =
        json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": row}]});
    if let Some(behaviour) = behaviour {
        body["parameters"] = json!({ "behave": behaviour });
    }
    body
}

impl Answer {
    pub fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("no JSON: {:?}", self.body))
    }

    /// The first output's elements, of an answer that is 200.
    pub fn floats(&self) -> anyhow::Result<Vec<f32>> {
        ensure!(
            self.status == StatusCode::OK,
            "{}: {:?}",
            self.status,
            self.body
        );
        let json = self.json()?;
        let data = json["outputs"][0]["data"]
            .as_array()
            .with_context(|| format!("no output in {json}"))?;
        data.iter()
            .map(|value| value.as_f64().map(|value| value as f32).context("a number"))
            .collect()
    }

    /// The text of `{"error": …}`.
    pub fn error(&self) -> anyhow::Result<String> {
        let json = self.json()?;
        Ok(json["error"]
            .as_str()
            .with_context(|| format!("no error in {json}"))?
            .to_owned())
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// Sends `bytes` over a connection of its own and reads until the other side closes it; an error after `time`.
pub async fn raw(address: SocketAddr, bytes: &[u8], time: Duration) -> anyhow::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    let exchange = async {
        let mut answer = Vec::new();
        // The other side may close before it has read everything.
        let sent = stream.write_all(bytes).await;
        let read = stream.read_to_end(&mut answer).await;
        match (sent, read) {
            (_, Ok(_)) => Ok(answer),
            (_, Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => Ok(answer),
            (_, Err(error)) => bail!(error),
        }
    };
    tokio::time::timeout(time, exchange)
        .await
        .with_context(|| format!("the connection was open after {time:?}"))?
}
