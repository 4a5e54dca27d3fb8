//! `pool`: a vector for each token → one for each row, as sentence-transformers does it.
//!
//! A row that the mask empties becomes zeros, never NaN.

use forebay_config::worker::{Pool as Config, PoolMethod};
use forebay_proto::tensor::DataType;

use super::{Input, StepError, Transform, bounds, strings, unknown_port};
use crate::inference::Tensor;
use crate::pipeline::plan::{Expected, Given, Made, Typed};

/// Bytes that are read in a fraction of a millisecond.
const QUICK_BYTES: usize = 512 << 10;
/// Least length that a vector is divided by (torch.nn.functional.normalize).
const LEAST_LENGTH: f32 = 1e-12;

pub struct Pooling {
    config: Config,
}

impl Pooling {
    pub fn new(config: Config) -> Self {
        Self { config }
    }
}

impl Typed for Pooling {
    fn takes(&self, port: &str) -> Result<Expected, String> {
        let (datatypes, shape) = match port {
            "tokens" => (vec![DataType::Fp32, DataType::Fp16], vec![-1, -1, -1]),
            "attention_mask" => (vec![DataType::Int64, DataType::Int32], vec![-1, -1]),
            _ => return Err(unknown_port(port)),
        };
        Ok(Expected {
            datatypes,
            shape: Some(shape),
            usual: None,
            optional: false,
        })
    }

    fn makes(&self, _: &str, given: &Given<'_>) -> Result<Made, String> {
        let tokens = given.iter().find(|(port, _)| *port == "tokens");
        let shape = tokens.and_then(|(_, spec)| spec.shape.as_ref());
        let size = shape.and_then(|shape| shape.last()).copied().unwrap_or(-1);
        Ok(Made {
            datatype: DataType::Fp32,
            shape: Some(vec![-1, size]),
        })
    }

    fn needs(&self) -> Vec<&str> {
        match self.config.method {
            PoolMethod::Cls => vec!["tokens"],
            PoolMethod::Mean | PoolMethod::Max | PoolMethod::Last => {
                vec!["tokens", "attention_mask"]
            }
        }
    }

    fn batched(&self) -> bool {
        true
    }
}

impl Transform for Pooling {
    fn run(&self, inputs: &[Input], ports: &[String]) -> Result<Vec<Tensor>, StepError> {
        let tokens = super::needed(inputs, "tokens")?;
        let [rows, length, size] = super::sizes(tokens)?;
        let values = numbers(tokens)?;
        let kept = match super::input(inputs, "attention_mask") {
            Some(mask) => {
                if super::sizes(mask)? != [rows, length] {
                    let what = format!(
                        "the shape {:?} is not that of '{}' without its last dimension, {:?}",
                        mask.tensor.shape, tokens.name, tokens.tensor.shape
                    );
                    return Err(strings::invalid(mask, &what));
                }
                kept(mask)?
            }
            None => vec![true; rows.saturating_mul(length)],
        };
        let mut data = Vec::with_capacity(bounds::bytes(rows, size.saturating_mul(4))?);
        let mut vector = vec![0.0f32; size];
        for row in 0..rows {
            let tokens = values.get(row * length * size..).unwrap_or_default();
            let kept = kept
                .get(row * length..(row + 1) * length)
                .unwrap_or_default();
            self.pool(tokens, kept, &mut vector);
            data.extend(vector.iter().flat_map(|value| value.to_le_bytes()));
        }
        let tensor = Tensor {
            datatype: DataType::Fp32,
            shape: vec![rows as i64, size as i64],
            data: data.into(),
        };
        Ok(ports.iter().map(|_| tensor.clone()).collect())
    }

    fn quick(&self, inputs: &[Input]) -> bool {
        inputs
            .iter()
            .all(|input| input.tensor.data.len() <= QUICK_BYTES)
    }
}

impl Pooling {
    /// `tokens` begins with as many vectors of the size of `vector` as there are marks in `kept`.
    fn pool(&self, tokens: &[f32], kept: &[bool], vector: &mut [f32]) {
        vector.fill(0.0);
        if vector.is_empty() {
            return;
        }
        let mut chosen = tokens
            .chunks_exact(vector.len())
            .zip(kept)
            .filter_map(|(token, kept)| kept.then_some(token));
        match self.config.method {
            PoolMethod::Mean => {
                let mut count = 0.0f32;
                for token in chosen {
                    count += 1.0;
                    for (sum, value) in vector.iter_mut().zip(token) {
                        *sum += value;
                    }
                }
                for sum in vector.iter_mut() {
                    *sum /= count.max(1.0);
                }
            }
            PoolMethod::Max => {
                if let Some(first) = chosen.next() {
                    vector.copy_from_slice(first);
                }
                for token in chosen {
                    for (most, value) in vector.iter_mut().zip(token) {
                        *most = most.max(*value);
                    }
                }
            }
            PoolMethod::Cls => {
                if let Some(first) = tokens
                    .chunks_exact(vector.len())
                    .next()
                    .filter(|_| !kept.is_empty())
                {
                    vector.copy_from_slice(first);
                }
            }
            PoolMethod::Last => {
                if let Some(last) = chosen.next_back() {
                    vector.copy_from_slice(last);
                }
            }
        }
        if self.config.normalize {
            let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
            for value in vector.iter_mut() {
                *value /= length.max(LEAST_LENGTH);
            }
        }
    }
}

/// FP32 and FP16 as FP32.
pub(super) fn numbers(input: &Input) -> Result<Vec<f32>, StepError> {
    let data = &input.tensor.data;
    match input.tensor.datatype {
        DataType::Fp32 => {
            let (numbers, _) = data.as_chunks();
            Ok(numbers
                .iter()
                .map(|bytes| f32::from_le_bytes(*bytes))
                .collect())
        }
        DataType::Fp16 => {
            let (numbers, _) = data.as_chunks();
            let number = |bytes: &[u8; 2]| half::f16::from_le_bytes(*bytes).to_f32();
            Ok(numbers.iter().map(number).collect())
        }
        _ => Err(super::wrong_type(input)),
    }
}

fn kept(mask: &Input) -> Result<Vec<bool>, StepError> {
    let width = match mask.tensor.datatype {
        DataType::Int64 => 8,
        DataType::Int32 => 4,
        _ => return Err(super::wrong_type(mask)),
    };
    let marks = mask.tensor.data.chunks_exact(width);
    Ok(marks
        .map(|bytes| bytes.iter().any(|byte| *byte != 0))
        .collect())
}
