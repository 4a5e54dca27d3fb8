//! The same request over REST, with binary tensors.

use bytes::Bytes;
use forebay_proto::inference::ModelInferRequest;
use forebay_proto::inference::infer_parameter::ParameterChoice;
use forebay_tests::client::{Answer, Rest};
use http::{Method, Request};
use serde_json::json;
use tonic::Code;

const LENGTH: &str = "inference-header-content-length";

/// The first output's bytes, or the code that goes with the status and the error's text.
pub async fn infer(rest: &Rest, request: &ModelInferRequest) -> Result<Bytes, (Code, String)> {
    let input = &request.inputs[0];
    let data = &request.raw_input_contents[0];
    let mut head = json!({
        "inputs": [{
            "name": input.name,
            "datatype": input.datatype,
            "shape": input.shape,
            "parameters": {"binary_data_size": data.len()},
        }],
        "parameters": {"binary_data_output": true},
    });
    let priority = request.parameters.get("priority");
    if let Some(ParameterChoice::Int64Param(priority)) =
        priority.and_then(|priority| priority.parameter_choice.as_ref())
    {
        head["parameters"]["priority"] = json!(priority);
    }
    let head = head.to_string();
    let body = [head.as_bytes(), data].concat();
    let builder = Request::builder().header(LENGTH, head.len());
    let path = format!("/v2/models/{}/infer", request.model_name);
    let answer = rest.send(builder, Method::POST, &path, body).await;
    let answer = answer.map_err(|error| (Code::Unknown, format!("{error:#}")))?;
    output(&answer).ok_or_else(|| {
        let code = match answer.status.as_u16() {
            400 => Code::InvalidArgument,
            429 => Code::ResourceExhausted,
            504 => Code::DeadlineExceeded,
            _ => Code::Unknown,
        };
        (code, format!("{} {:?}", answer.status, answer.body))
    })
}

fn output(answer: &Answer) -> Option<Bytes> {
    if answer.status != 200 {
        return None;
    }
    let length: usize = answer.header(LENGTH)?.parse().ok()?;
    (length <= answer.body.len()).then(|| answer.body.slice(length..))
}
