//! Shapes: how many elements they claim, and whether raw bytes bear the claim out.

use super::error::shape_text;
use super::{DataType, TensorError, check_bytes};

/// Rows of a request at most, when work is counted in rows.
pub const MOST_ROWS: u32 = 1 << 16;

/// What a request with this first input counts as when work is counted in rows: its first dimension, within 1 and
/// [`MOST_ROWS`]. Rank 0 is one row.
pub fn rows(shape: &[i64]) -> u32 {
    let first = shape.first().copied().unwrap_or(1);
    u32::try_from(first.clamp(1, i64::from(MOST_ROWS))).unwrap_or(MOST_ROWS)
}

/// Number of elements of a shape. Rank 0 has one element; a dimension of zero leaves none, however large the
/// others are.
///
/// # Errors
/// A negative dimension, or a product above `u64::MAX`.
pub fn element_count(shape: &[i64]) -> Result<u64, TensorError> {
    let mut product = Some(1_u64);
    let mut empty = false;
    for &dimension in shape {
        let size = u64::try_from(dimension).map_err(|_| TensorError::NegativeDimension {
            shape: shape_text(shape),
            dimension,
        })?;
        empty |= size == 0;
        product = product.and_then(|product| product.checked_mul(size));
    }
    match product {
        _ if empty => Ok(0),
        Some(product) => Ok(product),
        None => Err(TensorError::TooManyElements {
            shape: shape_text(shape),
        }),
    }
}

/// Checks that raw bytes are exactly a tensor of this datatype and shape.
///
/// BOOL must hold the bytes 0 and 1 alone, since engines read it as their language's boolean, for which other
/// bytes are undefined. BYTES is walked, element by element. Other datatypes cost nothing per element.
///
/// # Errors
/// A shape that [`element_count`] refuses, or bytes that do not agree with it.
pub fn check_raw(datatype: DataType, shape: &[i64], data: &[u8]) -> Result<(), TensorError> {
    let count = element_count(shape)?;
    let Some(size) = datatype.size() else {
        return check_bytes(data, count);
    };
    let expected = u128::from(count) * size as u128;
    if expected != data.len() as u128 {
        return Err(TensorError::ByteLength {
            datatype,
            shape: shape_text(shape),
            expected,
            actual: data.len(),
        });
    }
    if datatype == DataType::Bool {
        check_bool(data)?;
    }
    Ok(())
}

fn check_bool(data: &[u8]) -> Result<(), TensorError> {
    // Without an early exit, so that the loop is vectorized; the culprit is looked for only when there is one.
    let all = data.iter().fold(0, |all, byte| all | byte);
    if all <= 1 {
        return Ok(());
    }
    let culprit = data.iter().enumerate().find(|(_, value)| **value > 1);
    match culprit {
        Some((offset, &value)) => Err(TensorError::BoolByte { value, offset }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn counts_rows_within_bounds() {
        for (shape, want) in [
            (&[][..], 1),
            (&[8, 3], 8),
            (&[0, 3], 1),
            (&[-1], 1),
            (&[i64::MIN], 1),
            (&[i64::MAX, 2], MOST_ROWS),
        ] {
            assert_eq!(rows(shape), want, "{shape:?}");
        }
    }

    #[test]
    fn counts_elements() {
        for (shape, count) in [
            (&[][..], 1),
            (&[0], 0),
            (&[7], 7),
            (&[2, 3, 4], 24),
            (&[2, 0, 4], 0),
            (&[i64::MAX], i64::MAX as u64),
            (&[i64::MAX, 2], u64::MAX - 1),
            (&[0, i64::MAX, i64::MAX], 0),
            (&[i64::MAX, i64::MAX, i64::MAX, 0], 0),
        ] {
            assert_eq!(element_count(shape), Ok(count), "{shape:?}");
        }
    }

    #[test]
    fn refuses_shapes_that_are_negative_or_overflow() {
        for shape in [
            &[-1][..],
            &[0, -1],
            &[i64::MIN],
            &[i64::MAX, i64::MAX, -5],
            &[-1, -1],
        ] {
            let error = element_count(shape).unwrap_err();
            assert!(
                matches!(error, TensorError::NegativeDimension { .. }),
                "{error}"
            );
        }
        for shape in [&[1 << 40, 1 << 40][..], &[i64::MAX, 3], &[1 << 32, 1 << 32]] {
            let error = element_count(shape).unwrap_err();
            assert!(
                matches!(error, TensorError::TooManyElements { .. }),
                "{error}"
            );
        }
    }

    #[test]
    fn raw_bytes_must_be_exactly_the_tensor() {
        assert_eq!(check_raw(DataType::Fp32, &[2, 3], &[0; 24]), Ok(()));
        assert_eq!(check_raw(DataType::Fp32, &[], &[0; 4]), Ok(()));
        assert_eq!(check_raw(DataType::Fp64, &[0, 9], &[]), Ok(()));
        for (shape, length) in [(&[2, 3][..], 23), (&[2, 3], 25), (&[], 0), (&[0], 4)] {
            let error = check_raw(DataType::Fp32, shape, &vec![0; length]).unwrap_err();
            assert!(matches!(error, TensorError::ByteLength { .. }), "{error}");
        }
        let error = check_raw(DataType::Fp64, &[i64::MAX, 2], &[0; 8]).unwrap_err();
        assert!(
            error.to_string().contains("147573952589676412912"),
            "{error}"
        );
    }

    #[test]
    fn bool_bytes_are_zero_or_one() {
        assert_eq!(check_raw(DataType::Bool, &[3], &[0, 1, 1]), Ok(()));
        assert_eq!(
            check_raw(DataType::Bool, &[3], &[0, 1, 2]),
            Err(TensorError::BoolByte {
                value: 2,
                offset: 2
            })
        );
    }

    proptest! {
        #[test]
        fn agrees_with_exact_arithmetic(shape in prop::collection::vec(
            prop_oneof![-2_i64..6, any::<i64>(), Just(0), Just(1 << 32)], 0..6)) {
            let exact = shape.iter().try_fold(1_u128, |product, &dimension| {
                u128::try_from(dimension).ok().map(|size| product.saturating_mul(size))
            });
            match (element_count(&shape), exact) {
                (Ok(count), Some(exact)) => prop_assert!(u128::from(count) == exact || shape.contains(&0)),
                (Err(TensorError::TooManyElements { .. }), Some(exact)) => prop_assert!(exact > u128::from(u64::MAX)),
                (Err(TensorError::NegativeDimension { .. }), None) => {}
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }
}
