//! Tensor data in JSON, to raw bytes and back: an array of the elements in row-major order, flat or nested.

mod cursor;
mod decimal;
mod read;
mod write;

pub(super) use read::read_data;
pub(super) use write::write_data;

use crate::tensor::{DataType, TensorError};

/// Data that is no tensor of its datatype and shape, or that JSON cannot say.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(super) enum DataError {
    #[error(transparent)]
    Tensor(#[from] TensorError),

    #[error("{0} has no JSON form, send and request it as binary data")]
    NoJson(DataType),

    #[error("data is {found}, want an array")]
    NotArray { found: &'static str },

    #[error("element {index} is {found}, want {wanted}")]
    WrongType {
        index: u64,
        found: &'static str,
        wanted: &'static str,
    },

    #[error("element {index}, {token}, is not a value of {datatype}")]
    Value {
        index: u64,
        token: String,
        datatype: DataType,
    },

    #[error("element {index} is no string of Unicode characters: {reason}")]
    Text { index: u64, reason: String },

    #[error("arrays are nested deeper than the {rank} dimensions of the shape")]
    TooDeep { rank: usize },

    #[error("element {index} stands outside the innermost of the shape's {rank} dimensions")]
    TooShallow { index: u64, rank: usize },

    #[error("an array of dimension {axis} has {actual} members, but the shape says {expected}")]
    Length {
        axis: usize,
        expected: u64,
        actual: Actual,
    },

    #[error("element {index} is {value}, for which JSON has no number, request binary data")]
    NotFinite { index: usize, value: f64 },

    #[error("element {index} is not UTF-8, which JSON requires, request binary data")]
    NotUtf8 { index: usize },
}

/// How many members an array has; past the wanted number nobody counts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Actual {
    Exactly(u64),
    More,
}

impl std::fmt::Display for Actual {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exactly(count) => write!(formatter, "{count}"),
            Self::More => formatter.write_str("more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;
    use crate::tensor::encode_bytes_element;

    /// Raw elements of a datatype that JSON can say: finite numbers, booleans, text.
    fn raw_elements(datatype: DataType, seeds: &[u64]) -> Vec<u8> {
        let mut raw = Vec::new();
        for &seed in seeds {
            match datatype {
                DataType::Bool => raw.push((seed & 1) as u8),
                DataType::Fp32 => {
                    let value = f32::from_bits(seed as u32);
                    let value = if value.is_finite() { value } else { 0.1 };
                    raw.extend(value.to_le_bytes());
                }
                DataType::Fp64 => {
                    let value = f64::from_bits(seed);
                    let value = if value.is_finite() { value } else { 0.1 };
                    raw.extend(value.to_le_bytes());
                }
                DataType::Bytes => {
                    let text: String = char::from_u32(seed as u32 % 0x11_0000)
                        .into_iter()
                        .chain(['"', '\\', '\n'])
                        .collect();
                    encode_bytes_element(text.as_bytes(), &mut raw).unwrap();
                }
                other => {
                    let size = other.size().unwrap();
                    raw.extend(&seed.to_le_bytes()[..size]);
                }
            }
        }
        raw
    }

    fn with_json_form() -> impl Strategy<Value = DataType> {
        let datatypes = DataType::ALL.into_iter();
        let halves = [DataType::Fp16, DataType::Bf16];
        prop::sample::select(
            datatypes
                .filter(|one| !halves.contains(one))
                .collect::<Vec<_>>(),
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back_bit_for_bit(datatype in with_json_form(), seeds: Vec<u64>) {
            let raw = raw_elements(datatype, &seeds);
            let mut json = Vec::new();
            write_data(datatype, &raw, &mut json).unwrap();
            let json: &RawValue = serde_json::from_slice(&json).unwrap();
            let back = read_data(datatype, &[seeds.len() as i64], json).unwrap();
            prop_assert_eq!(back, raw);
        }
    }
}
