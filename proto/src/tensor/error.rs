//! What can be wrong with a tensor that a peer sent.

use super::DataType;

/// Longest name, and most dimensions, that an error repeats from a peer.
const REPEATED_CHARACTERS: usize = 64;
const REPEATED_DIMENSIONS: usize = 8;

/// A tensor that does not agree with itself. Messages carry the offending values, cut to a bounded length.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    #[error("datatype '{0}' is not one of the protocol's, such as FP32, INT64 or BYTES")]
    UnknownDataType(String),

    #[error("shape {shape} has the negative dimension {dimension}")]
    NegativeDimension { shape: String, dimension: i64 },

    #[error("shape {shape} has more elements than 64 bits can count")]
    TooManyElements { shape: String },

    #[error("{datatype} tensor of shape {shape} takes {expected} bytes, but {actual} were given")]
    ByteLength {
        datatype: DataType,
        shape: String,
        /// Wider than the count, so that no product of it with an element's size overflows.
        expected: u128,
        actual: usize,
    },

    #[error("{datatype} tensor has {expected} elements by its shape, but {actual} were given")]
    ElementCount {
        datatype: DataType,
        expected: u64,
        actual: u64,
    },

    #[error("BOOL tensor holds the byte {value} at offset {offset}, want 0 or 1")]
    BoolByte { value: u8, offset: usize },

    #[error(
        "BYTES tensor ends within the element at offset {offset}, which needs {needed} bytes where {left} are left"
    )]
    BytesTruncated {
        offset: usize,
        needed: usize,
        left: usize,
    },

    #[error(
        "BYTES element of {0} bytes is longer than the 4294967295 that its length field can say"
    )]
    BytesElementTooLong(usize),

    #[error("BYTES tensor of {rows} rows without elements exceeds the limit of {limit} rows")]
    TooManyEmptyRows { rows: usize, limit: usize },

    #[error("{datatype} has no typed contents, send it as raw contents")]
    NoTypedContents { datatype: DataType },

    #[error("{datatype} tensor has elements in {found}, want them in {wanted} alone")]
    WrongContents {
        datatype: DataType,
        wanted: &'static str,
        found: &'static str,
    },

    #[error("{value} at index {index} is outside the range of {datatype}")]
    OutOfRange {
        datatype: DataType,
        value: i64,
        index: usize,
    },
}

impl TensorError {
    pub(crate) fn unknown_datatype(name: &str) -> Self {
        Self::UnknownDataType(name.chars().take(REPEATED_CHARACTERS).collect())
    }
}

/// A shape as text, cut after its first dimensions: a peer may send any number of them.
pub(super) fn shape_text(shape: &[i64]) -> String {
    use std::fmt::Write;

    let mut text = String::from("[");
    for (axis, dimension) in shape.iter().take(REPEATED_DIMENSIONS).enumerate() {
        let comma = if axis == 0 { "" } else { "," };
        write!(text, "{comma}{dimension}").expect("writing to a String succeeds");
    }
    if shape.len() > REPEATED_DIMENSIONS {
        text.push_str(",…");
    }
    text.push(']');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_sent_is_cut_to_a_bounded_length() {
        assert_eq!(shape_text(&[]), "[]");
        assert_eq!(shape_text(&[2, -1]), "[2,-1]");
        assert_eq!(shape_text(&[1; 1000]), "[1,1,1,1,1,1,1,1,…]");
        let error = TensorError::unknown_datatype(&"é".repeat(100_000));
        assert!(error.to_string().len() < 300);
    }
}
