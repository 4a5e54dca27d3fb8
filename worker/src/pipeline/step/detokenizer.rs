//! `detokenizer`: token ids → text.

use std::path::Path;

use forebay_config::worker::Detokenizer as Config;
use forebay_proto::tensor::DataType;

use super::{Input, StepError, Transform, bounds, strings, unknown_port};
use crate::inference::Tensor;
use crate::pipeline::plan::{Expected, Given, Made, Typed};

/// Bytes of ids that take a fraction of a millisecond.
const QUICK_BYTES: usize = 8 << 10;

/// Rows of any size, if only empty ones.
const QUICK_ROWS: usize = 1 << 10;

pub struct Detokenizer {
    tokenizer: tokenizers::Tokenizer,
    skip_special_tokens: bool,
}

impl Detokenizer {
    pub fn load(config: &Config, repository: &Path) -> Result<Self, String> {
        Ok(Self {
            tokenizer: super::tokenizer::read(&repository.join(&config.file))?,
            skip_special_tokens: config.skip_special_tokens,
        })
    }
}

impl Typed for Detokenizer {
    fn takes(&self, port: &str) -> Result<Expected, String> {
        match port {
            "ids" => Ok(Expected {
                datatypes: vec![DataType::Int64, DataType::Int32],
                shape: Some(vec![-1, -1]),
                usual: None,
                optional: false,
            }),
            _ => Err(unknown_port(port)),
        }
    }

    fn makes(&self, _: &str, _: &Given<'_>) -> Result<Made, String> {
        Ok(Made {
            datatype: DataType::Bytes,
            shape: Some(vec![-1]),
        })
    }

    fn needs(&self) -> Vec<&str> {
        vec!["ids"]
    }

    fn batched(&self) -> bool {
        true
    }
}

impl Transform for Detokenizer {
    fn run(&self, inputs: &[Input], ports: &[String]) -> Result<Vec<Tensor>, StepError> {
        let input = super::needed(inputs, "ids")?;
        let [rows, length] = super::sizes(input)?;
        let ids = ids(input)?;
        let mut texts = Vec::with_capacity(rows);
        let mut bytes = 0usize;
        for row in 0..rows {
            let ids = ids
                .get(row * length..(row + 1) * length)
                .unwrap_or_default();
            let text = self.tokenizer.decode(ids, self.skip_special_tokens);
            let text = text.map_err(|error| strings::invalid(input, &error.to_string()))?;
            bytes = bytes.saturating_add(text.len());
            bounds::bytes(1, bytes)?;
            texts.push(text);
        }
        let tensor = strings::tensor(vec![rows as i64], texts.iter().map(String::as_bytes))?;
        Ok(ports.iter().map(|_| tensor.clone()).collect())
    }

    fn quick(&self, inputs: &[Input]) -> bool {
        inputs.iter().all(|input| {
            input.tensor.data.len() <= QUICK_BYTES && super::row_count(input) <= QUICK_ROWS
        })
    }
}

fn ids(input: &Input) -> Result<Vec<u32>, StepError> {
    let data = &input.tensor.data;
    let id = |id: i64| {
        u32::try_from(id).map_err(|_| strings::invalid(input, &format!("{id} is no token id")))
    };
    let (wide, _) = data.as_chunks();
    let (narrow, _) = data.as_chunks();
    match input.tensor.datatype {
        DataType::Int64 => wide
            .iter()
            .map(|bytes| id(i64::from_le_bytes(*bytes)))
            .collect(),
        DataType::Int32 => narrow
            .iter()
            .map(|bytes| id(i64::from(i32::from_le_bytes(*bytes))))
            .collect(),
        _ => Err(super::wrong_type(input)),
    }
}
