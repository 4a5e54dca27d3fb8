//! What makes two requests the same: the inputs with their datatypes, shapes and bytes, and the outputs wanted.
//!
//! The key is a SHA-256 digest, and nothing is compared on a hit: nobody can make two requests with one key, so
//! nobody can plant an answer for others. A keyed fast hash would need the same trust in its secret and saves
//! little, since processors have instructions for this one. Every field is preceded by its length, so no two
//! requests are written down alike. Deadline, priority and trace change no answer and are left out.

use std::hash::{BuildHasherDefault, Hash, Hasher};

use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};

use crate::inference::InferRequest;

/// Of one request to one loaded version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key([u8; SHA256_OUTPUT_LEN]);

impl Key {
    pub fn of(request: &InferRequest) -> Key {
        let mut digest = Context::new(&SHA256);
        let mut number = Vec::with_capacity(256);
        let put = |buffer: &mut Vec<u8>, value: usize| {
            buffer.extend_from_slice(&(value as u64).to_le_bytes());
        };
        put(&mut number, request.inputs.len());
        for (index, tensor) in &request.inputs {
            put(&mut number, *index);
            put(&mut number, tensor.datatype.name().len());
            number.extend_from_slice(tensor.datatype.name().as_bytes());
            put(&mut number, tensor.shape.len());
            for size in &tensor.shape {
                number.extend_from_slice(&size.to_le_bytes());
            }
            put(&mut number, tensor.data.len());
            digest.update(&number);
            number.clear();
            digest.update(&tensor.data);
        }
        put(&mut number, request.outputs.len());
        for output in &request.outputs {
            put(&mut number, *output);
        }
        digest.update(&number);
        let digest = digest.finish();
        let bytes = digest.as_ref().try_into();
        Key(bytes.expect("SHA-256 has 32 bytes"))
    }
}

impl Hash for Key {
    /// A digest is as random as a hash can be: its first bytes are enough.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        state.write_u64(u64::from_le_bytes([a, b, c, d, e, f, g, h]));
    }
}

/// Hashes nothing further.
pub type Digested = BuildHasherDefault<Taken>;

/// The number it is given.
#[derive(Debug, Clone, Default)]
pub struct Taken(u64);

impl Hasher for Taken {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
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
                let same = Key::of(one) == Key::of(other);
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
        assert_eq!(Key::of(&plain), Key::of(&hasty));
    }
}
