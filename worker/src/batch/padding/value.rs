//! One element of filling, as the bytes of a tensor.

use forebay_proto::tensor::DataType;

/// The bytes of one element, of which the first `width` count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Element {
    bytes: [u8; 8],
    width: usize,
}

/// `value` in `datatype`, rounded where that has fewer digits.
///
/// # Errors
/// What keeps the datatype from holding the value.
pub fn element(datatype: DataType, value: f64) -> Result<Element, String> {
    let beyond = || format!("{value} cannot be an element of type {}", datatype.name());
    let whole = |least: f64, above: f64| {
        (value.fract() == 0.0 && (least..above).contains(&value)).then_some(value as i128)
    };
    let bits = |least: f64, above: f64| whole(least, above).map(|whole| whole as u64);
    let unsigned = |bit_count: i32| bits(0.0, 2f64.powi(bit_count));
    let signed = |bit_count: i32| bits(-(2f64.powi(bit_count - 1)), 2f64.powi(bit_count - 1));
    let word = match datatype {
        DataType::Bool => bits(0.0, 2.0),
        DataType::Uint8 => unsigned(8),
        DataType::Uint16 => unsigned(16),
        DataType::Uint32 => unsigned(32),
        DataType::Uint64 => unsigned(64),
        DataType::Int8 => signed(8),
        DataType::Int16 => signed(16),
        DataType::Int32 => signed(32),
        DataType::Int64 => signed(64),
        DataType::Fp16 => short_float(value, 10, -14),
        DataType::Bf16 => short_float(value, 7, -126),
        DataType::Fp32 => {
            let short = value as f32;
            (short.is_finite() || !value.is_finite()).then(|| u64::from(short.to_bits()))
        }
        DataType::Fp64 => Some(value.to_bits()),
        DataType::Bytes => None,
    };
    let (Some(word), Some(width)) = (word, datatype.size()) else {
        return Err(beyond());
    };
    Ok(Element {
        bytes: word.to_le_bytes(),
        width,
    })
}

impl Element {
    pub fn width(&self) -> usize {
        self.width
    }

    /// Writes the element until `room`, whose length is a multiple of its width, is full.
    pub fn fill(&self, room: &mut [u8]) {
        let element = &self.bytes[..self.width];
        if element.iter().all(|byte| *byte == 0) {
            room.fill(0);
            return;
        }
        for place in room.chunks_exact_mut(self.width) {
            place.copy_from_slice(element);
        }
    }
}

/// A number of 16 bits after IEEE 754's pattern: sign, exponent, `fraction` bits; `least` is the exponent of the
/// smallest normal number. Rounds to nearest, ties to even. `None`: not a number, or too large.
fn short_float(value: f64, fraction: u32, least: i32) -> Option<u64> {
    let infinity = 0x7fff & (0x7fff << fraction);
    let sign = u64::from(value.is_sign_negative()) << 15;
    if value.is_nan() {
        return None;
    }
    if value.is_infinite() {
        return Some(sign | infinity);
    }
    let size = value.abs();
    let exponent = (((size.to_bits() >> 52) as i32) - 1023).max(least);
    let quantum = 2f64.powi(exponent - fraction as i32);
    let steps = (size / quantum).round_ties_even() as u64;
    let bits = (((exponent - least) as u64) << fraction) + steps;
    (bits < infinity).then_some(sign | bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(datatype: DataType, value: f64) -> Result<Vec<u8>, String> {
        let element = element(datatype, value)?;
        let mut room = vec![0xaa; element.width() * 2];
        element.fill(&mut room);
        let (first, second) = room.split_at(element.width());
        assert_eq!(first, second);
        Ok(first.to_vec())
    }

    #[test]
    fn every_datatype_of_numbers_has_its_bytes() {
        for (datatype, value, expected) in [
            (DataType::Bool, 1.0, &[1u8][..]),
            (DataType::Uint8, 255.0, &[255]),
            (DataType::Int8, -1.0, &[255]),
            (DataType::Uint16, 258.0, &[2, 1]),
            (DataType::Int16, -2.0, &[0xfe, 0xff]),
            (DataType::Uint32, 1.0, &[1, 0, 0, 0]),
            (DataType::Int32, -1.0, &[255; 4]),
            (DataType::Uint64, 0.0, &[0; 8]),
            (DataType::Int64, -100.0, &(-100i64).to_le_bytes()),
            (DataType::Fp32, -1.5, &(-1.5f32).to_le_bytes()),
            (DataType::Fp64, 0.1, &0.1f64.to_le_bytes()),
        ] {
            assert_eq!(bytes(datatype, value).unwrap(), expected, "{datatype:?}");
        }
    }

    #[test]
    fn short_floats_are_those_of_the_standard() {
        for (value, half, brain) in [
            (0.0, 0x0000, 0x0000),
            (-0.0, 0x8000, 0x8000),
            (1.0, 0x3c00, 0x3f80),
            (-2.0, 0xc000, 0xc000),
            (0.1, 0x2e66, 0x3dcd),
            (65504.0, 0x7bff, 0x4780),
            (-10000.0, 0xf0e2, 0xc61c),
            (2f64.powi(-24), 0x0001, 0x3380),
            (f64::NEG_INFINITY, 0xfc00, 0xff80),
        ] {
            for (datatype, expected) in [(DataType::Fp16, half), (DataType::Bf16, brain)] {
                let found = bytes(datatype, value).unwrap();
                assert_eq!(
                    u16::from_le_bytes([found[0], found[1]]),
                    expected,
                    "{datatype:?} {value}"
                );
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_value_and_type() {
        for (datatype, value) in [
            (DataType::Bytes, 0.0),
            (DataType::Bool, 2.0),
            (DataType::Int64, 0.5),
            (DataType::Uint8, -1.0),
            (DataType::Uint8, 256.0),
            (DataType::Int8, 128.0),
            (DataType::Int64, 2f64.powi(63)),
            (DataType::Int32, f64::NAN),
            (DataType::Fp16, 65520.0),
            (DataType::Fp16, f64::NAN),
            (DataType::Fp32, 1e39),
        ] {
            let error = element(datatype, value).unwrap_err();
            assert!(
                error.contains(&value.to_string()) && error.contains(datatype.name()),
                "{error}"
            );
        }
    }
}
