//! `model_warmup`: requests to run before the model is called ready.

use forebay_proto::inference::model_warmup::Input;
use forebay_proto::inference::model_warmup::input::InputDataType;
use forebay_proto::inference::{ModelConfig, ModelWarmup};
use forebay_proto::tensor::DataType;

use super::Findings;

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
            Some(Sample {
                name: sample.name.clone(),
                batch_size: sample.batch_size,
                count: sample.count.max(1),
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
