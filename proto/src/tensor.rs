//! Tensors as the protocol sends them: datatype, shape, and elements as raw bytes.
//!
//! Raw bytes are little-endian and row-major. Everything here looks at what a peer claims and at what it sent,
//! decides whether the two agree, and never allocates in proportion to a claim. What shape or datatype a model
//! wants is not decided here.

mod contents;
mod datatype;
mod error;
mod shape;
mod strings;

pub use contents::raw_from_contents;
pub use datatype::DataType;
pub use error::TensorError;
pub use shape::{MOST_ROWS, check_raw, element_count, rows};
pub use strings::{
    BytesElements, bytes_elements, bytes_row_offsets, check_bytes, encode_bytes_element,
};
