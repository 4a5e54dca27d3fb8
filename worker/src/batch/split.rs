//! Cuts the rows of a request in two without copying them, and puts the answers of the parts together again.

use bytes::{Bytes, BytesMut};

use crate::inference::{InferRequest, Tensor};

/// The first `rows` rows of a request that has more, and the rest; `None` if its tensors cannot be cut there.
pub fn split(request: &InferRequest, rows: usize) -> Option<(InferRequest, InferRequest)> {
    let rest = request.rows.checked_sub(rows)?;
    let mut inputs = (
        Vec::with_capacity(request.inputs.len()),
        Vec::with_capacity(request.inputs.len()),
    );
    for (index, tensor) in &request.inputs {
        let at = row_end(tensor, rows, request.rows)?;
        inputs
            .0
            .push((*index, part(tensor, rows, tensor.data.slice(..at))));
        inputs
            .1
            .push((*index, part(tensor, rest, tensor.data.slice(at..))));
    }
    let request = |inputs, rows| InferRequest {
        inputs,
        rows,
        outputs: request.outputs.clone(),
        deadline: request.deadline,
        priority: request.priority,
        trace: request.trace.clone(),
    };
    Some((request(inputs.0, rows), request(inputs.1, rest)))
}

/// The outputs of parts with so many rows each, as if they had been run as one. Copies. `None` if an output does
/// not have a row for each row of its part, or looks different from part to part.
pub fn join(parts: &[(usize, Vec<Tensor>)]) -> Option<Vec<Tensor>> {
    let (_, first) = parts.first()?;
    let output = |position: usize, first: &Tensor| {
        let (_, row) = first.shape.split_first()?;
        let mut bytes = 0;
        let mut all_rows = 0usize;
        for (rows, outputs) in parts {
            let tensor = outputs.get(position)?;
            let (own_rows, own_row) = tensor.shape.split_first()?;
            let same = own_row == row && tensor.datatype == first.datatype;
            if !same || usize::try_from(*own_rows) != Ok(*rows) {
                return None;
            }
            all_rows += rows;
            bytes += tensor.data.len();
        }
        let mut data = BytesMut::with_capacity(bytes);
        for (_, outputs) in parts {
            data.extend_from_slice(&outputs.get(position)?.data);
        }
        Some(part(first, all_rows, data.freeze()))
    };
    first
        .iter()
        .enumerate()
        .map(|(position, tensor)| output(position, tensor))
        .collect()
}

/// As `tensor`, with other rows.
fn part(tensor: &Tensor, rows: usize, data: Bytes) -> Tensor {
    let mut shape = tensor.shape.clone();
    if let Some(dimension) = shape.first_mut() {
        *dimension = i64::try_from(rows).unwrap_or(i64::MAX);
    }
    Tensor {
        datatype: tensor.datatype,
        shape,
        data,
    }
}

/// Where in the bytes the first `rows` of `all` rows end.
fn row_end(tensor: &Tensor, rows: usize, all: usize) -> Option<usize> {
    let (first, row) = tensor.shape.split_first()?;
    if usize::try_from(*first) != Ok(all) || all == 0 {
        return None;
    }
    if tensor.datatype.size().is_some() {
        return Some(tensor.data.len() / all * rows);
    }
    let row_elements = row.iter().try_fold(1usize, |product, dimension| {
        product.checked_mul(usize::try_from(*dimension).ok()?)
    })?;
    let mut end = 0usize;
    for _ in 0..row_elements.checked_mul(rows)? {
        let (length, _) = tensor.data.get(end..)?.split_first_chunk()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        end = end.checked_add(size_of::<u32>() + length)?;
    }
    (end <= tensor.data.len()).then_some(end)
}

#[cfg(test)]
mod tests {
    use forebay_proto::tensor::{DataType, encode_bytes_element};
    use proptest::prelude::*;

    use super::*;

    fn tensor(datatype: DataType, shape: &[i64], data: Vec<u8>) -> Tensor {
        Tensor {
            datatype,
            shape: shape.to_vec(),
            data: Bytes::from(data),
        }
    }

    fn strings(elements: &[String], width: usize) -> Tensor {
        let mut data = Vec::new();
        for element in elements {
            encode_bytes_element(element.as_bytes(), &mut data).unwrap();
        }
        let rows = (elements.len() / width) as i64;
        tensor(DataType::Bytes, &[rows, width as i64], data)
    }

    fn request(tensors: Vec<Tensor>, rows: usize) -> InferRequest {
        InferRequest {
            inputs: tensors.into_iter().enumerate().collect(),
            outputs: vec![0],
            rows,
            deadline: None,
            priority: 3,
            trace: None,
        }
    }

    #[test]
    fn rows_are_cut_without_a_copy() {
        let whole = request(
            vec![tensor(DataType::Uint16, &[3, 2], (0..12).collect())],
            3,
        );
        let (first, rest) = split(&whole, 1).unwrap();
        assert_eq!((first.rows, rest.rows, rest.priority), (1, 2, 3));
        assert_eq!(first.inputs[0].1.shape, [1, 2]);
        assert_eq!(&rest.inputs[0].1.data[..], [4, 5, 6, 7, 8, 9, 10, 11]);
        let sent = &whole.inputs[0].1.data;
        assert_eq!(first.inputs[0].1.data.as_ptr(), sent.as_ptr());
    }

    #[test]
    fn what_is_not_by_row_is_not_cut_and_not_put_together() {
        let crooked = tensor(DataType::Uint8, &[3], vec![0; 3]);
        assert!(split(&request(vec![crooked], 2), 1).is_none());
        let scalar = tensor(DataType::Uint8, &[], vec![0]);
        assert!(split(&request(vec![scalar.clone()], 2), 1).is_none());
        let broken = tensor(DataType::Bytes, &[2], vec![9, 0, 0, 0, 1]);
        assert!(split(&request(vec![broken], 2), 1).is_none());

        let row = |width: i64| tensor(DataType::Uint8, &[1, width], vec![0; width as usize]);
        assert!(join(&[(1, vec![row(2)]), (1, vec![row(3)])]).is_none());
        assert!(join(&[(1, vec![row(2)]), (2, vec![row(2)])]).is_none());
        assert!(join(&[(1, vec![row(2)]), (1, vec![])]).is_none());
        assert!(join(&[(1, vec![scalar])]).is_none());
        assert!(join(&[]).is_none());
    }

    proptest! {
        #[test]
        fn parts_make_the_whole_again(
            elements in proptest::collection::vec(".{0,6}", 2..40),
            cuts in proptest::collection::vec(1usize..6, 1..20),
        ) {
            let rows = elements.len() / 2;
            let text = strings(&elements[..rows * 2], 2);
            let numbers = (0..rows as u32).flat_map(|row| row.to_le_bytes()).collect();
            let whole = request(vec![text, tensor(DataType::Uint32, &[rows as i64], numbers)], rows);
            let tensors = |request: InferRequest| request.inputs.into_iter().map(|(_, tensor)| tensor).collect();
            let mut rest = whole.clone();
            let mut parts: Vec<(usize, Vec<Tensor>)> = Vec::new();
            for cut in cuts {
                if cut >= rest.rows {
                    break;
                }
                let (first, remaining) = split(&rest, cut).unwrap();
                prop_assert_eq!(first.rows, cut);
                parts.push((cut, tensors(first)));
                rest = remaining;
            }
            parts.push((rest.rows, tensors(rest)));
            let joined: Vec<Tensor> = join(&parts).unwrap();
            prop_assert_eq!(joined, tensors(whole));
        }
    }
}
