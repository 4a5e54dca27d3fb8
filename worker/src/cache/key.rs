//! What makes two requests the same: the inputs with their datatypes, shapes and bytes, and the outputs wanted.
//!
//! Every field is preceded by its length, so no two requests are written down alike. Deadline, priority and trace
//! change no answer and are left out.

use forebay_cache::{Digest, Key};

use crate::inference::InferRequest;

/// The key of one request to one loaded version.
pub fn of(request: &InferRequest) -> Key {
    let mut digest = Digest::new();
    digest.number(request.inputs.len());
    for (index, tensor) in &request.inputs {
        digest.number(*index);
        digest.field(tensor.datatype.name().as_bytes());
        digest.number(tensor.shape.len());
        for size in &tensor.shape {
            digest.bytes(&size.to_le_bytes());
        }
        digest.field(&tensor.data);
    }
    digest.number(request.outputs.len());
    for output in &request.outputs {
        digest.number(*output);
    }
    digest.key()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use bytes::Bytes;
    use forebay_proto::tensor::DataType;

    use super::*;
    use crate::inference::Tensor;

    fn tensor(datatype: DataType, shape: &[i64], data: &'static [u8]) -> Tensor {
        Tensor {
            datatype,
            shape: shape.to_vec(),
            data: Bytes::from_static(data),
        }
    }

    fn request(inputs: Vec<(usize, Tensor)>, outputs: &[usize]) -> InferRequest {
        InferRequest {
            inputs,
            outputs: outputs.to_vec(),
            rows: 1,
            deadline: None,
            priority: 0,
            trace: None,
        }
    }

    #[test]
    fn whatever_changes_the_answer_changes_the_key() {
        use DataType::{Bool, Int8, Uint8};
        let variants = [
            request(vec![(0, tensor(Int8, &[1, 4], b"abcd"))], &[0]),
            request(vec![(0, tensor(Int8, &[1, 4], b"abce"))], &[0]),
            request(vec![(0, tensor(Int8, &[4, 1], b"abcd"))], &[0]),
            request(vec![(0, tensor(Int8, &[4], b"abcd"))], &[0]),
            request(vec![(0, tensor(Uint8, &[1, 4], b"abcd"))], &[0]),
            request(vec![(0, tensor(Bool, &[1, 4], b"abcd"))], &[0]),
            request(vec![(1, tensor(Int8, &[1, 4], b"abcd"))], &[0]),
            request(vec![(0, tensor(Int8, &[1, 4], b"abcd"))], &[1]),
            request(vec![(0, tensor(Int8, &[1, 4], b"abcd"))], &[0, 1]),
            request(vec![(0, tensor(Int8, &[1, 4], b"abcd"))], &[1, 0]),
            request(vec![(0, tensor(Int8, &[1, 4], b"abcd"))], &[]),
            request(vec![], &[0]),
            request(
                vec![
                    (0, tensor(Int8, &[2], b"ab")),
                    (1, tensor(Int8, &[2], b"cd")),
                ],
                &[0],
            ),
            request(
                vec![
                    (0, tensor(Int8, &[1], b"a")),
                    (1, tensor(Int8, &[3], b"bcd")),
                ],
                &[0],
            ),
        ];
        for (number, one) in variants.iter().enumerate() {
            for (other_number, other) in variants.iter().enumerate() {
                let same = of(one) == of(other);
                assert_eq!(same, number == other_number, "{one:?} {other:?}");
            }
        }
    }

    #[test]
    fn patience_and_priority_do_not() {
        let plain = request(vec![(0, tensor(DataType::Int8, &[1], b"a"))], &[0]);
        let hasty = InferRequest {
            deadline: Some(Instant::now() + Duration::from_secs(1)),
            priority: 3,
            ..plain.clone()
        };
        assert_eq!(of(&plain), of(&hasty));
    }
}
