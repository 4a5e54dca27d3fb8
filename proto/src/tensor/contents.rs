//! Typed contents to raw bytes.
//!
//! Each datatype has one field of `InferTensorContents`; FP16 and BF16 have none. The smaller integers travel in
//! wider fields, so their values are checked against the range of the datatype.

use bytes::Bytes;

use super::{DataType, TensorError, element_count, encode_bytes_element};
use crate::inference::InferTensorContents;

/// Raw bytes of a tensor given by its typed contents.
///
/// # Errors
/// A shape that [`element_count`] refuses, another number of elements than it claims, elements in a field that
/// does not go with the datatype, or a value outside the datatype's range.
pub fn raw_from_contents(
    datatype: DataType,
    shape: &[i64],
    contents: &InferTensorContents,
) -> Result<Bytes, TensorError> {
    let expected = element_count(shape)?;
    let actual = sole_field(datatype, contents)?;
    if expected != actual as u64 {
        return Err(TensorError::ElementCount {
            datatype,
            expected,
            actual: actual as u64,
        });
    }
    let raw = match datatype {
        DataType::Bool => contents
            .bool_contents
            .iter()
            .copied()
            .map(u8::from)
            .collect(),
        DataType::Int8 => narrow(datatype, &contents.int_contents, i8::to_le_bytes)?,
        DataType::Int16 => narrow(datatype, &contents.int_contents, i16::to_le_bytes)?,
        DataType::Int32 => widen(&contents.int_contents, i32::to_le_bytes),
        DataType::Int64 => widen(&contents.int64_contents, i64::to_le_bytes),
        DataType::Uint8 => narrow(datatype, &contents.uint_contents, u8::to_le_bytes)?,
        DataType::Uint16 => narrow(datatype, &contents.uint_contents, u16::to_le_bytes)?,
        DataType::Uint32 => widen(&contents.uint_contents, u32::to_le_bytes),
        DataType::Uint64 => widen(&contents.uint64_contents, u64::to_le_bytes),
        DataType::Fp32 => widen(&contents.fp32_contents, f32::to_le_bytes),
        DataType::Fp64 => widen(&contents.fp64_contents, f64::to_le_bytes),
        DataType::Bytes => {
            let mut raw = Vec::new();
            for element in &contents.bytes_contents {
                encode_bytes_element(element, &mut raw)?;
            }
            raw
        }
        DataType::Fp16 | DataType::Bf16 => {
            return Err(TensorError::NoTypedContents { datatype });
        }
    };
    Ok(raw.into())
}

/// How many elements the datatype's own field holds, provided that no other field holds any.
fn sole_field(datatype: DataType, contents: &InferTensorContents) -> Result<usize, TensorError> {
    let fields = [
        ("bool_contents", contents.bool_contents.len()),
        ("int_contents", contents.int_contents.len()),
        ("int64_contents", contents.int64_contents.len()),
        ("uint_contents", contents.uint_contents.len()),
        ("uint64_contents", contents.uint64_contents.len()),
        ("fp32_contents", contents.fp32_contents.len()),
        ("fp64_contents", contents.fp64_contents.len()),
        ("bytes_contents", contents.bytes_contents.len()),
    ];
    let own = match datatype {
        DataType::Bool => 0,
        DataType::Int8 | DataType::Int16 | DataType::Int32 => 1,
        DataType::Int64 => 2,
        DataType::Uint8 | DataType::Uint16 | DataType::Uint32 => 3,
        DataType::Uint64 => 4,
        DataType::Fp32 => 5,
        DataType::Fp64 => 6,
        DataType::Bytes => 7,
        DataType::Fp16 | DataType::Bf16 => {
            return Err(TensorError::NoTypedContents { datatype });
        }
    };
    for (index, (found, length)) in fields.into_iter().enumerate() {
        if index != own && length != 0 {
            return Err(TensorError::WrongContents {
                datatype,
                wanted: fields[own].0,
                found,
            });
        }
    }
    Ok(fields[own].1)
}

/// Elements as they are. A plain loop over fixed-size chunks, which compiles to a copy of memory.
fn widen<T: Copy, const N: usize>(values: &[T], to_bytes: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    let mut raw = vec![0; values.len() * N];
    for (chunk, value) in raw.as_chunks_mut::<N>().0.iter_mut().zip(values) {
        *chunk = to_bytes(*value);
    }
    raw
}

/// Elements in a smaller type.
fn narrow<W, T, const N: usize>(
    datatype: DataType,
    values: &[W],
    to_bytes: impl Fn(T) -> [u8; N],
) -> Result<Vec<u8>, TensorError>
where
    W: Copy + Into<i64>,
    T: TryFrom<W>,
{
    let mut raw = vec![0; values.len() * N];
    for (index, (chunk, &value)) in raw
        .as_chunks_mut::<N>()
        .0
        .iter_mut()
        .zip(values)
        .enumerate()
    {
        let value = T::try_from(value).map_err(|_| TensorError::OutOfRange {
            datatype,
            value: value.into(),
            index,
        })?;
        *chunk = to_bytes(value);
    }
    Ok(raw)
}

#[cfg(test)]
mod tests {
    use super::super::{bytes_elements, check_raw};
    use super::*;

    fn contents(fill: impl FnOnce(&mut InferTensorContents)) -> InferTensorContents {
        let mut contents = InferTensorContents::default();
        fill(&mut contents);
        contents
    }

    /// Two elements in the field that goes with each datatype, and their raw bytes.
    fn pairs() -> Vec<(DataType, InferTensorContents, Vec<u8>)> {
        let int = || contents(|c| c.int_contents = vec![-2, 3]);
        let uint = || contents(|c| c.uint_contents = vec![2, 200]);
        vec![
            (
                DataType::Bool,
                contents(|c| c.bool_contents = vec![true, false]),
                vec![1, 0],
            ),
            (DataType::Int8, int(), vec![0xfe, 3]),
            (DataType::Int16, int(), vec![0xfe, 0xff, 3, 0]),
            (
                DataType::Int32,
                int(),
                vec![0xfe, 0xff, 0xff, 0xff, 3, 0, 0, 0],
            ),
            (
                DataType::Int64,
                contents(|c| c.int64_contents = vec![i64::MIN, 1]),
                [i64::MIN.to_le_bytes(), 1_i64.to_le_bytes()].concat(),
            ),
            (DataType::Uint8, uint(), vec![2, 200]),
            (DataType::Uint16, uint(), vec![2, 0, 200, 0]),
            (DataType::Uint32, uint(), vec![2, 0, 0, 0, 200, 0, 0, 0]),
            (
                DataType::Uint64,
                contents(|c| c.uint64_contents = vec![u64::MAX, 1]),
                [u64::MAX.to_le_bytes(), 1_u64.to_le_bytes()].concat(),
            ),
            (
                DataType::Fp32,
                contents(|c| c.fp32_contents = vec![1.5, f32::NAN]),
                [1.5_f32.to_le_bytes(), f32::NAN.to_le_bytes()].concat(),
            ),
            (
                DataType::Fp64,
                contents(|c| c.fp64_contents = vec![-0.0, 1e300]),
                [(-0.0_f64).to_le_bytes(), 1e300_f64.to_le_bytes()].concat(),
            ),
            (
                DataType::Bytes,
                contents(|c| c.bytes_contents = vec!["ab".into(), "".into()]),
                b"\x02\0\0\0ab\0\0\0\0".to_vec(),
            ),
        ]
    }

    #[test]
    fn each_field_becomes_raw_bytes() {
        for (datatype, contents, raw) in pairs() {
            let made = raw_from_contents(datatype, &[2, 1], &contents).unwrap();
            assert_eq!(made, raw, "{datatype}");
            assert_eq!(check_raw(datatype, &[2, 1], &made), Ok(()));
        }
    }

    #[test]
    fn a_field_of_another_datatype_is_refused() {
        for (datatype, mut contents, _) in pairs() {
            let spare = if datatype == DataType::Bool {
                contents.bytes_contents.push(Bytes::new());
                "bytes_contents"
            } else {
                contents.bool_contents.push(true);
                "bool_contents"
            };
            let error = raw_from_contents(datatype, &[2], &contents).unwrap_err();
            assert!(error.to_string().contains(spare), "{error}");
        }
        for datatype in [DataType::Fp16, DataType::Bf16] {
            let contents = InferTensorContents::default();
            assert_eq!(
                raw_from_contents(datatype, &[0], &contents),
                Err(TensorError::NoTypedContents { datatype })
            );
        }
    }

    #[test]
    fn the_number_of_elements_must_agree() {
        for (datatype, contents, _) in pairs() {
            for shape in [&[][..], &[0], &[1], &[3], &[2, 2], &[1 << 40]] {
                let error = raw_from_contents(datatype, shape, &contents).unwrap_err();
                assert!(matches!(error, TensorError::ElementCount { .. }), "{error}");
            }
        }
        let none = InferTensorContents::default();
        let empty = raw_from_contents(DataType::Fp32, &[0, 5], &none);
        assert_eq!(empty, Ok(Bytes::new()));
    }

    #[test]
    fn values_outside_the_range_are_refused() {
        for (datatype, value) in [
            (DataType::Int8, 128),
            (DataType::Int8, -129),
            (DataType::Int16, 32_768),
        ] {
            let contents = contents(|c| c.int_contents = vec![0, value]);
            assert_eq!(
                raw_from_contents(datatype, &[2], &contents),
                Err(TensorError::OutOfRange {
                    datatype,
                    value: value.into(),
                    index: 1
                })
            );
        }
        for (datatype, value) in [(DataType::Uint8, 256), (DataType::Uint16, 65_536)] {
            let contents = contents(|c| c.uint_contents = vec![value]);
            assert_eq!(
                raw_from_contents(datatype, &[1], &contents),
                Err(TensorError::OutOfRange {
                    datatype,
                    value: value.into(),
                    index: 0
                })
            );
        }
    }

    #[test]
    fn strings_keep_their_bytes() {
        let contents = contents(|c| c.bytes_contents = vec![Bytes::from_static(b"\xff\0")]);
        let raw = raw_from_contents(DataType::Bytes, &[], &contents).unwrap();
        let back: Vec<_> = bytes_elements(&raw).collect();
        assert_eq!(back, vec![Ok(&b"\xff\0"[..])]);
    }
}
