//! What the bytes of a tensor must be for any engine to take them.
//!
//! Checked for each request alone before it joins a batch, so that bad values never reach a neighbour. That
//! shape and bytes agree was checked by whoever built the request.

use forebay_proto::tensor::{DataType, bytes_elements};

use crate::inference::Tensor;

/// Larger dimensions are refused: only tensors without elements can have them.
const MAX_DIMENSION: i64 = u32::MAX as i64;

/// # Errors
/// What is wrong with the tensor, with the input's name inside.
pub fn check(name: &str, tensor: &Tensor) -> Result<(), String> {
    shape(name, &tensor.shape)?;
    match tensor.datatype {
        DataType::Bool => match tensor.data.iter().find(|byte| **byte > 1) {
            Some(byte) => Err(format!(
                "input '{name}' has a BOOL element of {byte}, must be 0 or 1"
            )),
            None => Ok(()),
        },
        DataType::Bytes => strings(name, tensor),
        _ => Ok(()),
    }
}

/// The part of `check` that goes for values of any kind.
///
/// # Errors
/// What is wrong with the shape, with the input's name inside.
pub fn shape(name: &str, shape: &[i64]) -> Result<(), String> {
    if let Some(dimension) = shape
        .iter()
        .find(|dimension| !(0..=MAX_DIMENSION).contains(*dimension))
    {
        return Err(format!(
            "dimension {dimension} of input '{name}' is out of range, must be 0 to {MAX_DIMENSION}"
        ));
    }
    let product = shape.iter().try_fold(1i64, |product, dimension| {
        product.checked_mul((*dimension).max(1))
    });
    if product.is_none() {
        return Err(format!("shape {shape:?} of input '{name}' is too large"));
    }
    Ok(())
}

fn strings(name: &str, tensor: &Tensor) -> Result<(), String> {
    for (position, element) in bytes_elements(&tensor.data).enumerate() {
        let element = element.map_err(|error| format!("input '{name}': {error}"))?;
        if std::str::from_utf8(element).is_err() {
            return Err(format!(
                "element {position} of input '{name}' is not UTF-8, as strings of a model must be"
            ));
        }
        if element.contains(&0) {
            return Err(format!(
                "element {position} of input '{name}' contains a NUL byte, which strings of a model cannot hold"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn tensor(datatype: DataType, shape: &[i64], data: &'static [u8]) -> Tensor {
        Tensor {
            datatype,
            shape: shape.to_vec(),
            data: Bytes::from_static(data),
        }
    }

    #[test]
    fn sound_tensors_pass() {
        assert_eq!(check("x", &tensor(DataType::Bool, &[2], &[0, 1])), Ok(()));
        assert_eq!(
            check("x", &tensor(DataType::Uint8, &[2], &[7, 255])),
            Ok(())
        );
        assert_eq!(check("x", &tensor(DataType::Fp32, &[0, 3], &[])), Ok(()));
        assert_eq!(
            check(
                "x",
                &tensor(DataType::Bytes, &[], b"\x03\0\0\0\xe2\x82\xac")
            ),
            Ok(())
        );
    }

    #[test]
    fn what_no_engine_takes_is_refused_with_the_value() {
        for (tensor, part) in [
            (tensor(DataType::Bool, &[2], &[1, 2]), "BOOL element of 2"),
            (
                tensor(DataType::Bytes, &[1], b"\x02\0\0\0\xff\xfe"),
                "not UTF-8",
            ),
            (tensor(DataType::Bytes, &[1], b"\x02\0\0\0a\0"), "NUL"),
            (tensor(DataType::Bytes, &[1], b"\x09\0\0\0a"), "input 'x'"),
            (tensor(DataType::Fp32, &[0, -1], &[]), "dimension -1"),
            (
                tensor(DataType::Fp32, &[0, 1 << 40], &[]),
                "dimension 1099511627776",
            ),
            (
                tensor(DataType::Fp32, &[1 << 31, 1 << 31, 1 << 31, 0], &[]),
                "too large",
            ),
        ] {
            let error = check("x", &tensor).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
