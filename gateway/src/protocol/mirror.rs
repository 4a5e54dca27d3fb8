//! What may be sent twice: an inference request, given another model if so wanted.
//!
//! A request that names regions of shared memory is not copied: the second answer would be written over the first one, in
//! the client's own memory. Nor is a part of a sequence, which changes what the model remembers.

use std::collections::BTreeMap;

use bytes::Bytes;
use forebay_proto::inference::{InferParameter, ModelInferRequest};
use prost::Message;

const SHARED_MEMORY: &str = "shared_memory_region";
const SEQUENCE: &str = "sequence_id";

/// The message to send, from the one that came; None: it must not be sent again, or is no request.
pub fn copy(message: Bytes, model: Option<&str>, version: Option<&str>) -> Option<Bytes> {
    let mut request = ModelInferRequest::decode(message.clone()).ok()?;
    let region =
        |parameters: &BTreeMap<String, InferParameter>| parameters.contains_key(SHARED_MEMORY);
    let in_region = request.inputs.iter().any(|input| region(&input.parameters))
        || request
            .outputs
            .iter()
            .any(|output| region(&output.parameters));
    if in_region || request.parameters.contains_key(SEQUENCE) {
        return None;
    }
    if model.is_none() && version.is_none() {
        return Some(message);
    }
    if let Some(model) = model {
        request.model_name = model.to_owned();
        request.model_version.clear();
    }
    if let Some(version) = version {
        request.model_version = version.to_owned();
    }
    Some(request.encode_to_vec().into())
}

#[cfg(test)]
mod tests {
    use forebay_proto::inference::model_infer_request::{
        InferInputTensor, InferRequestedOutputTensor,
    };

    use super::*;

    fn request() -> ModelInferRequest {
        ModelInferRequest {
            model_name: "m".into(),
            model_version: "3".into(),
            id: "7".into(),
            inputs: vec![InferInputTensor {
                name: "x".into(),
                ..Default::default()
            }],
            outputs: vec![InferRequestedOutputTensor::default()],
            raw_input_contents: vec![Bytes::from_static(b"data")],
            ..Default::default()
        }
    }

    fn copied(
        request: &ModelInferRequest,
        model: Option<&str>,
        version: Option<&str>,
    ) -> Option<ModelInferRequest> {
        let copy = copy(request.encode_to_vec().into(), model, version)?;
        Some(ModelInferRequest::decode(copy).unwrap())
    }

    #[test]
    fn only_model_and_version_change() {
        let own = request();
        assert_eq!(copied(&own, None, None), Some(own.clone()));
        for (model, version, name, number) in [
            (Some("n"), None, "n", ""),
            (Some("n"), Some("9"), "n", "9"),
            (None, Some("9"), "m", "9"),
        ] {
            let expected = ModelInferRequest {
                model_name: name.into(),
                model_version: number.into(),
                ..own.clone()
            };
            assert_eq!(copied(&own, model, version), Some(expected));
        }
    }

    #[test]
    fn what_would_have_effects_is_not_copied() {
        let parameter = || InferParameter::default();
        let mut by_input = request();
        by_input.inputs[0]
            .parameters
            .insert(SHARED_MEMORY.into(), parameter());
        let mut by_output = request();
        by_output.outputs[0]
            .parameters
            .insert(SHARED_MEMORY.into(), parameter());
        let mut sequence = request();
        sequence.parameters.insert(SEQUENCE.into(), parameter());
        for request in [by_input, by_output, sequence] {
            assert_eq!(copied(&request, None, None), None);
        }
        assert_eq!(copy(Bytes::from_static(b"\xff"), None, None), None);
    }
}
