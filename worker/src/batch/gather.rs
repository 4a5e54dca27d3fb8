//! Stacks the inputs of a batch into buffers that are used again and again.
//!
//! A single request whose bytes happen to be aligned is handed over as it is. Everything else is copied once.
//! BYTES rows need no special care: framed elements are stacked by putting them one after the other.

use bytes::Bytes;
use zerocopy::IntoBytes;

use crate::engine::BoundTensor;
use crate::inference::InferRequest;

/// One buffer per position in the batch's list of inputs, in words so that every element type is aligned.
#[derive(Debug, Default)]
pub struct Gather {
    buffers: Vec<Vec<u64>>,
}

impl Gather {
    /// The inputs of all requests as one; the requests are of one group, `rows` altogether.
    pub fn gather<'a>(
        &'a mut self,
        requests: &[&'a InferRequest],
        rows: usize,
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
                let tensor: &'a crate::inference::Tensor = tensor;
                let mut shape = tensor.shape.clone();
                let data = match requests {
                    [_] if aligned(&tensor.data, tensor.datatype.size().unwrap_or(1)) => {
                        &tensor.data[..]
                    }
                    [_] => stack(buffer, [&tensor.data].into_iter()),
                    _ => {
                        if let Some(dimension) = shape.first_mut() {
                            *dimension = i64::try_from(rows).unwrap_or(i64::MAX);
                        }
                        stack(
                            buffer,
                            requests
                                .iter()
                                .filter_map(|request| Some(&request.inputs.get(position)?.1.data)),
                        )
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

/// Puts the parts one after the other at the start of the buffer.
fn stack<'a, 'b>(
    buffer: &'a mut Vec<u64>,
    parts: impl Iterator<Item = &'b Bytes> + Clone,
) -> &'a [u8] {
    let total: usize = parts.clone().map(Bytes::len).sum();
    let words = total.div_ceil(size_of::<u64>());
    if buffer.len() < words {
        buffer.resize(words, 0);
    }
    let bytes = &mut buffer.as_mut_slice().as_mut_bytes()[..total];
    let mut rest = &mut *bytes;
    for part in parts {
        let (here, after) = rest.split_at_mut(part.len());
        here.copy_from_slice(part);
        rest = after;
    }
    bytes
}

fn aligned(data: &[u8], size: usize) -> bool {
    data.as_ptr().addr().is_multiple_of(size)
}

#[cfg(test)]
mod tests {
    use forebay_proto::tensor::DataType;

    use super::*;
    use crate::inference::Tensor;

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
        let bound = gather.gather(&[&a, &b], 3);
        assert_eq!(bound.len(), 1);
        assert_eq!((bound[0].input, &bound[0].shape[..]), (3, &[3, 1][..]));
        assert_eq!(bound[0].data, &numbers(&[1, 2, 3])[..]);
        let address = bound[0].data.as_ptr().addr();
        let bound = gather.gather(&[&b, &a], 3);
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
        assert_eq!(gather.gather(&[&a], 1)[0].data.as_ptr(), straight.as_ptr());
        let bound = gather.gather(&[&b], 1);
        assert_eq!(bound[0].data, &crooked[..]);
        assert!(aligned(bound[0].data, 8));
    }

    #[test]
    fn the_shape_of_a_single_request_is_kept_even_without_rank() {
        let mut scalar = request(1, numbers(&[5]));
        scalar.inputs[0].1.shape = vec![];
        assert!(Gather::default().gather(&[&scalar], 1)[0].shape.is_empty());
    }
}
