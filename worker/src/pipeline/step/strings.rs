//! Rows of BYTES tensors: one element each.

use forebay_proto::tensor::{DataType, bytes_elements, encode_bytes_element};

use super::{Input, StepError};
use crate::inference::Tensor;

/// The element of each row. A row may have dimensions of size 1 around its element.
pub fn rows(input: &Input) -> Result<Vec<&[u8]>, StepError> {
    if input.tensor.datatype != DataType::Bytes {
        return Err(super::wrong_type(input));
    }
    let shape = &input.tensor.shape;
    if !shape.iter().skip(1).all(|size| *size == 1) {
        return Err(StepError::Invalid(format!(
            "'{}' has the shape {shape:?}, but needs one element in each row",
            input.name
        )));
    }
    let elements: Result<Vec<&[u8]>, _> = bytes_elements(&input.tensor.data).collect();
    let elements = elements.map_err(|error| invalid(input, &error.to_string()))?;
    if elements.is_empty() {
        return Err(invalid(input, "there are no rows"));
    }
    Ok(elements)
}

/// The same as text.
pub fn texts(input: &Input) -> Result<Vec<&str>, StepError> {
    let text = |(row, bytes)| {
        std::str::from_utf8(bytes).map_err(|error| {
            let at = error.valid_up_to();
            invalid(input, &format!("row {row} is no UTF-8 text (at byte {at})"))
        })
    };
    rows(input)?.into_iter().enumerate().map(text).collect()
}

pub fn invalid(input: &Input, what: &str) -> StepError {
    StepError::Invalid(format!("'{}': {what}", input.name))
}

/// A BYTES tensor of `shape` with these elements.
pub fn tensor<'a>(
    shape: Vec<i64>,
    elements: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Tensor, StepError> {
    let mut data = Vec::new();
    for element in elements {
        encode_bytes_element(element, &mut data)
            .map_err(|error| StepError::Failed(error.to_string()))?;
    }
    Ok(Tensor {
        datatype: DataType::Bytes,
        shape,
        data: data.into(),
    })
}

/// The rows of a BYTES tensor with one element in each, in groups of at most `most` rows, and in at least `parts` of
/// about the same number where there are so many rows. The whole, if it cannot be split.
pub fn split_rows(tensor: &Tensor, parts: usize, most: usize) -> Vec<Tensor> {
    let mut ends = Vec::new();
    let mut elements = bytes_elements(&tensor.data);
    while let Some(Ok(_)) = elements.next() {
        ends.push(elements.offset());
    }
    let one_each = tensor.shape.iter().skip(1).all(|size| *size == 1)
        && tensor
            .shape
            .first()
            .is_some_and(|rows| usize::try_from(*rows) == Ok(ends.len()));
    if ends.is_empty() || !one_each {
        return vec![tensor.clone()];
    }
    let group = ends.len().div_ceil(parts.max(1)).min(most.max(1));
    let mut start = 0;
    let groups = ends.chunks(group).map(|ends| {
        let end = ends.last().copied().unwrap_or(start);
        let mut shape = tensor.shape.clone();
        shape[0] = ends.len() as i64;
        let data = tensor.data.slice(start..end);
        start = end;
        Tensor {
            datatype: tensor.datatype,
            shape,
            data,
        }
    });
    groups.collect()
}
