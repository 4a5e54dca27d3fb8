//! Raw protocol bytes to ONNX Runtime's values and back.
//!
//! Numbers are handed over where they lie: the runtime reads them in the batch's own buffer. (Its IoBinding
//! would be given a copy of them, and saves nothing on a CPU: all that the engine adds to a run of a small
//! model is half a microsecond.) Strings are copied, the runtime keeps its own.

use std::fmt::Debug;

use bytes::Bytes;
use forebay_proto::tensor::{DataType, bytes_elements, encode_bytes_element};
use half::{bf16, f16};
use ort::session::SessionInputValue;
use ort::value::{DynValue, PrimitiveTensorElementType, TensorElementType, TensorRef, ValueType};
use zerocopy::{FromBytes, Immutable, TryFromBytes};

use crate::engine::onnx::lending::Lending;
use crate::engine::{BoundTensor, EngineError};
use crate::inference::Tensor;

/// # Errors
/// Bytes and shape that do not agree, or content that the runtime cannot take.
pub(super) fn bind<'a>(tensor: &BoundTensor<'a>) -> Result<SessionInputValue<'a>, EngineError> {
    match tensor.datatype {
        DataType::Bool => {
            let elements = <[bool]>::try_ref_from_bytes(tensor.data).map_err(|_| {
                EngineError::InvalidInput("a BOOL element is neither 0 nor 1".to_owned())
            })?;
            view(&tensor.shape, elements)
        }
        DataType::Uint8 => numbers::<u8>(tensor),
        DataType::Uint16 => numbers::<u16>(tensor),
        DataType::Uint32 => numbers::<u32>(tensor),
        DataType::Uint64 => numbers::<u64>(tensor),
        DataType::Int8 => numbers::<i8>(tensor),
        DataType::Int16 => numbers::<i16>(tensor),
        DataType::Int32 => numbers::<i32>(tensor),
        DataType::Int64 => numbers::<i64>(tensor),
        DataType::Fp16 => numbers::<f16>(tensor),
        DataType::Bf16 => numbers::<bf16>(tensor),
        DataType::Fp32 => numbers::<f32>(tensor),
        DataType::Fp64 => numbers::<f64>(tensor),
        DataType::Bytes => strings(tensor),
    }
}

fn numbers<'a, T>(tensor: &BoundTensor<'a>) -> Result<SessionInputValue<'a>, EngineError>
where
    T: PrimitiveTensorElementType + FromBytes + Immutable + Clone + Debug + 'static,
{
    let elements: &'a [T] = if tensor.data.is_empty() {
        &[]
    } else {
        <[T]>::ref_from_bytes(tensor.data).map_err(|error| {
            EngineError::Failed(format!(
                "{} bytes at this address are not {}: {error}",
                tensor.data.len(),
                tensor.datatype
            ))
        })?
    };
    view(&tensor.shape, elements)
}

fn view<'a, T>(shape: &[i64], elements: &'a [T]) -> Result<SessionInputValue<'a>, EngineError>
where
    T: PrimitiveTensorElementType + Clone + Debug + 'static,
{
    let tensor = TensorRef::from_array_view((shape.to_vec(), elements)).map_err(refused)?;
    Ok(SessionInputValue::from(tensor))
}

fn strings<'a>(tensor: &BoundTensor<'a>) -> Result<SessionInputValue<'a>, EngineError> {
    let mut elements: Vec<String> = Vec::new();
    for element in bytes_elements(tensor.data) {
        let text = element
            .ok()
            .and_then(|element| std::str::from_utf8(element).ok());
        let text = text
            .ok_or_else(|| EngineError::InvalidInput("a BYTES element is not UTF-8".to_owned()))?;
        elements.push(text.to_owned());
    }
    let value = ort::value::Tensor::from_string_array((tensor.shape.clone(), &elements[..]))
        .map_err(refused)?;
    Ok(SessionInputValue::from(value))
}

fn refused(error: ort::Error) -> EngineError {
    EngineError::InvalidInput(error.to_string())
}

/// # Errors
/// A value that is not a tensor of a datatype of the protocol.
pub(super) fn take(value: DynValue, lending: &Lending) -> Result<Tensor, EngineError> {
    let ValueType::Tensor { ty, shape, .. } = value.dtype() else {
        return Err(EngineError::Failed(format!(
            "the model gave a {}, not a tensor",
            value.dtype()
        )));
    };
    let (element, shape) = (*ty, shape.to_vec());
    let (datatype, data) = match element {
        TensorElementType::Bool => (DataType::Bool, lending.bytes::<bool>(value)),
        TensorElementType::Uint8 => (DataType::Uint8, lending.bytes::<u8>(value)),
        TensorElementType::Uint16 => (DataType::Uint16, lending.bytes::<u16>(value)),
        TensorElementType::Uint32 => (DataType::Uint32, lending.bytes::<u32>(value)),
        TensorElementType::Uint64 => (DataType::Uint64, lending.bytes::<u64>(value)),
        TensorElementType::Int8 => (DataType::Int8, lending.bytes::<i8>(value)),
        TensorElementType::Int16 => (DataType::Int16, lending.bytes::<i16>(value)),
        TensorElementType::Int32 => (DataType::Int32, lending.bytes::<i32>(value)),
        TensorElementType::Int64 => (DataType::Int64, lending.bytes::<i64>(value)),
        TensorElementType::Float16 => (DataType::Fp16, lending.bytes::<f16>(value)),
        TensorElementType::Bfloat16 => (DataType::Bf16, lending.bytes::<bf16>(value)),
        TensorElementType::Float32 => (DataType::Fp32, lending.bytes::<f32>(value)),
        TensorElementType::Float64 => (DataType::Fp64, lending.bytes::<f64>(value)),
        TensorElementType::String => return texts(&value),
        other => {
            return Err(EngineError::Failed(format!(
                "the model gave elements of type {other}"
            )));
        }
    };
    Ok(Tensor {
        datatype,
        shape,
        data: data.map_err(failed)?,
    })
}

fn texts(value: &DynValue) -> Result<Tensor, EngineError> {
    let (shape, elements) = value.try_extract_strings().map_err(failed)?;
    let mut data = Vec::with_capacity(elements.iter().map(|element| 4 + element.len()).sum());
    for element in &elements {
        encode_bytes_element(element.as_bytes(), &mut data)
            .map_err(|error| EngineError::Failed(error.to_string()))?;
    }
    Ok(Tensor {
        datatype: DataType::Bytes,
        shape: shape.to_vec(),
        data: Bytes::from(data),
    })
}

fn failed(error: ort::Error) -> EngineError {
    EngineError::Failed(error.to_string())
}
