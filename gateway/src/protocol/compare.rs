//! How far two answers to the same inference are apart, tensor by tensor.
//!
//! - *absolute*: the largest `|a - b|` of all elements;
//! - *relative*: that, in proportion to the largest `|a|` of the tensor (the relative error in the maximum norm: N. Higham,
//!   "Accuracy and Stability of Numerical Algorithms", chapter 6). In proportion to its own element, each tiny element would
//!   say that everything is wrong;
//! - *top-1*: of each row (the last dimension), whether the largest element is at the same place, the first of equal ones. Of
//!   byte strings and truth values, whether they are equal, each a row of its own.
//!
//! Two NaNs are equal, and so are two infinities of one sign; NaN in one answer alone is told apart from any difference.
//! An answer is data from the network: nothing here trusts that shape, datatype and bytes fit together.

use std::collections::BTreeMap;

use bytes::Bytes;
use forebay_proto::inference::ModelInferResponse;
use forebay_proto::inference::model_infer_response::InferOutputTensor;
use forebay_proto::tensor::{DataType, bytes_elements, check_raw, raw_from_contents};
use half::{bf16, f16};

/// What was found at one output.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Finding {
    Compared(Difference),
    /// Only the first answer has it.
    Missing,
    /// Only the second answer has it.
    Extra,
    Datatype,
    Shape,
    /// One of the two is no tensor of the datatype and shape that it claims.
    Malformed,
}

#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Difference {
    /// 0 or more, perhaps infinite; 0 of byte strings.
    pub absolute: f64,
    pub relative: f64,
    /// Elements that are NaN in one answer alone; they count nowhere else.
    pub nans: u64,
    /// Rows that have a first place, and those where it is the same.
    pub rows: u64,
    pub agreed: u64,
    /// Elements that differ at all.
    pub unequal: u64,
}

/// Each output of either answer, by its name.
pub fn compare<'a>(
    first: &'a ModelInferResponse,
    second: &'a ModelInferResponse,
) -> Vec<(&'a str, Finding)> {
    let mut others: BTreeMap<&str, (usize, &InferOutputTensor)> = BTreeMap::new();
    for (position, output) in second.outputs.iter().enumerate() {
        others.insert(&output.name, (position, output));
    }
    let mut findings: Vec<(&str, Finding)> = first
        .outputs
        .iter()
        .enumerate()
        .map(|(position, output)| {
            let finding = match others.remove(output.name.as_str()) {
                None => Finding::Missing,
                Some((other_position, other)) => {
                    let own = || data(first, position, output);
                    tensors(output, own, other, || data(second, other_position, other))
                }
            };
            (output.name.as_str(), finding)
        })
        .collect();
    findings.extend(others.into_keys().map(|name| (name, Finding::Extra)));
    findings
}

fn tensors(
    first: &InferOutputTensor,
    first_data: impl Fn() -> Option<Bytes>,
    second: &InferOutputTensor,
    second_data: impl Fn() -> Option<Bytes>,
) -> Finding {
    if first.datatype != second.datatype {
        return Finding::Datatype;
    }
    if first.shape != second.shape {
        return Finding::Shape;
    }
    let Some(datatype) = DataType::parse(&first.datatype) else {
        return Finding::Malformed;
    };
    let (Some(a), Some(b)) = (first_data(), second_data()) else {
        return Finding::Malformed;
    };
    let right = |data: &[u8]| check_raw(datatype, &first.shape, data).is_ok();
    if !right(&a) || !right(&b) {
        return Finding::Malformed;
    }
    let columns = first.shape.last().copied();
    let columns = columns.and_then(|last| usize::try_from(last).ok());
    Finding::Compared(difference(datatype, columns.unwrap_or(1), &a, &b))
}

/// The tensor's bytes, from wherever the answer has them.
fn data(answer: &ModelInferResponse, position: usize, output: &InferOutputTensor) -> Option<Bytes> {
    if let Some(contents) = &output.contents {
        let datatype = DataType::parse(&output.datatype)?;
        return raw_from_contents(datatype, &output.shape, contents).ok();
    }
    answer.raw_output_contents.get(position).cloned()
}

/// Of two tensors of the same datatype and shape, which their bytes bear out.
fn difference(datatype: DataType, columns: usize, a: &[u8], b: &[u8]) -> Difference {
    match datatype {
        DataType::Bytes => equality(bytes_elements(a).flatten(), bytes_elements(b).flatten()),
        DataType::Bool => equality(a.iter(), b.iter()),
        DataType::Uint8 => numbers(columns, a, b, u8::from_le_bytes),
        DataType::Uint16 => numbers(columns, a, b, u16::from_le_bytes),
        DataType::Uint32 => numbers(columns, a, b, u32::from_le_bytes),
        DataType::Uint64 => numbers(columns, a, b, u64::from_le_bytes),
        DataType::Int8 => numbers(columns, a, b, i8::from_le_bytes),
        DataType::Int16 => numbers(columns, a, b, i16::from_le_bytes),
        DataType::Int32 => numbers(columns, a, b, i32::from_le_bytes),
        DataType::Int64 => numbers(columns, a, b, i64::from_le_bytes),
        DataType::Fp16 => numbers(columns, a, b, |bytes| f16::from_le_bytes(bytes).to_f32()),
        DataType::Bf16 => numbers(columns, a, b, |bytes| bf16::from_le_bytes(bytes).to_f32()),
        DataType::Fp32 => numbers(columns, a, b, f32::from_le_bytes),
        DataType::Fp64 => numbers(columns, a, b, f64::from_le_bytes),
    }
}

fn equality<T: PartialEq>(a: impl Iterator<Item = T>, b: impl Iterator<Item = T>) -> Difference {
    let mut found = Difference::default();
    for (a, b) in a.zip(b) {
        found.rows += 1;
        found.agreed += u64::from(a == b);
    }
    found.unequal = found.rows - found.agreed;
    found
}

/// A number of any datatype; 64-bit integers are subtracted as such, as `f64` would make neighbours of them equal.
trait Number: Copy + PartialOrd {
    fn apart(self, other: Self) -> f64;
    fn magnitude(self) -> f64;

    fn is_nan(self) -> bool {
        false
    }
}

macro_rules! integers {
    ($($kind:ty)*) => {
        $(impl Number for $kind {
            fn apart(self, other: Self) -> f64 {
                self.abs_diff(other) as f64
            }

            fn magnitude(self) -> f64 {
                self.abs_diff(0) as f64
            }
        })*
    };
}

macro_rules! floats {
    ($($kind:ty)*) => {
        $(impl Number for $kind {
            fn apart(self, other: Self) -> f64 {
                // Equal infinities would be NaN apart.
                if self == other { 0.0 } else { (f64::from(self) - f64::from(other)).abs() }
            }

            fn magnitude(self) -> f64 {
                f64::from(self).abs()
            }

            fn is_nan(self) -> bool {
                <$kind>::is_nan(self)
            }
        })*
    };
}

integers!(u8 u16 u32 u64 i8 i16 i32 i64);
floats!(f32 f64);

fn numbers<T: Number, const N: usize>(
    columns: usize,
    a: &[u8],
    b: &[u8],
    decode: impl Fn([u8; N]) -> T,
) -> Difference {
    let mut found = Difference::default();
    let mut largest = 0.0_f64;
    let rows = (a.as_chunks::<N>().0, b.as_chunks::<N>().0);
    let columns = columns.max(1);
    for (a, b) in rows.0.chunks(columns).zip(rows.1.chunks(columns)) {
        let mut tops = (Top::default(), Top::default());
        for (column, (a, b)) in a.iter().zip(b).enumerate() {
            let (a, b) = (decode(*a), decode(*b));
            tops.0.see(column, a);
            tops.1.see(column, b);
            match (a.is_nan(), b.is_nan()) {
                (false, false) => {
                    let apart = a.apart(b);
                    found.unequal += u64::from(apart > 0.0);
                    found.absolute = found.absolute.max(apart);
                    largest = largest.max(a.magnitude());
                }
                (true, true) => {}
                _ => found.nans += 1,
            }
        }
        if columns > 1 {
            found.rows += 1;
            found.agreed += u64::from(tops.0.column() == tops.1.column());
        }
    }
    found.relative = match (found.absolute, largest) {
        (0.0, _) => 0.0,
        (absolute, largest) if absolute.is_finite() && largest.is_finite() && largest > 0.0 => {
            absolute / largest
        }
        _ => f64::INFINITY,
    };
    found
}

/// Where a row's largest number is.
struct Top<T>(Option<(usize, T)>);

impl<T> Default for Top<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Number> Top<T> {
    fn see(&mut self, column: usize, value: T) {
        if !value.is_nan() && self.0.is_none_or(|(_, largest)| value > largest) {
            self.0 = Some((column, value));
        }
    }

    fn column(&self) -> Option<usize> {
        self.0.map(|(column, _)| column)
    }
}

#[cfg(test)]
mod tests;
