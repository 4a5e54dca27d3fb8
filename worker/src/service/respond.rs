//! Tensors of the model in, the answer as it travels out: raw, in the order in which the caller asked.
//!
//! An output that went to shared memory has an empty entry among the raw contents, as Triton's has.

use std::collections::BTreeMap;

use bytes::Bytes;
use forebay_proto::inference::infer_parameter::ParameterChoice;
use forebay_proto::inference::model_infer_response::InferOutputTensor;
use forebay_proto::inference::{InferParameter, ModelInferRequest, ModelInferResponse};

use super::classification::{Asked, NoClasses, classify};
use super::delivery::Delivery;
use super::{Fault, shared};
use crate::inference::{Signature, Tensor};
use crate::repository::labels::Labels;

/// Looking through so many bytes takes about a millisecond.
const WORTH_A_THREAD: usize = 64 << 10;

/// Who answers.
#[derive(Debug, Clone, Copy)]
pub struct Answerer<'a> {
    pub version: u64,
    pub signature: &'a Signature,
    /// Of its outputs' classes, if there are any.
    pub labels: Option<&'a Labels>,
    /// Bytes of an answer at most.
    pub limit: usize,
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
                let held = response.raw_output_contents.iter().map(Bytes::len).sum();
                let asked = Asked {
                    classes,
                    batched: answerer.signature.batched,
                    labels: answerer.labels.map_or(&[][..], |labels| labels.of(&name)),
                    limit: answerer.limit.saturating_sub(held),
                };
                classes_of(tensor, asked).await?
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

/// Large tensors are looked through where they hold up no other request.
async fn classes_of(tensor: Tensor, asked: Asked<'_>) -> Result<Tensor, Fault> {
    let classes = if tensor.data.len() < WORTH_A_THREAD {
        classify(&tensor, asked)
    } else {
        let labels = asked.labels.to_vec();
        let Asked {
            classes,
            batched,
            limit,
            ..
        } = asked;
        let found = tokio::task::spawn_blocking(move || {
            let asked = Asked {
                classes,
                batched,
                labels: &labels,
                limit,
            };
            classify(&tensor, asked)
        });
        found
            .await
            .map_err(|error| Fault::Internal(format!("classes could not be found: {error}")))?
    };
    classes.map_err(|error| match error {
        NoClasses::Unordered(_) => Fault::Invalid(error.to_string()),
        NoClasses::TooLarge(_) => Fault::TooLarge(error.to_string()),
    })
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
            limit: 1 << 20,
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
    async fn large_tensors_have_classes_within_the_limit() {
        let signature = signature();
        let mut values = vec![0; 2 * WORTH_A_THREAD];
        values[WORTH_A_THREAD] = 9;
        let tensor = Tensor {
            datatype: DataType::Uint8,
            shape: vec![1, values.len() as i64],
            data: values.into(),
        };
        let respond = |classes, limit| {
            let answerer = Answerer {
                version: 3,
                signature: &signature,
                labels: None,
                limit,
            };
            let output = (tensor.clone(), Delivery::Classes(classes));
            respond(answerer, ask(&["y"]), std::iter::once(output))
        };
        let response = respond(1, 100).await.unwrap();
        assert_eq!(
            response.raw_output_contents[0][4..],
            *format!("9:{WORTH_A_THREAD}").as_bytes()
        );
        let fault = respond(usize::MAX, 1 << 20).await.unwrap_err();
        assert!(matches!(fault, Fault::TooLarge(_)), "{fault}");
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
