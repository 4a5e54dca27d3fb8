//! `model_warmup`: requests to run before the model is called ready.

use std::collections::BTreeMap;

use bytes::Bytes;
use forebay_proto::inference::model_warmup::Input;
use forebay_proto::inference::model_warmup::input::InputDataType;
use forebay_proto::inference::{ModelConfig, ModelWarmup};
use forebay_proto::tensor::DataType;

use super::limits::WARM_UP_COUNT;
use super::{Findings, Reshapes};
use crate::inference::{InferRequest, Signature, Tensor};

/// One request, to be run `count` times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    pub name: String,
    /// Rows; 0 where the model does not batch.
    pub batch_size: u32,
    pub count: u32,
    pub inputs: Vec<SampleInput>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SampleInput {
    pub name: String,
    pub datatype: DataType,
    /// Without the rows.
    pub dims: Vec<i64>,
    pub content: Content,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    Zero,
    Random,
    /// In the folder `warmup` of the model's folder; raw bytes, repeated for each row.
    File(String),
}

pub(super) fn samples(config: &ModelConfig, findings: &mut Findings) -> Vec<Sample> {
    let limit = u32::try_from(config.max_batch_size).unwrap_or(0);
    let samples = config.model_warmup.iter();
    samples
        .filter_map(|sample| {
            if sample.batch_size > limit.max(1) {
                let ModelWarmup { name, batch_size, .. } = sample;
                findings.problem(format!(
                    "model_warmup '{name}' batch_size {batch_size} must be <= max batch size ({limit})"
                ));
                return None;
            }
            let count = findings.within(
                &format!("model_warmup '{}' count", sample.name),
                sample.count,
                &WARM_UP_COUNT,
            )?;
            Some(Sample {
                name: sample.name.clone(),
                batch_size: sample.batch_size,
                count: count.max(1),
                inputs: inputs(sample, findings)?,
            })
        })
        .collect()
}

/// None: a problem was found.
fn inputs(sample: &ModelWarmup, findings: &mut Findings) -> Option<Vec<SampleInput>> {
    let before = findings.problems.len();
    let mut inputs = Vec::new();
    for (name, input) in &sample.inputs {
        let place = format!("model_warmup '{}' input '{name}'", sample.name);
        let Some(datatype) = DataType::from_config_type(input.data_type()) else {
            findings.problem(format!("{place} must specify 'data_type'"));
            continue;
        };
        if let Some(size) = input.dims.iter().find(|size| **size < 1) {
            findings.problem(format!(
                "{place} dimension must be integer >= 1, found {size}"
            ));
            continue;
        }
        match content(input) {
            Ok(content) => inputs.push(SampleInput {
                name: name.clone(),
                datatype,
                dims: input.dims.clone(),
                content,
            }),
            Err(reason) => findings.problem(format!("{place} {reason}")),
        }
    }
    (findings.problems.len() == before).then_some(inputs)
}

fn content(input: &Input) -> Result<Content, String> {
    match &input.input_data_type {
        Some(InputDataType::ZeroData(_)) => Ok(Content::Zero),
        Some(InputDataType::RandomData(_)) => Ok(Content::Random),
        Some(InputDataType::InputDataFile(name)) => {
            let leads_out = name.is_empty()
                || name.contains('\0')
                || name
                    .split(['/', '\\'])
                    .any(|part| matches!(part, "" | ".."));
            if leads_out {
                return Err(format!(
                    "input_data_file '{name}' is not in the folder 'warmup'"
                ));
            }
            Ok(Content::File(name.clone()))
        }
        None => Err("must say one of zero_data, random_data, input_data_file".to_owned()),
    }
}

/// Random numbers need not be good ones.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
const LARGEST_INPUT: usize = 256 << 20;

impl Sample {
    /// The request that it stands for, as the engine takes it. `files`: the content of each file that it names.
    ///
    /// # Errors
    /// It does not fit the model. One line.
    pub fn request(
        &self,
        signature: &Signature,
        reshapes: &Reshapes,
        files: &BTreeMap<String, Bytes>,
    ) -> Result<InferRequest, String> {
        let wrong = |reason: String| format!("model_warmup '{}' {reason}", self.name);
        let mut inputs = Vec::new();
        for input in &self.inputs {
            let found = signature
                .inputs
                .iter()
                .position(|spec| spec.name == input.name);
            let (name, index) = (&input.name, found);
            let index = index
                .ok_or_else(|| wrong(format!("has input '{name}', which the model has not")))?;
            let datatype = signature.inputs[index].datatype;
            if datatype != input.datatype {
                let (said, wanted) = (input.datatype, datatype);
                return Err(wrong(format!(
                    "has {said} for input '{name}', the model expects {wanted}"
                )));
            }
            let mut tensor = self
                .tensor(input, signature.batched, files)
                .map_err(wrong)?;
            reshapes.input(index, &mut tensor);
            inputs.push((index, tensor));
        }
        inputs.sort_by_key(|(index, _)| *index);
        for (index, spec) in signature.inputs.iter().enumerate() {
            if !spec.optional && !inputs.iter().any(|(given, _)| *given == index) {
                return Err(wrong(format!("has no input '{}'", spec.name)));
            }
        }
        Ok(InferRequest {
            inputs,
            outputs: (0..signature.outputs.len()).collect(),
            rows: self.rows(signature.batched),
            deadline: None,
            priority: 0,
            trace: None,
        })
    }

    fn rows(&self, batched: bool) -> usize {
        if batched {
            (self.batch_size as usize).max(1)
        } else {
            1
        }
    }

    fn tensor(
        &self,
        input: &SampleInput,
        batched: bool,
        files: &BTreeMap<String, Bytes>,
    ) -> Result<Tensor, String> {
        let rows = self.rows(batched);
        let elements = input.dims.iter().try_fold(1_usize, |product, size| {
            product.checked_mul(usize::try_from(*size).ok()?)
        });
        // An empty string is its length of zero, four bytes of zero.
        let width = input.datatype.size().unwrap_or(4);
        let row = elements.and_then(|elements| elements.checked_mul(width));
        let row = row.filter(|row| {
            row.checked_mul(rows)
                .is_some_and(|all| all <= LARGEST_INPUT)
        });
        let name = &input.name;
        let row = row.ok_or_else(|| format!("is too large in input '{name}'"))?;
        let data = match &input.content {
            Content::Zero => vec![0; row * rows],
            Content::Random => random(input.datatype, row * rows),
            Content::File(file) => {
                let content = files.get(file).cloned().unwrap_or_default();
                if content.len() != row && input.datatype.size().is_some() {
                    return Err(format!(
                        "expects {row} bytes for input '{name}', but the file '{file}' has {}",
                        content.len()
                    ));
                }
                content.repeat(rows)
            }
        };
        let mut shape: Vec<i64> = Vec::new();
        shape.extend(batched.then_some(i64::try_from(rows).unwrap_or(1)));
        shape.extend(&input.dims);
        Ok(Tensor {
            datatype: input.datatype,
            shape,
            data: Bytes::from(data),
        })
    }
}

/// Zeros and ones of the datatype, so that they are as good for indexes as for measures; strings are empty.
fn random(datatype: DataType, bytes: usize) -> Vec<u8> {
    let one: &[u8] = match datatype {
        DataType::Bool | DataType::Int8 | DataType::Uint8 => &[1],
        DataType::Int16 | DataType::Uint16 => &[1, 0],
        DataType::Int32 | DataType::Uint32 => &[1, 0, 0, 0],
        DataType::Int64 | DataType::Uint64 => &[1, 0, 0, 0, 0, 0, 0, 0],
        DataType::Fp16 => &[0, 0x3c],
        DataType::Bf16 => &[0x80, 0x3f],
        DataType::Fp32 => &[0, 0, 0x80, 0x3f],
        DataType::Fp64 => &[0, 0, 0, 0, 0, 0, 0xf0, 0x3f],
        DataType::Bytes => return vec![0; bytes],
    };
    let mut state = SEED;
    let mut data = vec![0; bytes];
    for element in data.chunks_exact_mut(one.len()) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        if state & 1 == 1 {
            element.copy_from_slice(one);
        }
    }
    data
}

#[cfg(test)]
mod tests;
