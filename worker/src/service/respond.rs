//! Tensors of the model in, the answer as it travels out: raw, in the order in which the caller asked.
//!
//! An output that went to shared memory has an empty entry among the raw contents, as Triton's has.

use std::collections::BTreeMap;

use bytes::Bytes;
use forebay_proto::inference::infer_parameter::ParameterChoice;
use forebay_proto::inference::model_infer_response::InferOutputTensor;
use forebay_proto::inference::{InferParameter, ModelInferRequest, ModelInferResponse};

use super::classification::classify;
use super::delivery::Delivery;
use super::{Fault, shared};
use crate::inference::{Signature, Tensor};
use crate::repository::labels::Labels;

/// Who answers.
#[derive(Debug, Clone, Copy)]
pub struct Answerer<'a> {
    pub version: u64,
    pub signature: &'a Signature,
    /// Of its outputs' classes, if there are any.
    pub labels: Option<&'a Labels>,
}

/// The answer to `message`. `outputs` are in the order in which it names them, or in the signature's order.
pub async fn respond(
    answerer: Answerer<'_>,
    message: ModelInferRequest,
    outputs: impl ExactSizeIterator<Item = (Tensor, Delivery)>,
) -> Result<ModelInferResponse, Fault> {
    let mut response = ModelInferResponse {
        model_name: message.model_name,
        model_version: answerer.version.to_string(),
        id: message.id,
        parameters: BTreeMap::new(),
        outputs: Vec::with_capacity(outputs.len()),
        raw_output_contents: Vec::with_capacity(outputs.len()),
    };
    let names: Vec<String> = if message.outputs.is_empty() {
        let specs = answerer.signature.outputs.iter();
        specs.map(|spec| spec.name.clone()).collect()
    } else {
        let requested = message.outputs.into_iter();
        requested.map(|output| output.name).collect()
    };
    for ((tensor, delivery), name) in outputs.zip(names) {
        let mut parameters = BTreeMap::new();
        let tensor = match delivery {
            Delivery::Tensor => tensor,
            Delivery::Region {
                place,
                parameters: asked,
            } => {
                parameters = asked;
                let length = i64::try_from(tensor.data.len()).unwrap_or(i64::MAX);
                let size = InferParameter {
                    parameter_choice: Some(ParameterChoice::Int64Param(length)),
                };
                parameters.insert(shared::BYTE_SIZE.to_owned(), size);
                shared::deliver(&name, tensor.data, place).await?;
                Tensor {
                    data: Bytes::new(),
                    ..tensor
                }
            }
            Delivery::Classes(classes) => {
                let labels = answerer.labels.map_or(&[][..], |labels| labels.of(&name));
                classify(&tensor, classes, answerer.signature.batched, labels)
                    .map_err(|error| Fault::Invalid(error.to_string()))?
            }
        };
        response.outputs.push(InferOutputTensor {
            name,
            datatype: tensor.datatype.name().to_owned(),
            shape: tensor.shape,
            parameters,
            contents: None,
        });
        response.raw_output_contents.push(tensor.data);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use forebay_proto::inference::model_infer_request::InferRequestedOutputTensor;
    use forebay_proto::tensor::DataType;

    use super::*;
    use crate::inference::TensorSpec;

    fn signature() -> Signature {
        let spec = |name: &str, datatype| TensorSpec {
            name: name.to_owned(),
            datatype,
            shape: Some(vec![-1, 2]),
            optional: false,
        };
        Signature {
            inputs: Vec::new(),
            outputs: vec![spec("y", DataType::Uint8), spec("z", DataType::Bool)],
            batched: true,
        }
    }

    fn ask(names: &[&str]) -> ModelInferRequest {
        let output = |name: &&str| InferRequestedOutputTensor {
            name: (*name).to_owned(),
            ..InferRequestedOutputTensor::default()
        };
        ModelInferRequest {
            outputs: names.iter().map(output).collect(),
            ..ModelInferRequest::default()
        }
    }

    async fn answer(
        names: &[&str],
        outputs: Vec<(DataType, Delivery)>,
    ) -> Result<ModelInferResponse, Fault> {
        let signature = signature();
        let answerer = Answerer {
            version: 3,
            signature: &signature,
            labels: None,
        };
        let tensor = |(datatype, delivery)| {
            let tensor = Tensor {
                datatype,
                shape: vec![1, 2],
                data: Bytes::from_static(&[0, 1]),
            };
            (tensor, delivery)
        };
        respond(answerer, ask(names), outputs.into_iter().map(tensor)).await
    }

    #[tokio::test]
    async fn tensors_are_named_as_they_were_asked_for() {
        let tensors = |first, second| vec![(first, Delivery::Tensor), (second, Delivery::Tensor)];
        for (names, outputs, want) in [
            (
                &["z", "y"][..],
                tensors(DataType::Bool, DataType::Uint8),
                [("z", "BOOL"), ("y", "UINT8")],
            ),
            (
                &[],
                tensors(DataType::Uint8, DataType::Bool),
                [("y", "UINT8"), ("z", "BOOL")],
            ),
        ] {
            let response = answer(names, outputs).await.unwrap();
            let found = response.outputs.iter();
            let found: Vec<_> = found
                .map(|output| (&output.name[..], &output.datatype[..]))
                .collect();
            assert_eq!(found, want);
            assert_eq!(
                (
                    &response.model_version[..],
                    response.raw_output_contents.len()
                ),
                ("3", 2)
            );
        }
    }

    #[tokio::test]
    async fn classes_are_text_and_need_an_order() {
        let response = answer(&["y"], vec![(DataType::Uint8, Delivery::Classes(1))])
            .await
            .unwrap();
        assert_eq!(
            (
                &response.outputs[0].datatype[..],
                &response.outputs[0].shape[..]
            ),
            ("BYTES", &[1, 1][..])
        );
        assert_eq!(response.raw_output_contents[0], b"\x03\0\0\x001:1"[..]);
        let fault = answer(&["z"], vec![(DataType::Bool, Delivery::Classes(1))])
            .await
            .unwrap_err();
        assert!(
            matches!(&fault, Fault::Invalid(text) if text.contains("type 'BOOL'")),
            "{fault}"
        );
    }
}
