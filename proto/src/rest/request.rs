//! The body of an inference request to a message.
//!
//! The message always carries raw contents, but for tensors in shared memory, which it only names. Binary tensors are slices of the body and are not copied; JSON data
//! is parsed once every key of its tensor is known, as datatype and shape may come after it. The parameters that
//! belong to this encoding (`binary_data_size`, `binary_data`, `binary_data_output`) are taken out of the
//! message; all others pass through. Whether the tensors suit the model is the worker's to say.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::call::Model;
use super::data::read_data;
use super::parameters::{self, Parameters, take_bool, take_length};
use super::{RestError, SHARED};
use crate::inference::ModelInferRequest;
use crate::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use crate::tensor::{DataType, check_raw};

/// An inference request, and how its answer is to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct InferCall {
    pub request: ModelInferRequest,
    pub form: OutputForm,
}

/// Which outputs the client wants as binary data; the others become JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutputForm {
    /// What holds for outputs that are not named.
    binary: bool,
    named: Vec<(String, bool)>,
}

impl OutputForm {
    pub fn is_binary(&self, output: &str) -> bool {
        self.named
            .iter()
            .find(|(name, _)| name == output)
            .map_or(self.binary, |(_, binary)| *binary)
    }
}

/// Reads the header that [`super::JSON_LENGTH_HEADER`] names.
///
/// # Errors
/// A value that is not a number of bytes.
pub fn json_length(value: &[u8]) -> Result<usize, RestError> {
    let text = std::str::from_utf8(value).unwrap_or_default().trim();
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(length) if digits => Ok(length),
        _ => Err(RestError::invalid(format!(
            "{} is '{}', want a number of bytes",
            super::JSON_LENGTH_HEADER,
            String::from_utf8_lossy(value)
        ))),
    }
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(default)]
    id: Option<String>,
    #[serde(default, deserialize_with = "parameters::deserialize")]
    parameters: Parameters,
    #[serde(borrow)]
    inputs: Vec<Input<'a>>,
    #[serde(default)]
    outputs: Option<Vec<Output>>,
}

#[derive(Deserialize)]
struct Input<'a> {
    name: String,
    datatype: String,
    shape: Vec<i64>,
    #[serde(default, deserialize_with = "parameters::deserialize")]
    parameters: Parameters,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Output {
    name: String,
    #[serde(default, deserialize_with = "parameters::deserialize")]
    parameters: Parameters,
}

/// Reads the body of an inference request. `json_length` is the header's value, if the request has the header.
///
/// # Errors
/// INVALID_ARGUMENT, for JSON that is not a request, for tensors that do not agree with their own shape and
/// datatype, for binary data that is missing or left over, and for a JSON length of zero: a raw body without
/// JSON, which only the model's metadata could make sense of.
pub fn infer_request(
    model: &Model<'_>,
    body: &Bytes,
    json_length: Option<usize>,
) -> Result<InferCall, RestError> {
    let (json, mut binary) = split(body, json_length)?;
    let mut parsed: Body<'_> = serde_json::from_slice(json)
        .map_err(|error| RestError::invalid(format!("body is no inference request: {error}")))?;

    let mut form = OutputForm {
        binary: take_bool(&mut parsed.parameters, "binary_data_output")?.unwrap_or(false),
        named: Vec::new(),
    };
    let mut request = ModelInferRequest {
        model_name: model.name.clone().into_owned(),
        model_version: model.version_or_empty().to_owned(),
        id: parsed.id.unwrap_or_default(),
        parameters: parsed.parameters,
        inputs: Vec::with_capacity(parsed.inputs.len()),
        outputs: Vec::new(),
        raw_input_contents: Vec::with_capacity(parsed.inputs.len()),
    };
    for mut input in parsed.inputs {
        let raw = raw_contents(&mut input, &mut binary)
            .map_err(|error| RestError::invalid(format!("input '{}': {error}", input.name)))?;
        request.raw_input_contents.extend(raw);
        request.inputs.push(InferInputTensor {
            name: input.name,
            datatype: input.datatype,
            shape: input.shape,
            parameters: input.parameters,
            contents: None,
        });
    }
    if !binary.is_empty() {
        return Err(RestError::invalid(format!(
            "{} bytes are left over behind the binary data of all inputs",
            binary.len()
        )));
    }
    for mut output in parsed.outputs.unwrap_or_default() {
        if let Some(binary) = take_bool(&mut output.parameters, "binary_data")? {
            form.named.push((output.name.clone(), binary));
        }
        request.outputs.push(InferRequestedOutputTensor {
            name: output.name,
            parameters: output.parameters,
        });
    }
    Ok(InferCall { request, form })
}

/// The JSON, and the binary data behind it.
fn split(body: &Bytes, json_length: Option<usize>) -> Result<(&[u8], Bytes), RestError> {
    match json_length {
        None => Ok((body, Bytes::new())),
        Some(0) => Err(RestError::invalid(
            "raw bodies without JSON are not supported, describe the inputs in JSON",
        )),
        Some(length) if length > body.len() => Err(RestError::invalid(format!(
            "{} is {length}, but the body has {} bytes",
            super::JSON_LENGTH_HEADER,
            body.len()
        ))),
        Some(length) => Ok((&body[..length], body.slice(length..))),
    }
}

/// Raw contents of an input, from the front of the binary data or from its JSON. None: they are in shared memory.
fn raw_contents(input: &mut Input<'_>, binary: &mut Bytes) -> Result<Option<Bytes>, String> {
    let datatype: DataType = input.datatype.parse().map_err(to_text)?;
    let length = take_length(&mut input.parameters, "binary_data_size").map_err(to_text)?;
    match (length, input.data) {
        (Some(_), Some(_)) => Err("both data and binary_data_size are given, want one".to_owned()),
        (None, None) if input.parameters.contains_key(SHARED) => Ok(None),
        (_, _) if input.parameters.contains_key(SHARED) => Err(format!(
            "data is given, but {SHARED} says that it is elsewhere"
        )),
        (None, None) => Err("neither data nor binary_data_size is given, want one".to_owned()),
        (None, Some(data)) => read_data(datatype, &input.shape, data)
            .map(|data| Some(Bytes::from(data)))
            .map_err(to_text),
        (Some(length), None) => {
            if length > binary.len() {
                return Err(format!(
                    "binary_data_size is {length}, but {} bytes of binary data are left",
                    binary.len()
                ));
            }
            let raw = binary.split_to(length);
            check_raw(datatype, &input.shape, &raw).map_err(to_text)?;
            Ok(Some(raw))
        }
    }
}

fn to_text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::inference::infer_parameter::ParameterChoice;

    fn model() -> Model<'static> {
        Model {
            name: "m".into(),
            version: Some("3".into()),
        }
    }

    fn parse(json: &str) -> Result<InferCall, RestError> {
        infer_request(&model(), &Bytes::copy_from_slice(json.as_bytes()), None)
    }

    fn parse_binary(json: &str, binary: &[u8]) -> Result<InferCall, RestError> {
        let body = [json.as_bytes(), binary].concat();
        infer_request(&model(), &body.into(), Some(json.len()))
    }

    #[test]
    fn an_input_in_shared_memory_has_no_data() {
        let shared = r#"{"name":"x","datatype":"FP32","shape":[1],"parameters":{"shared_memory_region":"r"}"#;
        let other = r#"{"name":"w","datatype":"INT8","shape":[1],"data":[1]}"#;
        let call = parse(&format!(r#"{{"inputs":[{shared}}},{other}]}}"#)).unwrap();
        assert_eq!(call.request.inputs.len(), 2);
        assert_eq!(call.request.raw_input_contents, [&b"\x01"[..]]);
        let error = parse(&format!(r#"{{"inputs":[{shared},"data":[1]}}]}}"#)).unwrap_err();
        assert!(error.message.contains("elsewhere"), "{error}");
    }

    #[test]
    fn json_becomes_raw_contents() {
        let call = parse(
            r#"{"id":"7","parameters":{"priority":2,"binary_data_output":true},
                "inputs":[{"data":[[1,2]],"name":"x","shape":[1,2],"datatype":"FP32","parameters":{"k":"v"}},
                          {"name":"s","shape":[1],"datatype":"BYTES","data":["é"]}],
                "outputs":[{"name":"y","parameters":{"binary_data":false,"classification":3}},{"name":"z"}],
                "model_name":"ignored"}"#,
        )
        .unwrap();
        let request = call.request;
        assert_eq!(
            (&*request.model_name, &*request.model_version, &*request.id),
            ("m", "3", "7")
        );
        assert_eq!(request.parameters.keys().collect::<Vec<_>>(), ["priority"]);
        assert_eq!(request.inputs[0].shape, [1, 2]);
        assert_eq!(
            request.inputs[0].parameters["k"].parameter_choice,
            Some(ParameterChoice::StringParam("v".into()))
        );
        assert_eq!(
            request.raw_input_contents[0],
            [1_f32.to_le_bytes(), 2_f32.to_le_bytes()].concat()
        );
        assert_eq!(request.raw_input_contents[1], &b"\x02\0\0\0\xc3\xa9"[..]);
        assert_eq!(
            request.outputs[0].parameters.keys().collect::<Vec<_>>(),
            ["classification"]
        );
        assert!(!call.form.is_binary("y"));
        assert!(call.form.is_binary("z") && call.form.is_binary("other"));
    }

    #[test]
    fn binary_tensors_are_slices_of_the_body() {
        let json = r#"{"inputs":[
            {"name":"a","shape":[2],"datatype":"FP16","parameters":{"binary_data_size":4}},
            {"name":"b","shape":[1],"datatype":"INT8","data":[5]},
            {"name":"c","shape":[],"datatype":"UINT8","parameters":{"binary_data_size":1}},
            {"name":"d","shape":[0],"datatype":"FP32","parameters":{"binary_data_size":0},"data":null}]}"#;
        let body = Bytes::from([json.as_bytes(), b"\x01\x02\x03\x04\x09"].concat());
        let call = infer_request(&model(), &body, Some(json.len())).unwrap();
        let raw = &call.request.raw_input_contents;
        assert_eq!(raw[0].as_ptr(), body[json.len()..].as_ptr());
        assert_eq!(
            raw.iter().map(|raw| &raw[..]).collect::<Vec<_>>(),
            [&[1, 2, 3, 4][..], &[5], &[9], &[]]
        );
        assert!(call.request.inputs[0].parameters.is_empty());
        assert!(!call.form.is_binary("y"));
    }

    #[test]
    fn binary_data_must_be_all_there_and_used_up() {
        let json = r#"{"inputs":[{"name":"a","shape":[2],"datatype":"INT8","parameters":{"binary_data_size":2}}]}"#;
        assert!(parse_binary(json, &[1, 2]).is_ok());
        assert!(parse_binary(json, &[1]).is_err());
        assert!(parse_binary(json, &[1, 2, 3]).is_err());
        assert!(parse(json).is_err());
        let gigabyte = json.replace("_size\":2", "_size\":1073741824");
        assert!(parse_binary(&gigabyte, &[1, 2]).is_err());
        for size in ["-1", "18446744073709551615", "2.0", "\"2\"", "true"] {
            let json = json.replace("_size\":2", &format!("_size\":{size}"));
            assert!(parse_binary(&json, &[1, 2]).is_err(), "{size}");
        }
    }

    #[test]
    fn the_json_length_must_fit_the_body() {
        let body = Bytes::from_static(br#"{"inputs":[]}"#);
        assert!(infer_request(&model(), &body, Some(body.len())).is_ok());
        for length in [0, 1, body.len() + 1, usize::MAX] {
            let error = infer_request(&model(), &body, Some(length)).unwrap_err();
            assert_eq!(error.status, 400, "{length}");
        }
        assert_eq!(json_length(b"12"), Ok(12));
        for value in [
            &b""[..],
            b"-1",
            b"+1",
            b"1.5",
            b"x",
            b"99999999999999999999999",
            b"\xff",
        ] {
            assert!(json_length(value).is_err(), "{value:?}");
        }
    }

    #[test]
    fn bad_requests_are_refused() {
        let deep = format!(
            r#"{{"inputs":[{{"name":"x","shape":[1],"datatype":"INT8","data":{}1{}}}]}}"#,
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        let unclosed = format!(r#"{{"inputs":{}"#, "[".repeat(100_000));
        for json in [
            "",
            "null",
            "[]",
            "{}",
            r#"{"inputs":5}"#,
            r#"{"inputs":[{}]}"#,
            r#"{"inputs":[{"name":"x","shape":[1],"datatype":"INT8"}]}"#,
            r#"{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[1]}"#,
            r#"{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[1"#,
            r#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP99","data":[1]}]}"#,
            r#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP16","data":[1]}]}"#,
            r#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[NaN]}]}"#,
            r#"{"inputs":[{"name":"x","shape":[-1],"datatype":"INT8","data":[1]}]}"#,
            r#"{"inputs":[{"name":"x","shape":[1.5],"datatype":"INT8","data":[1]}]}"#,
            r#"{"inputs":[{"name":"x","shape":[18446744073709551616],"datatype":"INT8","data":[1]}]}"#,
            r#"{"inputs":[{"name":"x","shape":[9223372036854775807,9],"datatype":"INT8","data":[1]}]}"#,
            r#"{"inputs":[{"name":"x","shape":[1099511627776],"datatype":"FP64","data":[1]}]}"#,
            r#"{"inputs":[{"name":"x","shape":[2,1],"datatype":"INT8","data":[[1,2]]}]}"#,
            r#"{"inputs":[{"name":"x","shape":[1],"datatype":"BYTES","data":["\ud83d"]}]}"#,
            r#"{"inputs":[{"name":"\ud83d","shape":[1],"datatype":"INT8","data":[1]}]}"#,
            r#"{"inputs":[{"name":"x","name":"x","shape":[1],"datatype":"INT8","data":[1]}]}"#,
            r#"{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[1],"parameters":{"binary_data_size":1}}]}"#,
            r#"{"inputs":[],"parameters":{"a":[]}}"#,
            r#"{"inputs":[],"parameters":{"binary_data_output":1}}"#,
            r#"{"inputs":[],"outputs":[{"name":"y","parameters":{"binary_data":"yes"}}]}"#,
            r#"{"inputs":[]} trailing"#,
            &deep,
            &unclosed,
        ] {
            let error = parse(json).unwrap_err();
            let shown = &json[..json.len().min(100)];
            assert_eq!(error.status, 400, "{shown}");
            assert!(error.message.len() < 1200, "{shown}");
        }
        let not_text = Bytes::from_static(
            b"{\"inputs\":[{\"name\":\"x\",\"shape\":[1],\"datatype\":\"BYTES\",\"data\":[\"\xff\"]}]}",
        );
        assert!(infer_request(&model(), &not_text, None).is_err());
    }

    #[test]
    fn errors_name_the_input_and_stay_short() {
        let name = "x".repeat(100_000);
        let json = format!(
            r#"{{"inputs":[{{"name":"{name}","shape":[1],"datatype":"{name}","data":[1]}}]}}"#
        );
        let error = parse(&json).unwrap_err();
        assert!(error.message.starts_with("input 'xxx"), "{error}");
        assert!(error.message.len() < 1200);
    }

    const DIMENSIONS: [&str; 6] = ["0", "1", "2", "3", "-1", "9223372036854775807"];
    const ELEMENTS: [&str; 8] = [
        "1",
        "-1",
        "1e9",
        "true",
        "\"a\"",
        "\"\\ud800\"",
        "null",
        "{}",
    ];

    /// Arrays nested to a depth, with the same number of members in each of a level.
    fn nested(sizes: &[usize], element: &str) -> String {
        match sizes {
            [] => element.to_owned(),
            [size, inner @ ..] => format!("[{}]", vec![nested(inner, element); *size].join(",")),
        }
    }

    /// A request for one tensor that is right as often as it is wrong.
    fn tensor_request() -> impl Strategy<Value = String> {
        let sizes = prop::collection::vec(0..4_usize, 0..4);
        let spoiled = prop::option::weighted(0.2, (0..4_usize, prop::sample::select(&DIMENSIONS)));
        let element = prop::sample::select(&ELEMENTS);
        let datatype = prop::sample::select(&DataType::ALL);
        (sizes, spoiled, element, datatype, any::<bool>()).prop_map(
            |(sizes, spoiled, element, datatype, flat)| {
                let mut shape: Vec<String> = sizes.iter().map(ToString::to_string).collect();
                if let Some((axis, dimension)) = spoiled
                    && let Some(slot) = shape.get_mut(axis)
                {
                    *slot = dimension.to_owned();
                }
                let data = if flat {
                    nested(&[sizes.iter().product()], element)
                } else {
                    nested(&sizes, element)
                };
                format!(
                    r#"{{"inputs":[{{"name":"x","datatype":"{datatype}","shape":[{}],"data":{data}}}]}}"#,
                    shape.join(",")
                )
            },
        )
    }

    proptest! {
        #[test]
        fn any_body_is_read_without_panic(body: Vec<u8>, length in prop::option::of(0..40_usize)) {
            let body = Bytes::from(body);
            if let Err(error) = infer_request(&model(), &body, length) {
                prop_assert_eq!(error.status.as_u16(), 400);
            }
        }

        #[test]
        fn right_tensors_are_accepted(sizes in prop::collection::vec(1..4_usize, 0..4), flat: bool) {
            let count = sizes.iter().product::<usize>();
            let data = if flat { nested(&[count], "1") } else { nested(&sizes, "1") };
            let json = format!(
                r#"{{"inputs":[{{"name":"x","datatype":"INT16","shape":{sizes:?},"data":{data}}}]}}"#
            );
            let call = parse(&json).unwrap();
            prop_assert_eq!(&call.request.raw_input_contents[0], &[1, 0].repeat(count));
        }

        #[test]
        fn whatever_is_accepted_agrees_with_its_shape(json in tensor_request()) {
            if let Ok(InferCall { request, .. }) = parse(&json) {
                let input = &request.inputs[0];
                let datatype = input.datatype.parse().unwrap();
                prop_assert_eq!(check_raw(datatype, &input.shape, &request.raw_input_contents[0]), Ok(()));
            }
        }
    }
}
