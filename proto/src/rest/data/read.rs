//! JSON data to raw bytes, in one pass and without a tree in between.
//!
//! The text comes as a [`RawValue`], which is valid JSON already; what is left to decide is whether it has the
//! nesting, the lengths and the elements that shape and datatype ask for. Memory follows the text's length, never
//! the shape's claim, and nesting takes no stack.

use serde_json::value::RawValue;

use super::cursor::{Cursor, kind};
use super::decimal::{Decimal, short_decimal};
use super::{Actual, DataError};
use crate::tensor::{DataType, element_count};

/// Longest token that an error repeats.
const REPEATED_CHARACTERS: usize = 40;

/// Reads a tensor's elements: a flat array, or arrays nested as the shape says, or, for rank 0, also the bare
/// element. Integers must be written without fraction or exponent and be in range; floating-point numbers must be
/// finite in their datatype.
pub(in crate::rest) fn read_data(
    datatype: DataType,
    shape: &[i64],
    json: &RawValue,
) -> Result<Vec<u8>, DataError> {
    let count = element_count(shape)?;
    let reader = Reader {
        datatype,
        shape,
        count,
        cursor: Cursor::new(json),
    };
    match datatype {
        DataType::Bool => reader.elements(1, |cursor, index, out| {
            out.push(u8::from(cursor.boolean(index)?));
            Ok(())
        }),
        DataType::Uint8 => reader.numbers(|token| token.parse().ok().map(u8::to_le_bytes)),
        DataType::Uint16 => reader.numbers(|token| token.parse().ok().map(u16::to_le_bytes)),
        DataType::Uint32 => reader.numbers(|token| token.parse().ok().map(u32::to_le_bytes)),
        DataType::Uint64 => reader.numbers(|token| token.parse().ok().map(u64::to_le_bytes)),
        DataType::Int8 => reader.numbers(|token| token.parse().ok().map(i8::to_le_bytes)),
        DataType::Int16 => reader.numbers(|token| token.parse().ok().map(i16::to_le_bytes)),
        DataType::Int32 => reader.numbers(|token| token.parse().ok().map(i32::to_le_bytes)),
        DataType::Int64 => reader.numbers(|token| token.parse().ok().map(i64::to_le_bytes)),
        DataType::Fp32 => reader.floats(Decimal::to_f32, |token| {
            let value = token.parse::<f32>().ok()?;
            value.is_finite().then(|| value.to_le_bytes())
        }),
        DataType::Fp64 => reader.floats(Decimal::to_f64, |token| {
            let value = token.parse::<f64>().ok()?;
            value.is_finite().then(|| value.to_le_bytes())
        }),
        DataType::Bytes => reader.elements(4, |cursor, index, out| cursor.string(index, out)),
        DataType::Fp16 | DataType::Bf16 => Err(DataError::NoJson(datatype)),
    }
}

struct Reader<'a> {
    datatype: DataType,
    shape: &'a [i64],
    /// Elements by the shape.
    count: u64,
    cursor: Cursor<'a>,
}

impl<'a> Reader<'a> {
    fn numbers<const N: usize>(
        self,
        parse: impl Fn(&str) -> Option<[u8; N]>,
    ) -> Result<Vec<u8>, DataError> {
        let datatype = self.datatype;
        self.elements(N, |cursor, index, out| {
            number(datatype, cursor, index, &parse, out)
        })
    }

    /// Like numbers, with a short cut for those of few digits.
    fn floats<const N: usize>(
        self,
        short: impl Fn(Decimal) -> Option<[u8; N]>,
        parse: impl Fn(&str) -> Option<[u8; N]>,
    ) -> Result<Vec<u8>, DataError> {
        let datatype = self.datatype;
        self.elements(N, |cursor, index, out| {
            if let Some((decimal, length)) = short_decimal(cursor.rest().as_bytes())
                && let Some(bytes) = short(decimal)
            {
                cursor.advance(length);
                out.extend_from_slice(&bytes);
                return Ok(());
            }
            number(datatype, cursor, index, &parse, out)
        })
    }

    /// Reads all elements by a function that is handed their index and appends them.
    fn elements(
        mut self,
        least_size: usize,
        mut element: impl FnMut(&mut Cursor<'a>, u64, &mut Vec<u8>) -> Result<(), DataError>,
    ) -> Result<Vec<u8>, DataError> {
        // An element takes at least one character, and a comma parts it from the next.
        let borne_out = self.cursor.rest().len() / 2 + 1;
        let elements = usize::try_from(self.count).map_or(borne_out, |count| count.min(borne_out));
        let mut out = Vec::with_capacity(elements * least_size);

        let first = self.cursor.peek();
        if first != b'[' {
            if self.shape.is_empty() {
                element(&mut self.cursor, 0, &mut out)?;
                return Ok(out);
            }
            return Err(DataError::NotArray { found: kind(first) });
        }
        if self.cursor.second() == b'[' {
            self.nested(&mut element, &mut out)?;
        } else {
            self.cursor.advance(1);
            self.row(0, self.count, 0, &mut element, &mut out)?;
        }
        Ok(out)
    }

    /// Arrays nested as the shape says. `open` counts the members so far of each array that is open.
    fn nested(
        &mut self,
        element: &mut impl FnMut(&mut Cursor<'a>, u64, &mut Vec<u8>) -> Result<(), DataError>,
        out: &mut Vec<u8>,
    ) -> Result<(), DataError> {
        let rank = self.shape.len();
        let mut open: Vec<u64> = Vec::new();
        let mut index = 0;
        loop {
            let axis = open.len();
            match self.cursor.peek() {
                b'[' if axis == rank => return Err(DataError::TooDeep { rank }),
                b'[' => {
                    self.cursor.advance(1);
                    if axis + 1 < rank {
                        open.push(0);
                        continue;
                    }
                    let expected = self.size(axis);
                    self.row(index, expected, axis, element, out)?;
                    index += expected;
                }
                b']' => {
                    self.cursor.advance(1);
                    let actual = open.pop().unwrap_or_default();
                    let axis = open.len();
                    let expected = self.size(axis);
                    if actual != expected {
                        return Err(DataError::Length {
                            axis,
                            expected,
                            actual: Actual::Exactly(actual),
                        });
                    }
                }
                _ => return Err(DataError::TooShallow { index, rank }),
            }
            // An array was closed: it is a member of the one around it.
            let axis = open.len().saturating_sub(1);
            let expected = self.size(axis);
            match open.last_mut() {
                None => return Ok(()),
                Some(members) if *members == expected => {
                    return Err(DataError::Length {
                        axis,
                        expected,
                        actual: Actual::More,
                    });
                }
                Some(members) => *members += 1,
            }
        }
    }

    /// The elements of one array, whose bracket has been read, and the bracket that closes it.
    fn row(
        &mut self,
        first: u64,
        expected: u64,
        axis: usize,
        element: &mut impl FnMut(&mut Cursor<'a>, u64, &mut Vec<u8>) -> Result<(), DataError>,
        out: &mut Vec<u8>,
    ) -> Result<(), DataError> {
        let mut members = 0;
        loop {
            match self.cursor.peek() {
                b']' => break,
                b'[' => {
                    return Err(DataError::TooDeep {
                        rank: self.shape.len(),
                    });
                }
                _ if members == expected => {
                    return Err(DataError::Length {
                        axis,
                        expected,
                        actual: Actual::More,
                    });
                }
                _ => element(&mut self.cursor, first + members, out)?,
            }
            members += 1;
        }
        self.cursor.advance(1);
        if members < expected {
            return Err(DataError::Length {
                axis,
                expected,
                actual: Actual::Exactly(members),
            });
        }
        Ok(())
    }

    /// Size of a dimension; none is negative, as [`element_count`] refuses that.
    fn size(&self, axis: usize) -> u64 {
        self.shape
            .get(axis)
            .map_or(0, |dimension| dimension.unsigned_abs())
    }
}

fn number<const N: usize>(
    datatype: DataType,
    cursor: &mut Cursor<'_>,
    index: u64,
    parse: impl Fn(&str) -> Option<[u8; N]>,
    out: &mut Vec<u8>,
) -> Result<(), DataError> {
    let token = cursor.number(index)?;
    let Some(bytes) = parse(token) else {
        return Err(DataError::Value {
            index,
            token: token.chars().take(REPEATED_CHARACTERS).collect(),
            datatype,
        });
    };
    out.extend_from_slice(&bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::encode_bytes_element;

    fn read(datatype: DataType, shape: &[i64], json: &str) -> Result<Vec<u8>, DataError> {
        read_data(datatype, shape, serde_json::from_str(json).unwrap())
    }

    fn floats(values: &[f32]) -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect()
    }

    #[test]
    fn flat_and_nested_data_are_the_same() {
        let raw = Ok(floats(&[1.0, 2.5, -3.0, 4e2, 0.0, 6.0]));
        for json in [
            "[1,2.5,-3,4e2,0,6]",
            "[[1,2.5,-3],[4E+2,0.0,6]]",
            " [ [ 1 , 2.5 , -3 ] ,\n\t[ 400 , 0 , 6 ] ] ",
        ] {
            assert_eq!(read(DataType::Fp32, &[2, 3], json), raw, "{json}");
        }
        let deep = "[[[1],[2.5],[-3]],[[400],[0],[6]]]";
        assert_eq!(read(DataType::Fp32, &[2, 3, 1], deep), raw);
    }

    #[test]
    fn scalars_and_empty_tensors_are_read() {
        for json in ["[7]", "7", " 7 "] {
            assert_eq!(read(DataType::Int8, &[], json), Ok(vec![7]), "{json}");
        }
        assert_eq!(read(DataType::Bool, &[], "true"), Ok(vec![1]));
        assert_eq!(
            read(DataType::Bytes, &[], r#""a""#),
            Ok(b"\x01\0\0\0a".to_vec())
        );
        for (shape, json) in [
            (&[0][..], "[]"),
            (&[2, 0], "[]"),
            (&[2, 0], "[[],[ ]]"),
            (&[0, 3], "[]"),
            (&[1 << 40, 0], "[]"),
        ] {
            assert_eq!(read(DataType::Fp64, shape, json), Ok(vec![]), "{json}");
        }
    }

    #[test]
    fn nesting_must_agree_with_the_shape() {
        for (shape, json) in [
            (&[2, 3][..], "[[1,2],[3,4],[5,6]]"),
            (&[2, 3], "[[1,2,3],[4,5]]"),
            (&[2, 3], "[[1,2,3],[4,5,6,7]]"),
            (&[2, 3], "[[1,2,3]]"),
            (&[2, 3], "[[1,2,3],[4,5,6],[7,8,9]]"),
            (&[2, 3], "[[1,2,3],4,5,6]"),
            (&[2, 3], "[1,2,3,[4,5,6]]"),
            (&[2, 3], "[1,2,3,4,5]"),
            (&[2, 3], "[1,2,3,4,5,6,7]"),
            (&[2, 3], "[[[1,2,3],[4,5,6]]]"),
            (&[6], "[[1,2,3],[4,5,6]]"),
            (&[2, 3, 1], "[[1,2,3],[4,5,6]]"),
            (&[2, 2, 1], "[[],[]]"),
            (&[0, 2], "[[]]"),
            (&[], "[]"),
            (&[], "[[1]]"),
            (&[], "[1,2]"),
            (&[1], "1"),
            (&[1], "{}"),
            (&[], "{}"),
            (&[1], "null"),
        ] {
            let result = read(DataType::Int32, shape, json);
            assert!(result.is_err(), "{shape:?} {json}: {result:?}");
        }
    }

    #[test]
    fn elements_must_be_of_the_datatype() {
        for (datatype, json) in [
            (DataType::Int8, "[128]"),
            (DataType::Int8, "[1.0]"),
            (DataType::Int64, "[9223372036854775808]"),
            (DataType::Int32, "[1e3]"),
            (DataType::Uint8, "[-1]"),
            (DataType::Uint64, "[18446744073709551616]"),
            (DataType::Int32, "[true]"),
            (DataType::Int32, "[\"1\"]"),
            (DataType::Int32, "[null]"),
            (DataType::Int32, "[{}]"),
            (DataType::Fp32, "[1e39]"),
            (DataType::Fp32, "[null]"),
            (DataType::Fp64, "[1e309]"),
            (DataType::Fp64, "[\"NaN\"]"),
            (DataType::Bool, "[1]"),
            (DataType::Bool, "[\"true\"]"),
            (DataType::Bytes, "[5]"),
            (DataType::Bytes, "[null]"),
            (DataType::Bytes, r#"["\ud800"]"#),
            (DataType::Bytes, r#"["\udc00x"]"#),
            (DataType::Fp16, "[1]"),
            (DataType::Bf16, "[1]"),
        ] {
            let result = read(datatype, &[1], json);
            assert!(result.is_err(), "{datatype} {json}: {result:?}");
        }
        let error = read(DataType::Int8, &[3], "[1,2,300]").unwrap_err();
        assert_eq!(error.to_string(), "element 2, 300, is not a value of INT8");
    }

    #[test]
    fn extremes_are_read_exactly() {
        for (datatype, json, raw) in [
            (
                DataType::Int64,
                "[-9223372036854775808]",
                i64::MIN.to_le_bytes(),
            ),
            (
                DataType::Uint64,
                "[18446744073709551615]",
                u64::MAX.to_le_bytes(),
            ),
            (DataType::Fp64, "[0.1]", 0.1_f64.to_le_bytes()),
            (DataType::Fp64, "[5e-324]", 5e-324_f64.to_le_bytes()),
            (DataType::Fp64, "[1e-999]", 0_f64.to_le_bytes()),
            (DataType::Fp64, "[-0]", (-0.0_f64).to_le_bytes()),
            (
                DataType::Fp64,
                "[9007199254740993]",
                9007199254740992_f64.to_le_bytes(),
            ),
        ] {
            assert_eq!(read(datatype, &[1], json), Ok(raw.to_vec()), "{json}");
        }
    }

    #[test]
    fn strings_are_unescaped() {
        let raw = read(
            DataType::Bytes,
            &[4],
            r#"["", "é,]\"", "\ud83d\ude00\n", "a\\"]"#,
        )
        .unwrap();
        let mut want = Vec::new();
        for text in ["", "é,]\"", "😀\n", "a\\"] {
            encode_bytes_element(text.as_bytes(), &mut want).unwrap();
        }
        assert_eq!(raw, want);
    }

    #[test]
    fn claims_without_data_allocate_nothing() {
        for shape in [&[1 << 40][..], &[1 << 20, 1 << 20], &[i64::MAX, 2]] {
            for json in ["[]", "[1]", "[[1]]", "[[[[1]]]]"] {
                assert!(read(DataType::Fp64, shape, json).is_err());
            }
        }
        assert!(read(DataType::Fp64, &[i64::MAX, 3], "[]").is_err());
        assert!(read(DataType::Fp64, &[-1], "[]").is_err());
    }

    #[test]
    fn deep_nesting_takes_no_stack() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let error = read(DataType::Fp32, &[1, 1], &deep).unwrap_err();
        assert_eq!(error, DataError::TooDeep { rank: 2 });
        let shape = vec![1; 100_000];
        let full = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(read(DataType::Uint8, &shape, &full), Ok(vec![1]));
        assert!(read(DataType::Uint8, &shape, &deep).is_err());
    }
}
