//! How many rows an inference request has, read from the head of its message without decoding it.
//!
//! Rows are the first dimension of the first input, which for a model that batches is what a batch is counted in. For
//! one that does not, it is some size of the request, the same at every worker, and serves to compare requests just as
//! well. A sender cannot claim more rows than its message has bytes.

use forebay_proto::tensor;

use super::wire::{Reader, Stop};

/// Of `ModelInferRequest`: an input.
const INPUTS: u32 = 5;
/// Of an input.
const SHAPE: u32 = 3;

/// `body`: from its first byte, a gRPC frame with a `ModelInferRequest`; `length`: of all of it, of which `body` may be
/// a part. At least 1, also where nothing can be read.
pub fn of_framed(body: &[u8], length: usize) -> u32 {
    let Some((&[0, ..], message)) = body.split_first_chunk::<5>() else {
        return 1;
    };
    let first = first_dimension(message).ok().flatten();
    let rows = tensor::rows(first.as_slice());
    rows.min(u32::try_from(length).unwrap_or(u32::MAX)).max(1)
}

/// None: there is no input, or it has no dimension.
fn first_dimension(message: &[u8]) -> Result<Option<i64>, Stop> {
    let mut reader = Reader::new(message);
    while !reader.is_empty() {
        match reader.key()? {
            (INPUTS, 2) => return of_input(reader.delimited_head()?),
            (_, wire_type) => reader.skip(wire_type)?,
        }
    }
    Ok(None)
}

fn of_input(input: &[u8]) -> Result<Option<i64>, Stop> {
    let mut reader = Reader::new(input);
    while !reader.is_empty() {
        let first = match reader.key()? {
            // Packed, as proto3 writes it, or one by one.
            (SHAPE, 2) => {
                let packed = reader.delimited()?;
                if packed.is_empty() {
                    continue;
                }
                Reader::new(packed).varint()?
            }
            (SHAPE, 0) => reader.varint()?,
            (_, wire_type) => {
                reader.skip(wire_type)?;
                continue;
            }
        };
        return Ok(Some(first.cast_signed()));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use forebay_proto::framing;
    use forebay_proto::inference::ModelInferRequest;
    use forebay_proto::inference::model_infer_request::InferInputTensor;
    use proptest::prelude::*;

    use super::*;

    fn framed(shapes: &[&[i64]], bytes: usize) -> Vec<u8> {
        let input = |shape: &&[i64]| InferInputTensor {
            name: "input".into(),
            datatype: "UINT8".into(),
            shape: shape.to_vec(),
            ..Default::default()
        };
        let request = ModelInferRequest {
            model_name: "m".into(),
            id: "7".into(),
            inputs: shapes.iter().map(input).collect(),
            raw_input_contents: vec![vec![0; bytes].into()],
            ..Default::default()
        };
        framing::frame(&request).unwrap().to_vec()
    }

    fn rows(body: &[u8]) -> u32 {
        of_framed(body, body.len())
    }

    #[test]
    fn the_first_dimension_of_the_first_input_counts() {
        for (shapes, want) in [
            (&[&[8, 3][..], &[2, 2]][..], 8),
            (&[&[1][..]], 1),
            (&[&[300, 128][..]], 300),
            (&[&[][..], &[9]], 1),
            (&[], 1),
            (&[&[0, 4][..]], 1),
            (&[&[-1, 4][..]], 1),
        ] {
            assert_eq!(rows(&framed(shapes, 512)), want, "{shapes:?}");
        }
    }

    #[test]
    fn nobody_claims_more_rows_than_bytes() {
        let body = framed(&[&[i64::MAX]], 100);
        assert_eq!(rows(&body), u32::try_from(body.len()).unwrap());
        assert_eq!(of_framed(&body, usize::MAX), tensor::MOST_ROWS);
    }

    #[test]
    fn the_head_of_a_message_suffices() {
        let body = framed(&[&[8, 3][..]], 4096);
        let end = body.windows(2).position(|pair| pair == [8, 3]).unwrap() + 2;
        assert_eq!(of_framed(&body[..end], body.len()), 8);
        assert_eq!(of_framed(&body[..end - 3], body.len()), 1);
    }

    #[test]
    fn dimensions_one_by_one_are_read_too() {
        let input = [SHAPE as u8 * 8, 6, SHAPE as u8 * 8, 2];
        let mut body = vec![0, 0, 0, 0, 6, INPUTS as u8 * 8 + 2, 4];
        body.extend(input);
        assert_eq!(rows(&body), 6);
    }

    #[test]
    fn what_cannot_be_read_is_one_row() {
        let mut compressed = framed(&[&[8]], 10);
        compressed[0] = 1;
        for body in [&compressed[..], b"", b"\0\0\0", b"\0\0\0\0\x01\0"] {
            assert_eq!(rows(body), 1, "{body:?}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_at_least_one_row(mut bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Some(flag) = bytes.first_mut() {
                *flag = 0;
            }
            prop_assert!((1..=64).contains(&rows(&bytes)));
        }
    }
}
