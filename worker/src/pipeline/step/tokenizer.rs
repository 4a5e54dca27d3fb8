//! `tokenizer`: text → token ids.
//!
//! A text far beyond what fits into the maximum number of tokens is not read to its end: a beginning of it is
//! tokenised, twice as long each time, until it fills a row. Cuts are made before white space where there is
//! some, so that the tokens before them are those of the whole text.

use std::path::Path;

use forebay_config::worker::{IdType, PadTo, Tokenizer as Config};
use forebay_proto::tensor::DataType;
use tokenizers::{
    EncodeInput, Encoding, TruncationDirection, TruncationParams, TruncationStrategy,
};

use super::{Input, StepError, Transform, bounds, strings, unknown_port};
use crate::inference::Tensor;
use crate::pipeline::plan::{Expected, Given, Made, Typed};

const DEFAULT_MAX_LENGTH: usize = 512;
/// Bytes of text that take a fraction of a millisecond.
const QUICK_BYTES: usize = 4 << 10;
/// Bytes of a text that are looked at first, for each token that fits in. A token of European languages is
/// about five bytes long, one of Chinese three.
const BYTES_PER_TOKEN: usize = 16;
/// More is read of no text, whatever it holds: a row of white space never fills up.
const MOST_BYTES: usize = 512 << 10;

pub struct Tokenizer {
    tokenizer: tokenizers::Tokenizer,
    special_tokens: bool,
    max_length: usize,
    pad_to: PadTo,
    pad_left: bool,
    pad_id: u32,
    pad_type_id: u32,
    datatype: IdType,
}

impl Tokenizer {
    pub fn load(config: &Config, repository: &Path) -> Result<Self, String> {
        let mut tokenizer = read(&repository.join(&config.file))?;
        let said = tokenizer.get_truncation().cloned();
        let max_length = match (config.max_length, &said) {
            (Some(length), _) => usize::try_from(length).unwrap_or(usize::MAX),
            (None, Some(said)) => said.max_length,
            (None, None) => DEFAULT_MAX_LENGTH,
        };
        let padding = tokenizer.get_padding().cloned();
        let pad_id = padding.as_ref().map(|padding| padding.pad_id);
        let known = ["[PAD]", "<pad>", "<|endoftext|>"];
        let pad_id = pad_id.or_else(|| known.iter().find_map(|token| tokenizer.token_to_id(token)));
        tokenizer.with_padding(None);
        let truncation = TruncationParams {
            direction: said.map_or(TruncationDirection::Right, |said| said.direction),
            max_length,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
        };
        tokenizer
            .with_truncation(Some(truncation))
            .map_err(|error| {
                format!(
                    "'{}' cannot be cut to {max_length} tokens: {error}",
                    config.file.display()
                )
            })?;
        Ok(Self {
            tokenizer,
            special_tokens: config.special_tokens,
            max_length,
            pad_to: config.pad_to,
            pad_left: padding.as_ref().is_some_and(|padding| {
                matches!(padding.direction, tokenizers::PaddingDirection::Left)
            }),
            pad_id: pad_id.unwrap_or(0),
            pad_type_id: padding.map_or(0, |padding| padding.pad_type_id),
            datatype: config.datatype,
        })
    }

    fn encode(&self, text: &str, pair: Option<&str>) -> Result<Encoding, StepError> {
        let from_the_left = self
            .tokenizer
            .get_truncation()
            .is_some_and(|truncation| matches!(truncation.direction, TruncationDirection::Left));
        let mut bytes = self.max_length.saturating_mul(BYTES_PER_TOKEN);
        loop {
            let last = bytes >= MOST_BYTES;
            let part = |text: &'_ str| match from_the_left {
                true => end(text, bytes.min(MOST_BYTES)),
                false => beginning(text, bytes.min(MOST_BYTES)),
            };
            let cut = [Some(text), pair].map(|text| text.map(|text| text[part(text)].to_owned()));
            let whole = [Some(text), pair]
                .iter()
                .zip(&cut)
                .all(|(text, cut)| text.map(str::len) == cut.as_ref().map(String::len));
            let [first, second] = cut;
            let first = first.unwrap_or_default();
            let input: EncodeInput<'_> = match second {
                Some(second) => (first, second).into(),
                None => first.into(),
            };
            let encoding = self.tokenizer.encode_fast(input, self.special_tokens);
            let encoding = encoding.map_err(|error| StepError::Failed(error.to_string()))?;
            if whole || last || encoding.len() >= self.max_length {
                return Ok(encoding);
            }
            bytes = bytes.saturating_mul(2);
        }
    }

    fn part(&self, port: &str) -> Result<Part, StepError> {
        let (of, missing): (fn(&Encoding) -> &[u32], u32) = match port {
            "input_ids" => (Encoding::get_ids, self.pad_id),
            "attention_mask" => (Encoding::get_attention_mask, 0),
            "token_type_ids" => (Encoding::get_type_ids, self.pad_type_id),
            port => return Err(StepError::Failed(unknown_port(port))),
        };
        Ok(Part { of, missing })
    }

    fn width(&self) -> usize {
        match self.datatype {
            IdType::Int64 => 8,
            IdType::Int32 => 4,
        }
    }

    /// Bytes that a row of `length` tokens comes to in all `ports`.
    fn row_bytes(&self, length: usize, ports: &[String]) -> usize {
        length
            .saturating_mul(self.width())
            .saturating_mul(ports.len())
    }

    /// One number for each token and what stands in for missing ones, `length` of them a row.
    fn tensor(&self, rows: &[Vec<u32>], length: usize, missing: u32) -> Tensor {
        let mut data = Vec::with_capacity(rows.len() * length * self.width());
        let mut push = |id: u32| match self.datatype {
            IdType::Int64 => data.extend_from_slice(&i64::from(id).to_le_bytes()),
            IdType::Int32 => data.extend_from_slice(&id.to_le_bytes()),
        };
        for row in rows {
            let gap = std::iter::repeat_n(missing, length.saturating_sub(row.len()));
            if self.pad_left {
                gap.chain(row.iter().copied()).for_each(&mut push);
            } else {
                row.iter().copied().chain(gap).for_each(&mut push);
            }
        }
        Tensor {
            datatype: datatype(self.datatype),
            shape: vec![rows.len() as i64, length as i64],
            data: data.into(),
        }
    }
}

/// What a port shows of an encoding, and what stands in for missing tokens.
struct Part {
    of: fn(&Encoding) -> &[u32],
    missing: u32,
}

impl Typed for Tokenizer {
    fn takes(&self, port: &str) -> Result<Expected, String> {
        match port {
            "text" | "pair" => Ok(Expected {
                datatypes: vec![DataType::Bytes],
                shape: None,
                usual: Some(vec![-1]),
                optional: port == "pair",
            }),
            _ => Err(unknown_port(port)),
        }
    }

    fn makes(&self, _: &str, _: &Given<'_>) -> Result<Made, String> {
        let length = match self.pad_to {
            PadTo::Longest => -1,
            PadTo::MaxLength => self.max_length as i64,
        };
        Ok(Made {
            datatype: datatype(self.datatype),
            shape: Some(vec![-1, length]),
        })
    }

    fn needs(&self) -> Vec<&str> {
        vec!["text"]
    }

    fn batched(&self) -> bool {
        true
    }
}

impl Transform for Tokenizer {
    fn check(&self, inputs: &[Input], ports: &[String]) -> Result<(), StepError> {
        let rows = super::row_count(super::needed(inputs, "text")?);
        let least = match self.pad_to {
            PadTo::Longest => 1,
            PadTo::MaxLength => self.max_length,
        };
        bounds::bytes(rows, self.row_bytes(least, ports)).map(drop)
    }

    fn run(&self, inputs: &[Input], ports: &[String]) -> Result<Vec<Tensor>, StepError> {
        let texts = strings::texts(super::needed(inputs, "text")?)?;
        let pair = super::input(inputs, "pair");
        let pairs = pair.map(strings::texts).transpose()?;
        if let (Some(pairs), Some(pair)) = (&pairs, pair)
            && pairs.len() != texts.len()
        {
            let what = format!("{} rows for {} texts", pairs.len(), texts.len());
            return Err(strings::invalid(pair, &what));
        }
        let mut length = match self.pad_to {
            PadTo::Longest => 1,
            PadTo::MaxLength => self.max_length,
        };
        // Of an encoding, which is many times as large, only what is asked for is kept.
        let parts = ports.iter().map(|port| self.part(port));
        let parts = parts.collect::<Result<Vec<_>, _>>()?;
        let mut rows = vec![Vec::with_capacity(texts.len()); ports.len()];
        for (row, text) in texts.iter().enumerate() {
            let pair = pairs.as_ref().and_then(|pairs| pairs.get(row).copied());
            let encoding = self.encode(text, pair)?;
            length = length.max(encoding.len());
            bounds::bytes(texts.len(), self.row_bytes(length, ports))?;
            for (rows, part) in rows.iter_mut().zip(&parts) {
                rows.push((part.of)(&encoding).to_vec());
            }
        }
        let tensors = rows.iter().zip(&parts);
        Ok(tensors
            .map(|(rows, part)| self.tensor(rows, length, part.missing))
            .collect())
    }

    fn quick(&self, inputs: &[Input]) -> bool {
        inputs
            .iter()
            .map(|input| input.tensor.data.len())
            .sum::<usize>()
            <= QUICK_BYTES
    }
}

pub(super) fn read(file: &Path) -> Result<tokenizers::Tokenizer, String> {
    tokenizers::Tokenizer::from_file(file)
        .map_err(|error| format!("cannot read the tokenizer '{}': {error}", file.display()))
}

fn datatype(kind: IdType) -> DataType {
    match kind {
        IdType::Int64 => DataType::Int64,
        IdType::Int32 => DataType::Int32,
    }
}

/// The first bytes of `text`, at most so many.
fn beginning(text: &str, bytes: usize) -> std::ops::Range<usize> {
    if text.len() <= bytes {
        return 0..text.len();
    }
    let end = text.floor_char_boundary(bytes);
    let words = text[..end].rfind(char::is_whitespace);
    // A word that fills the second half is cut.
    0..words.filter(|words| *words >= end / 2).unwrap_or(end)
}

/// The last bytes of `text`, at most so many.
fn end(text: &str, bytes: usize) -> std::ops::Range<usize> {
    if text.len() <= bytes {
        return 0..text.len();
    }
    let start = text.ceil_char_boundary(text.len() - bytes);
    let words = text[start..].find(char::is_whitespace);
    let words = words.filter(|words| *words <= (text.len() - start) / 2);
    start + words.unwrap_or(0)..text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_are_made_between_words_where_there_are_some() {
        let text = "eins zwei drei vier";
        assert_eq!(&text[beginning(text, 12)], "eins zwei");
        assert_eq!(&text[beginning(text, 100)], text);
        assert_eq!(&text[end(text, 12)], " drei vier");
        assert_eq!(&text[end(text, 100)], text);
        let word = "ä".repeat(10);
        assert_eq!(&word[beginning(&word, 7)], "äää");
        assert_eq!(&word[end(&word, 7)], "äää");
    }
}
