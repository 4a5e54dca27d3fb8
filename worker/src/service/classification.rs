//! The classification extension: an output's largest values as text, `value:index` or `value:index:label`.
//!
//! As in Triton: one row of a batch at a time, values with six decimals where they are not integers, the
//! largest first. Of equal values the lower index comes first, and NaN comes last; Triton leaves both open.

use std::cmp::Ordering;
use std::fmt::Write;

use bytes::{BufMut, Bytes, BytesMut};
use forebay_proto::tensor::DataType;
use half::{bf16, f16};

use crate::inference::Tensor;

/// One element, wide enough for every datatype. All elements of a tensor are the same variant.
#[derive(Debug, Clone, Copy)]
enum Score {
    Whole(i128),
    Real(f64),
}

/// A datatype without an order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("class result not available for output due to unsupported type '{0}'")]
pub struct NoScores(DataType);

/// The `classes` largest values of each row, or of the whole tensor if it has no batch axis.
///
/// # Errors
/// BOOL and BYTES.
pub fn classify(
    tensor: &Tensor,
    classes: usize,
    batched: bool,
    labels: &[String],
) -> Result<Tensor, NoScores> {
    let size = |dim: &i64| usize::try_from(*dim).unwrap_or(0);
    let (rows, row) = match tensor.shape.split_first() {
        Some((rows, row)) if batched => (Some(size(rows)), row),
        _ => (None, &tensor.shape[..]),
    };
    let width: usize = row.iter().map(size).product();
    let scores = scores(tensor).ok_or(NoScores(tensor.datatype))?;
    let classes = classes.min(width);

    let mut data = BytesMut::new();
    let mut text = String::new();
    let mut order: Vec<usize> = Vec::with_capacity(width);
    for row in scores.chunks_exact(width.max(1)) {
        order.clear();
        order.extend(0..width);
        let by_score = |a: &usize, b: &usize| row[*b].cmp(&row[*a]).then(a.cmp(b));
        if classes < width {
            order.select_nth_unstable_by(classes, by_score);
        }
        order[..classes].sort_unstable_by(by_score);
        for index in &order[..classes] {
            text.clear();
            row[*index].write(&mut text);
            write!(text, ":{index}").expect("writing to a String succeeds");
            if let Some(label) = labels.get(*index) {
                text.push(':');
                text.push_str(label);
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

impl Score {
    fn cmp(&self, other: &Score) -> Ordering {
        match (self, other) {
            (Score::Whole(a), Score::Whole(b)) => a.cmp(b),
            (Score::Real(a), Score::Real(b)) => a
                .partial_cmp(b)
                .unwrap_or_else(|| b.is_nan().cmp(&a.is_nan())),
            (Score::Whole(_), Score::Real(_)) => Ordering::Less,
            (Score::Real(_), Score::Whole(_)) => Ordering::Greater,
        }
    }

    fn write(self, text: &mut String) {
        match self {
            Score::Whole(value) => write!(text, "{value}"),
            Score::Real(value) if value.is_nan() => text.write_str("nan"),
            Score::Real(value) => write!(text, "{value:.6}"),
        }
        .expect("writing to a String succeeds");
    }
}

fn scores(tensor: &Tensor) -> Option<Vec<Score>> {
    use Score::{Real, Whole};
    let data = &tensor.data;
    Some(match tensor.datatype {
        DataType::Uint8 => each(data, |bytes| Whole(u8::from_le_bytes(bytes).into())),
        DataType::Uint16 => each(data, |bytes| Whole(u16::from_le_bytes(bytes).into())),
        DataType::Uint32 => each(data, |bytes| Whole(u32::from_le_bytes(bytes).into())),
        DataType::Uint64 => each(data, |bytes| Whole(u64::from_le_bytes(bytes).into())),
        DataType::Int8 => each(data, |bytes| Whole(i8::from_le_bytes(bytes).into())),
        DataType::Int16 => each(data, |bytes| Whole(i16::from_le_bytes(bytes).into())),
        DataType::Int32 => each(data, |bytes| Whole(i32::from_le_bytes(bytes).into())),
        DataType::Int64 => each(data, |bytes| Whole(i64::from_le_bytes(bytes).into())),
        DataType::Fp16 => each(data, |bytes| Real(f16::from_le_bytes(bytes).into())),
        DataType::Bf16 => each(data, |bytes| Real(bf16::from_le_bytes(bytes).into())),
        DataType::Fp32 => each(data, |bytes| Real(f32::from_le_bytes(bytes).into())),
        DataType::Fp64 => each(data, |bytes| Real(f64::from_le_bytes(bytes))),
        DataType::Bool | DataType::Bytes => return None,
    })
}

fn each<const SIZE: usize>(data: &Bytes, read: impl Fn([u8; SIZE]) -> Score) -> Vec<Score> {
    data.as_chunks::<SIZE>()
        .0
        .iter()
        .map(|chunk| read(*chunk))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
