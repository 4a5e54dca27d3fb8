//! Triton's generate extension: a flat JSON object whose fields are the model's inputs, and its outputs as one.
//!
//! A field named like an input is its tensor; a single value is a tensor of one element, an array one of as many.
//! They lie along the last axis, and axes before it have size 1. `id` and `parameters` are the request's own, and
//! any other field of a single value is one more parameter.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::RestError;
use super::call::{Model, decode};
use super::data::{read_data, write_data};
use super::parameters::Parameter;
use crate::inference::model_infer_request::InferInputTensor;
use crate::inference::{InferParameter, ModelInferRequest, ModelInferResponse};
use crate::status::Code;
use crate::tensor::DataType;

/// A call of the extension. Only who knows the model's inputs can answer it, so it is no `Call`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenerateCall<'a> {
    pub model: Model<'a>,
    /// Answered as server-sent events.
    pub stream: bool,
}

impl<'a> GenerateCall<'a> {
    /// Reads a path, which is without the query. None when it is no such call.
    ///
    /// # Errors
    /// A name that is empty, badly escaped or not UTF-8.
    pub fn parse(path: &'a str) -> Result<Option<Self>, RestError> {
        let Some(rest) = path.strip_prefix("/v2/models/") else {
            return Ok(None);
        };
        let Some((rest, action)) = rest.rsplit_once('/') else {
            return Ok(None);
        };
        let stream = match action {
            "generate" => false,
            "generate_stream" => true,
            _ => return Ok(None),
        };
        let mut segments = rest.split('/');
        let (name, version) = match (
            segments.next(),
            segments.next(),
            segments.next(),
            segments.next(),
        ) {
            (Some(name), None, None, None) => (name, None),
            (Some(name), Some("versions"), Some(version), None) => (name, Some(version)),
            _ => return Ok(None),
        };
        let version = version.map(|version| decode(version, "model version"));
        Ok(Some(Self {
            model: Model {
                name: decode(name, "model name")?,
                version: version.transpose()?,
            },
            stream,
        }))
    }
}

/// An input of the model, for `generate_request`.
#[derive(Clone, Debug)]
pub struct Field {
    pub name: String,
    pub datatype: DataType,
    /// None: any.
    pub rank: Option<usize>,
}

/// Reads the body of a request to a model with these inputs.
///
/// # Errors
/// A body that is no object, or a field whose value does not suit its input.
pub fn generate_request(
    model: &Model<'_>,
    inputs: &[Field],
    body: &[u8],
) -> Result<ModelInferRequest, RestError> {
    let fields: BTreeMap<String, &RawValue> = serde_json::from_slice(body)
        .map_err(|error| RestError::invalid(format!("body is no generate request: {error}")))?;
    let mut request = ModelInferRequest {
        model_name: model.name.clone().into_owned(),
        model_version: model.version_or_empty().to_owned(),
        ..ModelInferRequest::default()
    };
    for (name, value) in fields {
        let about = |error: String| RestError::invalid(format!("field '{name}': {error}"));
        if let Some(input) = inputs.iter().find(|input| input.name == name) {
            let (shape, raw) = tensor(input, value).map_err(about)?;
            request.raw_input_contents.push(raw);
            request.inputs.push(InferInputTensor {
                name,
                datatype: input.datatype.name().to_owned(),
                shape,
                ..InferInputTensor::default()
            });
        } else if name == "id" {
            request.id = text(value).ok_or_else(|| about("want a string".to_owned()))?;
        } else if name == "parameters" {
            let parameters: BTreeMap<String, Parameter> =
                serde_json::from_str(value.get()).map_err(|error| about(error.to_string()))?;
            let parameters = parameters
                .into_iter()
                .map(|(name, value)| (name, parameter(value)));
            request.parameters.extend(parameters);
        } else {
            let value: Parameter = serde_json::from_str(value.get()).map_err(|_| {
                let names: Vec<&str> = inputs.iter().map(|input| &input.name[..]).collect();
                about(format!(
                    "it is no input of the model, which has {}, and no parameter, which has a single value",
                    names.join(", ")
                ))
            })?;
            request.parameters.insert(name, parameter(value));
        }
    }
    Ok(request)
}

/// Writes the outputs of a response as fields: a single element by itself, several as an array.
///
/// # Errors
/// INVALID_ARGUMENT for an output that JSON cannot say, INTERNAL for one that contradicts itself.
pub fn generate_answer(response: &ModelInferResponse) -> Result<Bytes, RestError> {
    let mut body = Vec::with_capacity(256);
    body.extend_from_slice(b"{\"model_name\":");
    json(&response.model_name, &mut body);
    body.extend_from_slice(b",\"model_version\":");
    json(&response.model_version, &mut body);
    if !response.id.is_empty() {
        body.extend_from_slice(b",\"id\":");
        json(&response.id, &mut body);
    }
    for (output, raw) in response.outputs.iter().zip(&response.raw_output_contents) {
        let datatype: DataType =
            output
                .datatype
                .parse()
                .map_err(|error: crate::tensor::TensorError| {
                    RestError::new(Code::Internal, error.to_string())
                })?;
        body.push(b',');
        json(&output.name, &mut body);
        body.push(b':');
        let start = body.len();
        write_data(datatype, raw, &mut body)
            .map_err(|error| RestError::invalid(format!("output '{}': {error}", output.name)))?;
        if output.shape.iter().product::<i64>() == 1 {
            // The brackets of an array of one.
            body.remove(start);
            body.pop();
        }
    }
    body.push(b'}');
    Ok(body.into())
}

/// A body as the one event of a stream.
pub fn event(body: &[u8]) -> Bytes {
    [b"data: ", body, b"\n\n"].concat().into()
}

fn tensor(input: &Field, value: &RawValue) -> Result<(Vec<i64>, Bytes), String> {
    let is_array = value.get().starts_with('[');
    let count = if is_array {
        let items: Vec<&RawValue> =
            serde_json::from_str(value.get()).map_err(|error| error.to_string())?;
        items.len()
    } else {
        1
    };
    let rank = input.rank.unwrap_or(1);
    if rank == 0 && is_array {
        return Err("want a single value, as the input has no axes".to_owned());
    }
    let mut shape = vec![1; rank];
    if let Some(last) = shape.last_mut() {
        *last = i64::try_from(count).map_err(|error| error.to_string())?;
    }
    // The reader takes arrays; an array of one stands for the value.
    let wrapped;
    let data = if is_array {
        value
    } else {
        wrapped = RawValue::from_string(format!("[{}]", value.get()))
            .map_err(|error| error.to_string())?;
        &*wrapped
    };
    let flat = [shape.iter().product::<i64>()];
    let raw = read_data(input.datatype, &flat, data).map_err(|error| error.to_string())?;
    Ok((shape, raw.into()))
}

fn parameter(Parameter(choice): Parameter) -> InferParameter {
    InferParameter {
        parameter_choice: Some(choice),
    }
}

fn text(value: &RawValue) -> Option<String> {
    String::deserialize(&mut serde_json::Deserializer::from_str(value.get())).ok()
}

fn json(text: &str, body: &mut Vec<u8>) {
    serde_json::to_writer(body, text).expect("writing to a Vec succeeds");
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::inference::infer_parameter::ParameterChoice;
    use crate::inference::model_infer_response::InferOutputTensor;

    fn field(name: &str, datatype: DataType, rank: usize) -> Field {
        Field {
            name: name.to_owned(),
            datatype,
            rank: Some(rank),
        }
    }

    fn model() -> Model<'static> {
        Model {
            name: "m".into(),
            version: None,
        }
    }

    #[test]
    fn paths_name_model_and_version() {
        let call = GenerateCall::parse("/v2/models/a%20b/versions/2/generate_stream")
            .unwrap()
            .unwrap();
        assert_eq!(
            (
                &*call.model.name,
                call.model.version_or_empty(),
                call.stream
            ),
            ("a b", "2", true)
        );
        assert!(
            !GenerateCall::parse("/v2/models/m/generate")
                .unwrap()
                .unwrap()
                .stream
        );
        for path in [
            "/v2/models/generate",
            "/v2/models/m/infer",
            "/v2/models/m/x/generate",
            "/v2",
            "/v2/models/m/versions/generate",
        ] {
            assert_eq!(GenerateCall::parse(path), Ok(None), "{path}");
        }
        assert!(GenerateCall::parse("/v2/models//generate").is_err());
    }

    #[test]
    fn fields_are_inputs_by_name() {
        let inputs = [
            field("text", DataType::Bytes, 1),
            field("x", DataType::Fp32, 2),
            field("n", DataType::Int64, 0),
        ];
        let body = br#"{"id":"7","text":"hello","x":[1,2.5],"n":3,"stream":false,"parameters":{"timeout":5}}"#;
        let request = generate_request(&model(), &inputs, body).unwrap();
        let found: Vec<_> = request
            .inputs
            .iter()
            .zip(&request.raw_input_contents)
            .map(|(input, raw)| {
                (
                    &input.name[..],
                    &input.datatype[..],
                    &input.shape[..],
                    raw.len(),
                )
            })
            .collect();
        let empty: &[i64] = &[];
        assert_eq!(
            found,
            [
                ("n", "INT64", empty, 8),
                ("text", "BYTES", &[1][..], 9),
                ("x", "FP32", &[1, 2][..], 8)
            ]
        );
        assert_eq!((&request.id[..], request.parameters.len()), ("7", 2));
        let stream = request.parameters["stream"].parameter_choice.clone();
        assert_eq!(stream, Some(ParameterChoice::BoolParam(false)));
    }

    #[test]
    fn what_does_not_suit_is_named() {
        let inputs = [
            field("x", DataType::Fp32, 2),
            field("n", DataType::Int64, 0),
        ];
        for (body, text) in [
            ("[]", "body is no generate request"),
            (r#"{"x":"a"}"#, "field 'x'"),
            (r#"{"x":[[1]]}"#, "field 'x'"),
            (r#"{"n":[1]}"#, "no axes"),
            (
                r#"{"y":[1]}"#,
                "it is no input of the model, which has x, n",
            ),
            (r#"{"id":7}"#, "field 'id': want a string"),
            (r#"{"parameters":7}"#, "field 'parameters'"),
        ] {
            let error = generate_request(&model(), &inputs, body.as_bytes()).unwrap_err();
            assert_eq!(error.status, 400);
            assert!(error.message.contains(text), "{error}");
        }
    }

    #[test]
    fn outputs_are_fields() {
        let output = |name: &str, datatype: DataType, shape: &[i64]| InferOutputTensor {
            name: name.to_owned(),
            datatype: datatype.name().to_owned(),
            shape: shape.to_vec(),
            ..InferOutputTensor::default()
        };
        let response = ModelInferResponse {
            model_name: "m".into(),
            model_version: "1".into(),
            outputs: vec![
                output("text", DataType::Bytes, &[1, 1]),
                output("y", DataType::Int8, &[1, 2]),
            ],
            raw_output_contents: vec![
                Bytes::from_static(b"\x02\0\0\0hi"),
                Bytes::from_static(&[1, 2]),
            ],
            ..ModelInferResponse::default()
        };
        let body = generate_answer(&response).unwrap();
        let found: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            found,
            json!({"model_name": "m", "model_version": "1", "text": "hi", "y": [1, 2]})
        );
        assert!(event(&body).starts_with(b"data: {") && event(&body).ends_with(b"}\n\n"));
    }
}
