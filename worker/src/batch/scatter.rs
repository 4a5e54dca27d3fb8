//! Cuts the outputs of a batch into the answers of its requests, without copying them.
//!
//! Only what was filled up costs a copy: the rows of a shorter request do not lie one after the other.

use forebay_proto::tensor::bytes_row_offsets;

use crate::batch::padding::LENGTH_AXIS;
use crate::inference::Tensor;

/// The outputs do not have one row per row of input: the model mixes or drops rows and must not be batched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("output {output} has shape {shape:?} for {rows} rows of input")]
pub struct NotByRow {
    pub output: usize,
    pub shape: Vec<i64>,
    pub rows: usize,
}

/// For every request (by its rows) the slice of every output.
///
/// # Errors
/// An output whose first dimension is not the number of rows, or that is not framed as it should be.
pub fn scatter(outputs: &[Tensor], rows: &[usize]) -> Result<Vec<Vec<Tensor>>, NotByRow> {
    let total: usize = rows.iter().sum();
    let mut answers: Vec<Vec<Tensor>> = rows
        .iter()
        .map(|_| Vec::with_capacity(outputs.len()))
        .collect();
    for (output, tensor) in outputs.iter().enumerate() {
        let ends = row_ends(tensor, rows, total).ok_or_else(|| NotByRow {
            output,
            shape: tensor.shape.clone(),
            rows: total,
        })?;
        let mut start = 0;
        for ((answer, rows), end) in answers.iter_mut().zip(rows).zip(ends) {
            let mut shape = tensor.shape.clone();
            if let Some(dimension) = shape.first_mut() {
                *dimension = i64::try_from(*rows).unwrap_or(i64::MAX);
            }
            answer.push(Tensor {
                datatype: tensor.datatype,
                shape,
                data: tensor.data.slice(start..end),
            });
            start = end;
        }
    }
    Ok(answers)
}

/// The first `length` places of axis 1, of `extent` that the tensor has; `None` if it has another number.
pub fn shorten(tensor: &Tensor, extent: usize, length: usize) -> Option<Tensor> {
    let size = |axis: usize| usize::try_from(*tensor.shape.get(axis)?).ok();
    if size(LENGTH_AXIS)? != extent || length > extent {
        return None;
    }
    if length == extent {
        return Some(tensor.clone());
    }
    let row_bytes = tensor.data.len() / size(0)?.max(1);
    let own_bytes = row_bytes / extent * length;
    let mut data = Vec::with_capacity(own_bytes * size(0)?);
    for row in tensor.data.chunks_exact(row_bytes.max(1)) {
        data.extend_from_slice(row.get(..own_bytes)?);
    }
    let mut shape = tensor.shape.clone();
    *shape.get_mut(LENGTH_AXIS)? = i64::try_from(length).ok()?;
    Some(Tensor {
        datatype: tensor.datatype,
        shape,
        data: data.into(),
    })
}

/// Where in the bytes each request's rows end.
fn row_ends(tensor: &Tensor, rows: &[usize], total: usize) -> Option<Vec<usize>> {
    let (first, row) = tensor.shape.split_first()?;
    if usize::try_from(*first) != Ok(total) {
        return None;
    }
    let row_elements = row.iter().try_fold(1usize, |product, dimension| {
        product.checked_mul(usize::try_from(*dimension).ok()?)
    })?;
    let passed = rows.iter().scan(0usize, |passed, rows| {
        *passed += rows;
        Some(*passed)
    });
    match tensor.datatype.size() {
        Some(size) => {
            let row_bytes = row_elements.checked_mul(size)?;
            if row_bytes.checked_mul(total)? != tensor.data.len() {
                return None;
            }
            Some(passed.map(|rows| rows * row_bytes).collect())
        }
        None => {
            let offsets = bytes_row_offsets(&tensor.data, total, row_elements).ok()?;
            passed.map(|rows| offsets.get(rows).copied()).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use forebay_proto::tensor::{DataType, encode_bytes_element};

    use super::*;

    fn tensor(datatype: DataType, shape: &[i64], data: Vec<u8>) -> Tensor {
        Tensor {
            datatype,
            shape: shape.to_vec(),
            data: Bytes::from(data),
        }
    }

    #[test]
    fn numbers_are_cut_by_rows_without_a_copy() {
        let output = tensor(DataType::Uint16, &[3, 2], (0..12).collect());
        let answers = scatter(std::slice::from_ref(&output), &[1, 2]).unwrap();
        assert_eq!(answers[0][0].shape, [1, 2]);
        assert_eq!(&answers[0][0].data[..], [0, 1, 2, 3]);
        assert_eq!(answers[1][0].shape, [2, 2]);
        assert_eq!(&answers[1][0].data[..], [4, 5, 6, 7, 8, 9, 10, 11]);
        assert_eq!(answers[0][0].data.as_ptr(), output.data.as_ptr());
    }

    #[test]
    fn strings_are_cut_by_rows() {
        let mut data = Vec::new();
        for element in [&b"a"[..], b"", b"ccc", b"dd"] {
            encode_bytes_element(element, &mut data).unwrap();
        }
        let answers = scatter(&[tensor(DataType::Bytes, &[2, 2], data.clone())], &[1, 1]).unwrap();
        assert_eq!(&answers[0][0].data[..], &data[..9]);
        assert_eq!(&answers[1][0].data[..], &data[9..]);
    }

    #[test]
    fn rows_without_elements_are_cut_too() {
        let answers = scatter(&[tensor(DataType::Fp32, &[3, 0], vec![])], &[1, 2]).unwrap();
        assert_eq!(answers[1][0].shape, [2, 0]);
        let answers = scatter(&[tensor(DataType::Bytes, &[3, 0], vec![])], &[1, 2]).unwrap();
        assert!(answers[1][0].data.is_empty());
    }

    #[test]
    fn outputs_that_are_not_by_row_are_refused() {
        for shape in [&[4i64, 1][..], &[], &[1, 4], &[2, 3]] {
            let output = tensor(DataType::Uint8, shape, vec![0; 4]);
            let error = scatter(&[output], &[1, 1]).unwrap_err();
            assert_eq!((error.output, error.rows), (0, 2));
        }
    }

    #[test]
    fn a_short_request_loses_the_filling_of_each_row() {
        let padded = tensor(DataType::Uint8, &[2, 3, 2], (0..12).collect());
        let own = shorten(&padded, 3, 2).unwrap();
        assert_eq!(own.shape, [2, 2, 2]);
        assert_eq!(&own.data[..], [0, 1, 2, 3, 6, 7, 8, 9]);
        let same = shorten(&padded, 3, 3).unwrap();
        assert_eq!(same.data.as_ptr(), padded.data.as_ptr(), "no copy");
        for (extent, length) in [(4, 2), (2, 1), (3, 4)] {
            assert_eq!(shorten(&padded, extent, length), None);
        }
        assert_eq!(
            shorten(&tensor(DataType::Uint8, &[3], vec![0; 3]), 3, 2),
            None
        );
        let empty = shorten(&tensor(DataType::Uint8, &[2, 3, 0], vec![]), 3, 2).unwrap();
        assert_eq!(empty.shape, [2, 2, 0]);
    }
}
