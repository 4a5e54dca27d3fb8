//! An inference response to the body of a REST answer.
//!
//! JSON is written straight from the raw contents. What JSON cannot say (halves, NaN and infinity, byte strings
//! that are not text) is an error that names binary data as the way out, and never JSON that parsers refuse.

use bytes::Bytes;
use serde::Serialize;

use super::data::write_data;
use super::parameters::{self, Parameters};
use super::{OutputForm, RestError, SHARED};
use crate::inference::ModelInferResponse;
use crate::inference::model_infer_response::InferOutputTensor;
use crate::status::Code;
use crate::tensor::{DataType, check_raw, raw_from_contents};

const VEC_WRITES: &str = "writing to a Vec succeeds";

/// The body of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InferAnswer {
    pub body: Bytes,
    /// For the header that [`super::JSON_LENGTH_HEADER`] names; none when the body is JSON alone.
    pub json_length: Option<usize>,
}

/// Writes a response in the form that the client wants. Typed contents are read where the worker sent no raw
/// ones.
///
/// # Errors
/// INVALID_ARGUMENT for an output that JSON cannot say, INTERNAL for a response that contradicts itself.
pub fn infer_answer(
    response: &ModelInferResponse,
    form: &OutputForm,
) -> Result<InferAnswer, RestError> {
    let outputs = outputs(response, form)?;
    let estimate: usize = outputs.iter().map(|output| output.estimate()).sum();
    let mut body = Vec::with_capacity(256 + estimate);

    body.extend_from_slice(b"{\"model_name\":");
    json(&response.model_name, &mut body);
    if !response.model_version.is_empty() {
        body.extend_from_slice(b",\"model_version\":");
        json(&response.model_version, &mut body);
    }
    if !response.id.is_empty() {
        body.extend_from_slice(b",\"id\":");
        json(&response.id, &mut body);
    }
    if !response.parameters.is_empty() {
        parameters_key(&response.parameters, None, &mut body);
    }
    body.extend_from_slice(b",\"outputs\":[");
    for (index, output) in outputs.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        output.write(&mut body)?;
    }
    body.extend_from_slice(b"]}");

    let json_length = outputs
        .iter()
        .any(|output| output.binary)
        .then_some(body.len());
    for output in outputs.iter().filter(|output| output.binary) {
        body.extend_from_slice(&output.raw);
    }
    Ok(InferAnswer {
        body: body.into(),
        json_length,
    })
}

/// An output that is known to agree with its shape.
struct Output<'a> {
    tensor: &'a InferOutputTensor,
    datatype: DataType,
    raw: Bytes,
    binary: bool,
    /// It lies in shared memory: the answer has no data of it.
    shared: bool,
}

impl Output<'_> {
    /// Bytes that it will likely take.
    fn estimate(&self) -> usize {
        let data = if self.binary {
            self.raw.len()
        } else {
            self.raw.len() * 3
        };
        128 + data
    }

    fn write(&self, body: &mut Vec<u8>) -> Result<(), RestError> {
        let InferOutputTensor {
            name,
            datatype,
            shape,
            parameters,
            ..
        } = self.tensor;
        body.extend_from_slice(b"{\"name\":");
        json(name, body);
        body.extend_from_slice(b",\"datatype\":");
        json(datatype, body);
        body.extend_from_slice(b",\"shape\":");
        json(shape, body);
        if self.shared {
            // Neither data nor parameters: Triton's C++ client takes parameters for a sign of binary data.
        } else if self.binary {
            let length = ("binary_data_size", self.raw.len());
            parameters_key(parameters, Some(length), body);
        } else {
            if !parameters.is_empty() {
                parameters_key(parameters, None, body);
            }
            body.extend_from_slice(b",\"data\":");
            write_data(self.datatype, &self.raw, body)
                .map_err(|error| RestError::invalid(format!("output '{name}': {error}")))?;
        }
        body.push(b'}');
        Ok(())
    }
}

fn outputs<'a>(
    response: &'a ModelInferResponse,
    form: &OutputForm,
) -> Result<Vec<Output<'a>>, RestError> {
    let raw = &response.raw_output_contents;
    if !raw.is_empty() && raw.len() != response.outputs.len() {
        return Err(contradiction(format!(
            "{} raw contents for {} outputs",
            raw.len(),
            response.outputs.len()
        )));
    }
    let outputs = response.outputs.iter().enumerate().map(|(index, tensor)| {
        let about = |error| contradiction(format!("output '{}': {error}", tensor.name));
        let datatype: DataType = tensor.datatype.parse().map_err(about)?;
        let shared = tensor.parameters.contains_key(SHARED);
        let raw = match (raw.get(index), &tensor.contents) {
            _ if shared => Bytes::new(),
            (Some(raw), _) => {
                check_raw(datatype, &tensor.shape, raw).map_err(about)?;
                raw.clone()
            }
            (None, Some(contents)) => {
                raw_from_contents(datatype, &tensor.shape, contents).map_err(about)?
            }
            (None, None) => {
                return Err(contradiction(format!(
                    "output '{}' has no contents",
                    tensor.name
                )));
            }
        };
        Ok(Output {
            tensor,
            datatype,
            raw,
            binary: !shared && form.is_binary(&tensor.name),
            shared,
        })
    });
    outputs.collect()
}

fn contradiction(what: String) -> RestError {
    RestError::new(
        Code::Internal,
        format!("the worker's answer contradicts itself: {what}"),
    )
}

fn json<T: Serialize + ?Sized>(value: &T, body: &mut Vec<u8>) {
    serde_json::to_writer(body, value).expect(VEC_WRITES);
}

fn parameters_key(parameters: &Parameters, length: Option<(&str, usize)>, body: &mut Vec<u8>) {
    body.extend_from_slice(b",\"parameters\":");
    parameters::serialize(parameters, length, &mut serde_json::Serializer::new(body))
        .expect(VEC_WRITES);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::inference::infer_parameter::ParameterChoice;
    use crate::inference::{InferParameter, InferTensorContents};
    use crate::rest::{Model, infer_request};

    /// The form that a client asks for, by the JSON of its request.
    fn form(json: &str) -> OutputForm {
        let model = Model {
            name: "m".into(),
            version: None,
        };
        let body = Bytes::copy_from_slice(json.as_bytes());
        infer_request(&model, &body, None).unwrap().form
    }

    fn tensor(name: &str, datatype: DataType, shape: &[i64]) -> InferOutputTensor {
        InferOutputTensor {
            name: name.to_owned(),
            datatype: datatype.name().to_owned(),
            shape: shape.to_vec(),
            ..InferOutputTensor::default()
        }
    }

    fn response(outputs: Vec<(InferOutputTensor, &[u8])>) -> ModelInferResponse {
        let (outputs, raw): (Vec<_>, Vec<_>) = outputs.into_iter().unzip();
        ModelInferResponse {
            model_name: "m".into(),
            outputs,
            raw_output_contents: raw.into_iter().map(Bytes::copy_from_slice).collect(),
            ..ModelInferResponse::default()
        }
    }

    fn value(bytes: &[u8]) -> serde_json::Value {
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn json_alone_has_no_length_header() {
        let mut response = response(vec![
            (
                tensor("y", DataType::Int32, &[1, 2]),
                &[1, 0, 0, 0, 2, 0, 0, 0],
            ),
            (tensor("s", DataType::Bytes, &[1]), b"\x01\0\0\0\""),
        ]);
        response.model_version = "3".into();
        response.id = "a\"b".into();
        response.parameters.insert(
            "p".into(),
            InferParameter {
                parameter_choice: Some(ParameterChoice::DoubleParam(0.5)),
            },
        );
        let answer = infer_answer(&response, &OutputForm::default()).unwrap();
        assert_eq!(answer.json_length, None);
        assert_eq!(
            value(&answer.body),
            json!({"model_name": "m", "model_version": "3", "id": "a\"b", "parameters": {"p": 0.5}, "outputs": [
                {"name": "y", "datatype": "INT32", "shape": [1, 2], "data": [1, 2]},
                {"name": "s", "datatype": "BYTES", "shape": [1], "data": ["\""]},
            ]})
        );
    }

    #[test]
    fn binary_outputs_follow_the_json_in_order() {
        let response = response(vec![
            (tensor("a", DataType::Fp16, &[1]), &[1, 2]),
            (tensor("b", DataType::Int8, &[1]), &[3]),
            (tensor("c", DataType::Uint8, &[0]), &[]),
            (tensor("d", DataType::Uint8, &[1]), &[4]),
        ]);
        let form = form(
            r#"{"inputs":[],"parameters":{"binary_data_output":true},
                "outputs":[{"name":"b","parameters":{"binary_data":false}},{"name":"a"}]}"#,
        );
        let answer = infer_answer(&response, &form).unwrap();
        let length = answer.json_length.unwrap();
        assert_eq!(answer.body[length..], [1, 2, 4]);
        assert_eq!(
            value(&answer.body[..length]),
            json!({"model_name": "m", "outputs": [
                {"name": "a", "datatype": "FP16", "shape": [1], "parameters": {"binary_data_size": 2}},
                {"name": "b", "datatype": "INT8", "shape": [1], "data": [3]},
                {"name": "c", "datatype": "UINT8", "shape": [0], "parameters": {"binary_data_size": 0}},
                {"name": "d", "datatype": "UINT8", "shape": [1], "parameters": {"binary_data_size": 1}},
            ]})
        );
    }

    #[test]
    fn an_output_in_shared_memory_has_no_data() {
        let mut response = response(vec![
            (tensor("a", DataType::Fp32, &[2]), &[]),
            (tensor("b", DataType::Int8, &[1]), &[3]),
        ]);
        let region = InferParameter {
            parameter_choice: Some(ParameterChoice::StringParam("r".into())),
        };
        response.outputs[0].parameters.insert(SHARED.into(), region);
        let form = form(r#"{"inputs":[],"parameters":{"binary_data_output":true}}"#);
        let answer = infer_answer(&response, &form).unwrap();
        let length = answer.json_length.unwrap();
        assert_eq!(answer.body[length..], [3]);
        assert_eq!(
            value(&answer.body[..length])["outputs"][0],
            json!({"name": "a", "datatype": "FP32", "shape": [2]})
        );
    }

    #[test]
    fn typed_contents_are_read_where_raw_ones_are_missing() {
        let mut output = tensor("y", DataType::Fp32, &[2]);
        output.contents = Some(InferTensorContents {
            fp32_contents: vec![1.0, 0.25],
            ..InferTensorContents::default()
        });
        let mut response = response(vec![]);
        response.outputs.push(output);
        let answer = infer_answer(&response, &OutputForm::default()).unwrap();
        assert_eq!(
            value(&answer.body)["outputs"][0]["data"],
            json!([1.0, 0.25])
        );
    }

    #[test]
    fn what_json_cannot_say_is_the_requests_fault() {
        for (datatype, raw) in [
            (DataType::Fp16, &[0, 0][..]),
            (DataType::Bf16, &[0, 0]),
            (DataType::Fp32, &f32::NAN.to_le_bytes()),
            (DataType::Fp64, &f64::INFINITY.to_le_bytes()),
            (DataType::Bytes, b"\x01\0\0\0\xff"),
        ] {
            let response = response(vec![(tensor("y", datatype, &[1]), raw)]);
            let error = infer_answer(&response, &OutputForm::default()).unwrap_err();
            assert_eq!(error.status, 400, "{datatype}");
            assert!(error.message.contains("binary data"), "{error}");
            let binary = form(r#"{"inputs":[],"parameters":{"binary_data_output":true}}"#);
            assert!(infer_answer(&response, &binary).is_ok(), "{datatype}");
        }
    }

    #[test]
    fn a_response_that_contradicts_itself_is_the_workers_fault() {
        let good = || response(vec![(tensor("y", DataType::Int8, &[1]), &[1])]);
        let mut responses = vec![good(), good(), good(), good()];
        responses[0].raw_output_contents.push(Bytes::new());
        responses[1].raw_output_contents[0] = Bytes::from_static(b"12");
        responses[2].outputs[0].datatype = "FP99".into();
        responses[3].raw_output_contents.clear();
        for response in responses {
            let error = infer_answer(&response, &OutputForm::default()).unwrap_err();
            assert_eq!(error.status, 500, "{error}");
        }
    }
}
