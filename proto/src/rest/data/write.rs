//! Raw bytes to a flat JSON array.

use serde_json::ser::{CompactFormatter, Formatter};

use super::DataError;
use crate::tensor::{DataType, bytes_elements};

const VEC_WRITES: &str = "writing to a Vec succeeds";

/// Appends the elements of a tensor as a JSON array. The data must have been checked against its shape. Numbers
/// are written in the shortest form that is read back as the same value.
pub(in crate::rest) fn write_data(
    datatype: DataType,
    data: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), DataError> {
    let mut json = CompactFormatter;
    out.push(b'[');
    match datatype {
        DataType::Bool => each(data, out, |[byte], out| {
            out.extend_from_slice(if byte == 0 { b"false" } else { b"true" });
        }),
        DataType::Uint8 => each(data, out, |bytes, out| {
            json.write_u8(out, u8::from_le_bytes(bytes))
                .expect(VEC_WRITES);
        }),
        DataType::Uint16 => each(data, out, |bytes, out| {
            json.write_u16(out, u16::from_le_bytes(bytes))
                .expect(VEC_WRITES);
        }),
        DataType::Uint32 => each(data, out, |bytes, out| {
            json.write_u32(out, u32::from_le_bytes(bytes))
                .expect(VEC_WRITES);
        }),
        DataType::Uint64 => each(data, out, |bytes, out| {
            json.write_u64(out, u64::from_le_bytes(bytes))
                .expect(VEC_WRITES);
        }),
        DataType::Int8 => each(data, out, |bytes, out| {
            json.write_i8(out, i8::from_le_bytes(bytes))
                .expect(VEC_WRITES);
        }),
        DataType::Int16 => each(data, out, |bytes, out| {
            json.write_i16(out, i16::from_le_bytes(bytes))
                .expect(VEC_WRITES);
        }),
        DataType::Int32 => each(data, out, |bytes, out| {
            json.write_i32(out, i32::from_le_bytes(bytes))
                .expect(VEC_WRITES);
        }),
        DataType::Int64 => each(data, out, |bytes, out| {
            json.write_i64(out, i64::from_le_bytes(bytes))
                .expect(VEC_WRITES);
        }),
        DataType::Fp32 => {
            all_finite(data, |bytes| f32::from_le_bytes(bytes).into())?;
            each(data, out, |bytes, out| {
                json.write_f32(out, f32::from_le_bytes(bytes))
                    .expect(VEC_WRITES);
            });
        }
        DataType::Fp64 => {
            all_finite(data, f64::from_le_bytes)?;
            each(data, out, |bytes, out| {
                json.write_f64(out, f64::from_le_bytes(bytes))
                    .expect(VEC_WRITES);
            });
        }
        DataType::Bytes => {
            for (index, element) in bytes_elements(data).enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                let text =
                    std::str::from_utf8(element?).map_err(|_| DataError::NotUtf8 { index })?;
                serde_json::to_writer(&mut *out, text).expect(VEC_WRITES);
            }
        }
        DataType::Fp16 | DataType::Bf16 => return Err(DataError::NoJson(datatype)),
    }
    out.push(b']');
    Ok(())
}

fn each<const N: usize>(
    data: &[u8],
    out: &mut Vec<u8>,
    mut write: impl FnMut([u8; N], &mut Vec<u8>),
) {
    for (index, bytes) in data.as_chunks::<N>().0.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(*bytes, out);
    }
}

fn all_finite<const N: usize>(
    data: &[u8],
    value: impl Fn([u8; N]) -> f64,
) -> Result<(), DataError> {
    for (index, bytes) in data.as_chunks::<N>().0.iter().enumerate() {
        let value = value(*bytes);
        if !value.is_finite() {
            return Err(DataError::NotFinite { index, value });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::encode_bytes_element;

    fn written(datatype: DataType, data: &[u8]) -> Result<String, DataError> {
        let mut out = Vec::new();
        write_data(datatype, data, &mut out).map(|()| String::from_utf8(out).unwrap())
    }

    #[test]
    fn elements_are_written_flat() {
        let text = |datatype, data: &[u8]| written(datatype, data).unwrap();
        assert_eq!(text(DataType::Fp32, &[]), "[]");
        assert_eq!(text(DataType::Bool, &[1, 0]), "[true,false]");
        assert_eq!(text(DataType::Int16, &[0xff, 0xff, 2, 0]), "[-1,2]");
        assert_eq!(
            text(
                DataType::Fp32,
                &[0.1_f32.to_le_bytes(), 2_f32.to_le_bytes()].concat()
            ),
            "[0.1,2.0]"
        );
        let mut strings = Vec::new();
        encode_bytes_element("\"é\n".as_bytes(), &mut strings).unwrap();
        encode_bytes_element(b"", &mut strings).unwrap();
        assert_eq!(text(DataType::Bytes, &strings), r#"["\"é\n",""]"#);
    }

    #[test]
    fn what_json_cannot_say_is_refused() {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let data = [1_f32.to_le_bytes(), value.to_le_bytes()].concat();
            let error = written(DataType::Fp32, &data).unwrap_err();
            assert!(
                matches!(error, DataError::NotFinite { index: 1, .. }),
                "{error}"
            );
        }
        let error = written(DataType::Fp64, &f64::NAN.to_le_bytes()).unwrap_err();
        assert!(error.to_string().contains("NaN"), "{error}");
        let mut strings = Vec::new();
        encode_bytes_element(b"\xff", &mut strings).unwrap();
        assert_eq!(
            written(DataType::Bytes, &strings),
            Err(DataError::NotUtf8 { index: 0 })
        );
        for datatype in [DataType::Fp16, DataType::Bf16] {
            assert_eq!(written(datatype, &[0, 0]), Err(DataError::NoJson(datatype)));
        }
    }
}
