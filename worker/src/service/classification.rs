//! The classification extension: an output's largest values as text, `value:index` or `value:index:label`.
//!
//! As in Triton: one row of a batch at a time, values with six decimals where they are not integers, the
//! largest first. Of equal values the lower index comes first, and NaN comes last; Triton leaves both open.
//!
//! Besides the text, which is bounded, only the best values of one row are held: 16 bytes for each class.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt::Write;

use bytes::{BufMut, BytesMut};
use forebay_proto::tensor::DataType;
use half::{bf16, f16};

use crate::inference::Tensor;

/// Bytes that a class takes at least: its length and `0:0`.
const SHORTEST: usize = 4 + 3;

/// One element, wide enough for every datatype. All elements of a tensor are the same variant.
#[derive(Debug, Clone, Copy)]
enum Score {
    Signed(i64),
    Unsigned(u64),
    Real(f64),
}

/// What of a tensor is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// So many of each row, or of the whole tensor if it has no batch axis.
    pub classes: usize,
    pub batched: bool,
    pub labels: &'a [String],
    /// Bytes of the text at most.
    pub limit: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoClasses {
    /// A datatype without an order.
    #[error("class result not available for output due to unsupported type '{0}'")]
    Unordered(DataType),
    #[error("class results exceed the {0} bytes that are left of an answer")]
    TooLarge(usize),
}

/// The largest values of each row.
///
/// # Errors
/// BOOL and BYTES, and more text than `asked` has room for.
pub fn classify(tensor: &Tensor, asked: Asked<'_>) -> Result<Tensor, NoClasses> {
    use Score::{Real, Signed, Unsigned};
    match tensor.datatype {
        DataType::Uint8 => best(tensor, asked, |it| Unsigned(u8::from_le_bytes(it).into())),
        DataType::Uint16 => best(tensor, asked, |it| Unsigned(u16::from_le_bytes(it).into())),
        DataType::Uint32 => best(tensor, asked, |it| Unsigned(u32::from_le_bytes(it).into())),
        DataType::Uint64 => best(tensor, asked, |it| Unsigned(u64::from_le_bytes(it))),
        DataType::Int8 => best(tensor, asked, |it| Signed(i8::from_le_bytes(it).into())),
        DataType::Int16 => best(tensor, asked, |it| Signed(i16::from_le_bytes(it).into())),
        DataType::Int32 => best(tensor, asked, |it| Signed(i32::from_le_bytes(it).into())),
        DataType::Int64 => best(tensor, asked, |it| Signed(i64::from_le_bytes(it))),
        DataType::Fp16 => best(tensor, asked, |it| Real(f16::from_le_bytes(it).into())),
        DataType::Bf16 => best(tensor, asked, |it| Real(bf16::from_le_bytes(it).into())),
        DataType::Fp32 => best(tensor, asked, |it| Real(f32::from_le_bytes(it).into())),
        DataType::Fp64 => best(tensor, asked, |it| Real(f64::from_le_bytes(it))),
        DataType::Bool | DataType::Bytes => Err(NoClasses::Unordered(tensor.datatype)),
    }
}

/// Of elements of `SIZE` bytes, which `read` understands.
fn best<const SIZE: usize>(
    tensor: &Tensor,
    asked: Asked<'_>,
    read: impl Fn([u8; SIZE]) -> Score,
) -> Result<Tensor, NoClasses> {
    let size = |dim: &i64| usize::try_from(*dim).unwrap_or(0);
    let (rows, row) = match tensor.shape.split_first() {
        Some((rows, row)) if asked.batched => (Some(size(rows)), row),
        _ => (None, &tensor.shape[..]),
    };
    let width: usize = row.iter().map(size).product();
    let classes = asked.classes.min(width);
    let elements = tensor.data.as_chunks::<SIZE>().0;
    let too_large = NoClasses::TooLarge(asked.limit);
    let least = (elements.len() / width.max(1)).saturating_mul(classes);
    if least.saturating_mul(SHORTEST) > asked.limit {
        return Err(too_large);
    }

    let mut data = BytesMut::new();
    let mut text = String::new();
    for row in elements.chunks_exact(width.max(1)) {
        for index in largest(row, classes, &read) {
            text.clear();
            read(row[index]).write(&mut text);
            write!(text, ":{index}").expect("writing to a String succeeds");
            if let Some(label) = asked.labels.get(index) {
                text.push(':');
                text.push_str(label);
            }
            if data.len() + size_of::<u32>() + text.len() > asked.limit {
                return Err(too_large);
            }
            data.put_u32_le(u32::try_from(text.len()).expect("a label is a line of a file"));
            data.put_slice(text.as_bytes());
        }
    }
    let dims = rows.into_iter().chain([classes]);
    Ok(Tensor {
        datatype: DataType::Bytes,
        shape: dims
            .map(|dim| i64::try_from(dim).unwrap_or(i64::MAX))
            .collect(),
        data: data.freeze(),
    })
}

/// Where the `classes` largest elements are, the largest first.
fn largest<const SIZE: usize>(
    row: &[[u8; SIZE]],
    classes: usize,
    read: impl Fn([u8; SIZE]) -> Score,
) -> impl Iterator<Item = usize> {
    // The least of them is on top.
    let mut best = BinaryHeap::with_capacity(classes);
    for (index, element) in row.iter().enumerate() {
        let candidate = Reverse((read(*element).rank(), Reverse(index)));
        if best.len() < classes {
            best.push(candidate);
        } else if let Some(mut least) = best.peek_mut()
            && candidate < *least
        {
            *least = candidate;
        }
    }
    let sorted = best.into_sorted_vec().into_iter();
    sorted.map(|Reverse((_, Reverse(index)))| index)
}

impl Score {
    /// Ordered as the values are; NaN is the least.
    fn rank(self) -> u64 {
        const SIGN: u64 = 1 << 63;
        match self {
            Score::Unsigned(value) => value,
            Score::Signed(value) => value.cast_unsigned() ^ SIGN,
            Score::Real(value) if value.is_nan() => 0,
            // Both zeros are equal.
            Score::Real(0.0) => SIGN,
            Score::Real(value) => match value.to_bits() {
                bits if bits & SIGN == 0 => bits | SIGN,
                bits => !bits,
            },
        }
    }

    fn write(self, text: &mut String) {
        match self {
            Score::Signed(value) => write!(text, "{value}"),
            Score::Unsigned(value) => write!(text, "{value}"),
            Score::Real(value) if value.is_nan() => text.write_str("nan"),
            Score::Real(value) => write!(text, "{value:.6}"),
        }
        .expect("writing to a String succeeds");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With room for any text.
    fn classify(
        tensor: &Tensor,
        classes: usize,
        batched: bool,
        labels: &[String],
    ) -> Result<Tensor, NoClasses> {
        let asked = Asked {
            classes,
            batched,
            labels,
            limit: usize::MAX,
        };
        super::classify(tensor, asked)
    }

    fn tensor(
        datatype: DataType,
        shape: &[i64],
        data: impl IntoIterator<Item = Vec<u8>>,
    ) -> Tensor {
        Tensor {
            datatype,
            shape: shape.to_vec(),
            data: data.into_iter().flatten().collect::<Vec<u8>>().into(),
        }
    }

    fn fp32(shape: &[i64], values: &[f32]) -> Tensor {
        let data = values.iter().map(|value| value.to_le_bytes().to_vec());
        tensor(DataType::Fp32, shape, data)
    }

    fn texts(tensor: &Tensor) -> Vec<String> {
        let mut data = tensor.data.clone();
        let mut texts = Vec::new();
        while !data.is_empty() {
            let length = u32::from_le_bytes(*data.first_chunk().unwrap()) as usize;
            texts.push(String::from_utf8(data[4..4 + length].to_vec()).unwrap());
            data = data.slice(4 + length..);
        }
        texts
    }

    #[test]
    fn each_row_has_its_own_best() {
        let scores = fp32(&[2, 3], &[0.25, 2.0, -1.5, 10.0, 9.0, 1e-7]);
        let labels = ["cat".to_owned(), "dog".to_owned()];
        let found = classify(&scores, 2, true, &labels).unwrap();
        assert_eq!(
            (found.datatype, &found.shape[..]),
            (DataType::Bytes, &[2, 2][..])
        );
        assert_eq!(
            texts(&found),
            [
                "2.000000:1:dog",
                "0.250000:0:cat",
                "10.000000:0:cat",
                "9.000000:1:dog"
            ]
        );
        let all = classify(&scores, usize::MAX, true, &labels).unwrap();
        assert_eq!(all.shape, [2, 3]);
        assert_eq!(texts(&all)[2], "-1.500000:2", "there is no third label");
    }

    #[test]
    fn without_a_batch_axis_the_tensor_is_one_row() {
        let found = classify(&fp32(&[2, 2], &[1.0, 4.0, 3.0, 2.0]), 3, false, &[]).unwrap();
        assert_eq!(found.shape, [3]);
        assert_eq!(texts(&found), ["4.000000:1", "3.000000:2", "2.000000:3"]);
        let scalar = classify(&fp32(&[], &[7.0]), 3, false, &[]).unwrap();
        assert_eq!(
            (&scalar.shape[..], texts(&scalar)),
            (&[1][..], vec!["7.000000:0".to_owned()])
        );
    }

    #[test]
    fn no_rows_and_no_columns_are_no_classes() {
        for shape in [[0, 3], [2, 0]] {
            let found = classify(&fp32(&shape, &[]), 2, true, &[]).unwrap();
            assert_eq!(found.shape, [shape[0], shape[1].min(2)]);
            assert!(found.data.is_empty());
        }
    }

    #[test]
    fn equals_keep_their_order_and_nan_is_last() {
        let values = [f32::NAN, 1.0, f32::INFINITY, 1.0, f32::NEG_INFINITY];
        let found = classify(&fp32(&[5], &values), 5, false, &[]).unwrap();
        assert_eq!(
            texts(&found),
            ["inf:2", "1.000000:1", "1.000000:3", "-inf:4", "nan:0"]
        );
    }

    #[test]
    fn negative_values_and_both_zeros_are_in_order() {
        let values = [-2.5, -0.0, 0.0, -0.5, 1.0];
        let found = classify(&fp32(&[5], &values), 5, false, &[]).unwrap();
        assert_eq!(
            texts(&found),
            [
                "1.000000:4",
                "-0.000000:1",
                "0.000000:2",
                "-0.500000:3",
                "-2.500000:0"
            ]
        );
    }

    #[test]
    fn more_text_than_there_is_room_for_is_not_made() {
        let scores = fp32(&[2, 2], &[1.0, 2.0, 3.0, 4.0]);
        let within = |limit| {
            let asked = Asked {
                classes: 1,
                batched: true,
                labels: &[],
                limit,
            };
            super::classify(&scores, asked)
        };
        let text = 2 * (4 + "2.000000:1".len());
        assert_eq!(within(text).unwrap().data.len(), text);
        for limit in [0, 2 * SHORTEST - 1, 2 * SHORTEST, text - 1] {
            assert_eq!(within(limit), Err(NoClasses::TooLarge(limit)));
        }
        let bytes = tensor(DataType::Uint8, &[1 << 20], [vec![7; 1 << 20]]);
        let asked = Asked {
            classes: usize::MAX,
            batched: false,
            labels: &[],
            limit: 1 << 20,
        };
        assert_eq!(
            super::classify(&bytes, asked),
            Err(NoClasses::TooLarge(1 << 20))
        );
    }

    #[test]
    fn every_datatype_with_an_order_has_classes() {
        let wide = tensor(
            DataType::Uint64,
            &[2],
            [u64::MAX, 5].map(|value| value.to_le_bytes().to_vec()),
        );
        assert_eq!(
            texts(&classify(&wide, 2, false, &[]).unwrap()),
            ["18446744073709551615:0", "5:1"]
        );
        let halves = [1.5, -2.0].map(|value| f16::from_f32(value).to_le_bytes().to_vec());
        let halves = tensor(DataType::Fp16, &[2], halves);
        assert_eq!(
            texts(&classify(&halves, 2, false, &[]).unwrap()),
            ["1.500000:0", "-2.000000:1"]
        );
        let ordered = [
            (DataType::Uint8, 1),
            (DataType::Uint16, 2),
            (DataType::Uint32, 4),
            (DataType::Int8, 1),
            (DataType::Int16, 2),
            (DataType::Int32, 4),
            (DataType::Int64, 8),
        ];
        for (datatype, size) in ordered {
            let mut minus_one_or_most = vec![0; size];
            minus_one_or_most.extend(vec![0xff; size]);
            let tensor = tensor(datatype, &[2], [minus_one_or_most]);
            let best = texts(&classify(&tensor, 1, false, &[]).unwrap());
            let unsigned = datatype.name().starts_with('U');
            assert_eq!(best[0].ends_with(":1"), unsigned, "{datatype}: {best:?}");
        }
        let text = tensor(DataType::Bytes, &[1], [vec![0; 4]]);
        assert_eq!(
            classify(&text, 1, false, &[]).unwrap_err().to_string(),
            "class result not available for output due to unsupported type 'BYTES'"
        );
    }
}
