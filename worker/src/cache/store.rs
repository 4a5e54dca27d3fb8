//! What is kept of an answer, and what that weighs.
//!
//! Kept tensors are copies: an answer is often a slice of a whole batch's output, and keeping the slice would keep
//! the batch.

use std::sync::Arc;

use bytes::Bytes;
use forebay_cache::Weigh;

use crate::inference::Tensor;

/// The outputs of one request.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept(Arc<[Tensor]>);

/// Bytes that an entry and each of its tensors take besides the data, roughly.
const ENTRY: usize = 160;
const TENSOR: usize = 96;

impl Kept {
    /// Copies of the tensors, which pin nothing else.
    pub fn copy(outputs: &[Tensor]) -> Kept {
        let copy = |tensor: &Tensor| Tensor {
            datatype: tensor.datatype,
            shape: tensor.shape.clone(),
            data: Bytes::copy_from_slice(&tensor.data),
        };
        Kept(outputs.iter().map(copy).collect())
    }

    pub fn outputs(&self) -> &[Tensor] {
        &self.0
    }
}

impl Weigh for Kept {
    fn weight(&self) -> u64 {
        weight(&self.0)
    }
}

/// Bytes that keeping these takes.
pub fn weight(outputs: &[Tensor]) -> u64 {
    let tensor = |tensor: &Tensor| TENSOR + tensor.shape.len() * 8 + tensor.data.len();
    (ENTRY + outputs.iter().map(tensor).sum::<usize>()) as u64
}

#[cfg(test)]
mod tests {
    use forebay_proto::tensor::DataType;

    use super::*;

    #[test]
    fn a_kept_slice_does_not_pin_the_batch() {
        let batch = Bytes::from(vec![1; 1_000]);
        let answer = [Tensor {
            datatype: DataType::Uint8,
            shape: vec![1, 10],
            data: batch.slice(20..30),
        }];
        let kept = Kept::copy(&answer);
        assert_eq!(kept.outputs(), answer);
        assert_eq!(kept.weight(), weight(&answer));
        drop(answer);
        assert!(batch.is_unique(), "somebody holds the batch");
    }
}
