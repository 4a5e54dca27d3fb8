//! Stacks the inputs of a batch into buffers that are used again and again.
//!
//! A single request whose bytes happen to be aligned is handed over as it is. Everything else is copied once,
//! filling between the rows included. BYTES rows need no special care: framed elements are stacked by putting
//! them one after the other.

use bytes::Bytes;
use zerocopy::IntoBytes;

use crate::batch::padding::{Element, LENGTH_AXIS, Padding};
use crate::engine::BoundTensor;
use crate::inference::{InferRequest, Tensor};

/// One buffer per position in the batch's list of inputs, in words so that every element type is aligned.
#[derive(Debug, Default)]
pub struct Gather {
    buffers: Vec<Vec<u64>>,
}

/// Filling for a batch of requests of different lengths.
#[derive(Debug, Clone, Copy)]
pub struct Fill<'a> {
    pub padding: &'a Padding,
    /// What all rows are filled up to; no request is longer.
    pub length: usize,
}

impl Gather {
    /// The inputs of all requests as one; the requests are of one group, `rows` altogether. Without `fill` they
    /// are equal in every dimension but the rows.
    pub fn gather<'a>(
        &'a mut self,
        requests: &[&'a InferRequest],
        rows: usize,
        fill: Option<Fill<'_>>,
    ) -> Vec<BoundTensor<'a>> {
        let Some((first, _)) = requests.split_first() else {
            return Vec::new();
        };
        if self.buffers.len() < first.inputs.len() {
            self.buffers.resize_with(first.inputs.len(), Vec::new);
        }
        let slots = self.buffers.iter_mut().zip(&first.inputs).enumerate();
        let bind =
            |(position, (buffer, (input, tensor))): (usize, (&'a mut Vec<u64>, &'a (usize, _)))| {
                let tensor: &'a Tensor = tensor;
                let mut shape = tensor.shape.clone();
                let all = requests
                    .iter()
                    .filter_map(|request| Some(&request.inputs.get(position)?.1));
                let filling =
                    fill.and_then(|fill| Some((fill.padding.filling(*input)?, fill.length)));
                let data = match (requests, filling) {
                    (_, Some((element, length))) => {
                        set(&mut shape, 0, rows);
                        set(&mut shape, LENGTH_AXIS, length);
                        fill_up(buffer, &shape, element, all)
                    }
                    ([_], None) if aligned(&tensor.data, tensor.datatype.size().unwrap_or(1)) => {
                        &tensor.data[..]
                    }
                    ([_], None) => stack(buffer, [&tensor.data].into_iter()),
                    (_, None) => {
                        set(&mut shape, 0, rows);
                        stack(buffer, all.map(|tensor| &tensor.data))
                    }
                };
                BoundTensor {
                    input: *input,
                    datatype: tensor.datatype,
                    shape,
                    data,
                }
            };
        slots.map(bind).collect()
    }
}

fn set(shape: &mut [i64], axis: usize, size: usize) {
    if let Some(dimension) = shape.get_mut(axis) {
        *dimension = i64::try_from(size).unwrap_or(i64::MAX);
    }
}

/// Puts the rows one after the other, each followed by filling up to the length in `shape`.
fn fill_up<'a, 'b>(
    buffer: &'a mut Vec<u64>,
    shape: &[i64],
    element: Element,
    tensors: impl Iterator<Item = &'b Tensor>,
) -> &'a [u8] {
    let size = |dimension: &i64| usize::try_from(*dimension).unwrap_or(0);
    let elements: usize = shape.iter().map(size).product();
    let total = elements * element.width();
    let rows = shape.first().map_or(0, size);
    let bytes = room(buffer, total);
    if rows == 0 || total == 0 {
        return bytes;
    }
    let mut places = bytes.chunks_exact_mut(total / rows);
    for tensor in tensors {
        let own_rows = tensor.shape.first().map_or(0, size).max(1);
        let own_row = (tensor.data.len() / own_rows).max(1);
        for row in tensor.data.chunks_exact(own_row) {
            let Some(place) = places.next() else { break };
            let (sent, filled) = place.split_at_mut(own_row);
            sent.copy_from_slice(row);
            element.fill(filled);
        }
    }
    bytes
}

/// Puts the parts one after the other at the start of the buffer.
fn stack<'a, 'b>(
    buffer: &'a mut Vec<u64>,
    parts: impl Iterator<Item = &'b Bytes> + Clone,
) -> &'a [u8] {
    let total: usize = parts.clone().map(Bytes::len).sum();
    let bytes = room(buffer, total);
    let mut rest = &mut *bytes;
    for part in parts {
        let (here, after) = rest.split_at_mut(part.len());
        here.copy_from_slice(part);
        rest = after;
    }
    bytes
}

/// The first `total` bytes of the buffer, which grows if it must.
fn room(buffer: &mut Vec<u64>, total: usize) -> &mut [u8] {
    let words = total.div_ceil(size_of::<u64>());
    if buffer.len() < words {
        buffer.resize(words, 0);
    }
    &mut buffer.as_mut_slice().as_mut_bytes()[..total]
}

fn aligned(data: &[u8], size: usize) -> bool {
    data.as_ptr().addr().is_multiple_of(size)
}

#[cfg(test)]
mod tests {
    use forebay_proto::tensor::DataType;

    use super::*;

    fn request(rows: usize, data: Bytes) -> InferRequest {
        InferRequest {
            inputs: vec![(
                3,
                Tensor {
                    datatype: DataType::Int64,
                    shape: vec![rows as i64, 1],
                    data,
                },
            )],
            outputs: vec![0],
            rows,
            deadline: None,
            priority: 0,
            trace: None,
        }
    }

    fn numbers(values: &[i64]) -> Bytes {
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect::<Vec<u8>>()
            .into()
    }

    #[test]
    fn stacks_rows_in_order_and_reuses_the_buffer() {
        let mut gather = Gather::default();
        let (a, b) = (request(1, numbers(&[1])), request(2, numbers(&[2, 3])));
        let bound = gather.gather(&[&a, &b], 3, None);
        assert_eq!(bound.len(), 1);
        assert_eq!((bound[0].input, &bound[0].shape[..]), (3, &[3, 1][..]));
        assert_eq!(bound[0].data, &numbers(&[1, 2, 3])[..]);
        let address = bound[0].data.as_ptr().addr();
        let bound = gather.gather(&[&b, &a], 3, None);
        assert_eq!(bound[0].data, &numbers(&[2, 3, 1])[..]);
        assert_eq!(bound[0].data.as_ptr().addr(), address);
    }

    #[test]
    fn a_single_aligned_request_is_not_copied_and_an_unaligned_one_is() {
        let storage = [7u64, 0, 0];
        let bytes = Bytes::copy_from_slice(storage.as_bytes());
        let start = (0..8).find(|start| aligned(&bytes[*start..], 8)).unwrap();
        let (straight, crooked) = (
            bytes.slice(start..start + 8),
            bytes.slice(start + 1..start + 9),
        );
        let mut gather = Gather::default();
        let (a, b) = (request(1, straight.clone()), request(1, crooked.clone()));
        assert_eq!(
            gather.gather(&[&a], 1, None)[0].data.as_ptr(),
            straight.as_ptr()
        );
        let bound = gather.gather(&[&b], 1, None);
        assert_eq!(bound[0].data, &crooked[..]);
        assert!(aligned(bound[0].data, 8));
    }

    #[test]
    fn the_shape_of_a_single_request_is_kept_even_without_rank() {
        let mut scalar = request(1, numbers(&[5]));
        scalar.inputs[0].1.shape = vec![];
        assert!(
            Gather::default().gather(&[&scalar], 1, None)[0]
                .shape
                .is_empty()
        );
    }

    #[test]
    fn short_rows_are_filled_up() {
        use std::collections::BTreeMap;

        use forebay_config::worker::Padding as Config;

        use crate::batch::padding::Extent;
        use crate::inference::{Signature, TensorSpec};

        let spec = |name: &str| TensorSpec {
            name: name.to_owned(),
            datatype: DataType::Int64,
            shape: Some(vec![-1, -1]),
            optional: false,
        };
        let signature = Signature {
            inputs: ["a", "b", "c", "d"].map(spec).into(),
            outputs: vec![],
            batched: true,
        };
        let config = Config {
            inputs: BTreeMap::from([("d".to_owned(), 9.0)]),
            outputs: vec![],
            buckets: vec![],
        };
        let padding = Padding::new(&config, &signature, Extent::Longest).unwrap();
        let wide = |rows: usize, values: &[i64]| {
            let mut request = request(rows, numbers(values));
            request.inputs[0].1.shape = vec![rows as i64, (values.len() / rows) as i64];
            request
        };
        let (a, b) = (wide(2, &[1, 2]), wide(1, &[3, 4, 5]));
        let fill = Fill {
            padding: &padding,
            length: 3,
        };
        let mut gather = Gather::default();
        let bound = gather.gather(&[&a, &b], 3, Some(fill));
        assert_eq!(bound[0].shape, [3, 3]);
        assert_eq!(bound[0].data, &numbers(&[1, 9, 9, 2, 9, 9, 3, 4, 5])[..]);
        let bound = gather.gather(&[&a], 2, Some(fill));
        assert_eq!(bound[0].shape, [2, 3]);
        assert_eq!(bound[0].data, &numbers(&[1, 9, 9, 2, 9, 9])[..]);
    }
}
