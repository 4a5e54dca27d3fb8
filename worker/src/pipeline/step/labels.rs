//! `labels`: scores of classes → the best of them by name.

use std::path::Path;

use forebay_config::worker::Labels as Config;
use forebay_proto::tensor::DataType;

use super::{Input, StepError, Transform, bounds, pooling, strings, unknown_port};
use crate::inference::Tensor;
use crate::pipeline::plan::{Expected, Given, Made, Typed};

/// Bytes that are sorted in a fraction of a millisecond.
const QUICK_BYTES: usize = 64 << 10;

pub struct Labels {
    labels: Vec<String>,
    top: usize,
    softmax: bool,
}

impl Labels {
    pub fn load(config: &Config, repository: &Path) -> Result<Self, String> {
        let file = repository.join(&config.file);
        let text = std::fs::read_to_string(&file)
            .map_err(|error| format!("cannot read the labels '{}': {error}", file.display()))?;
        let labels = parse(&text);
        if labels.is_empty() {
            return Err(format!("the labels '{}' are empty", file.display()));
        }
        let top = usize::try_from(config.top).unwrap_or(usize::MAX);
        Ok(Self {
            top: top.min(labels.len()),
            labels,
            softmax: config.softmax,
        })
    }

    /// The best classes of a row with their scores, best first; of equal ones the first.
    fn best(&self, scores: &[f32]) -> Vec<(usize, f32)> {
        let mut ranked: Vec<(usize, f32)> = scores.iter().copied().enumerate().collect();
        // NaN is no score: it comes last.
        let key = |score: f32| {
            if score.is_nan() {
                f32::NEG_INFINITY
            } else {
                score
            }
        };
        ranked.sort_by(|(a, one), (b, other)| key(*other).total_cmp(&key(*one)).then(a.cmp(b)));
        ranked.truncate(self.top);
        ranked
    }
}

/// A JSON array of strings, or a label a line.
fn parse(text: &str) -> Vec<String> {
    if let Ok(labels) = serde_json::from_str::<Vec<String>>(text) {
        return labels;
    }
    text.lines()
        .map(|line| line.trim_end().to_owned())
        .collect()
}

impl Typed for Labels {
    fn takes(&self, port: &str) -> Result<Expected, String> {
        match port {
            "scores" => Ok(Expected {
                datatypes: vec![DataType::Fp32, DataType::Fp16],
                shape: Some(vec![-1, -1]),
                usual: None,
                optional: false,
            }),
            _ => Err(unknown_port(port)),
        }
    }

    fn makes(&self, port: &str, given: &Given<'_>) -> Result<Made, String> {
        let classes = given
            .iter()
            .find_map(|(_, spec)| spec.shape.as_ref()?.last().copied());
        if let Some(classes) =
            classes.filter(|classes| *classes >= 0 && *classes != self.labels.len() as i64)
        {
            return Err(format!(
                "there are {} labels for {classes} classes",
                self.labels.len()
            ));
        }
        let datatype = match port {
            "labels" => DataType::Bytes,
            "scores" => DataType::Fp32,
            "indices" => DataType::Int64,
            _ => return Err(unknown_port(port)),
        };
        Ok(Made {
            datatype,
            shape: Some(vec![-1, self.top as i64]),
        })
    }

    fn needs(&self) -> Vec<&str> {
        vec!["scores"]
    }

    fn batched(&self) -> bool {
        true
    }
}

impl Transform for Labels {
    fn check(&self, inputs: &[Input], ports: &[String]) -> Result<(), StepError> {
        let rows = super::row_count(super::needed(inputs, "scores")?);
        let label = self.labels.iter().map(String::len).max().unwrap_or(0);
        // A label takes its length and text, a score or an index 8 bytes at most.
        let class = ports.len().saturating_mul(label.max(4).saturating_add(4));
        bounds::bytes(rows, class.saturating_mul(self.top)).map(drop)
    }

    fn run(&self, inputs: &[Input], ports: &[String]) -> Result<Vec<Tensor>, StepError> {
        let input = super::needed(inputs, "scores")?;
        let [rows, classes] = super::sizes(input)?;
        if classes != self.labels.len() {
            let what = format!("{classes} classes for {} labels", self.labels.len());
            return Err(StepError::Failed(format!("'{}' has {what}", input.name)));
        }
        let mut scores = pooling::numbers(input)?;
        if self.softmax {
            scores.chunks_exact_mut(classes).for_each(softmax);
        }
        let best: Vec<(usize, f32)> = scores
            .chunks_exact(classes)
            .flat_map(|row| self.best(row))
            .collect();
        let shape = vec![rows as i64, self.top as i64];
        let tensor = |port: &String| match port.as_str() {
            "labels" => {
                let labels = best.iter().map(|(class, _)| self.labels[*class].as_bytes());
                strings::tensor(shape.clone(), labels)
            }
            "scores" => Ok(Tensor {
                datatype: DataType::Fp32,
                shape: shape.clone(),
                data: best
                    .iter()
                    .flat_map(|(_, score)| score.to_le_bytes())
                    .collect(),
            }),
            "indices" => Ok(Tensor {
                datatype: DataType::Int64,
                shape: shape.clone(),
                data: best
                    .iter()
                    .flat_map(|(class, _)| (*class as i64).to_le_bytes())
                    .collect(),
            }),
            port => Err(StepError::Failed(unknown_port(port))),
        };
        ports.iter().map(tensor).collect()
    }

    fn quick(&self, inputs: &[Input]) -> bool {
        inputs
            .iter()
            .all(|input| input.tensor.data.len() <= QUICK_BYTES)
    }
}

/// exp(x − max) / Σ, which never overflows.
fn softmax(row: &mut [f32]) {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for value in row.iter_mut() {
        *value = (*value - most).exp();
        sum += *value;
    }
    for value in row.iter_mut() {
        *value /= sum;
    }
}
