//! Reads from a session what the model takes and gives, and whether rows may be stacked.

use forebay_proto::tensor::DataType;
use ort::AsPointer;
use ort::session::Session;
use ort::value::{TensorElementType, ValueType};

use crate::inference::{Signature, TensorSpec};

/// # Errors
/// An input or output that is not a tensor, or of a datatype that the protocol does not have.
pub(super) fn read(session: &Session) -> Result<Signature, String> {
    let mut inputs = Vec::new();
    let mut batch_axis = BatchAxis::default();
    for (index, input) in session.inputs().iter().enumerate() {
        let outlet = outlet(
            input.name(),
            input.dtype(),
            "input",
            has_shape(session, Place::Input, index),
        )?;
        batch_axis.input(&outlet);
        inputs.push(outlet.spec);
    }
    for (index, initializer) in session.overridable_initializers().iter().enumerate() {
        let shaped = has_shape(session, Place::Initializer, index);
        let mut outlet = outlet(initializer.name(), initializer.dtype(), "input", shaped)?;
        outlet.spec.optional = true;
        inputs.push(outlet.spec);
    }
    let mut outputs = Vec::new();
    for (index, output) in session.outputs().iter().enumerate() {
        let outlet = outlet(
            output.name(),
            output.dtype(),
            "output",
            has_shape(session, Place::Output, index),
        )?;
        batch_axis.output(&outlet);
        outputs.push(outlet.spec);
    }
    Ok(Signature {
        inputs,
        outputs,
        batched: batch_axis.exists(),
    })
}

/// An input or output with the name that the model gives its first dimension ("" if none).
struct Outlet {
    spec: TensorSpec,
    first_dimension: String,
}

fn outlet(name: &str, value: &ValueType, kind: &str, shaped: bool) -> Result<Outlet, String> {
    let ValueType::Tensor {
        ty,
        shape,
        dimension_symbols,
    } = value
    else {
        return Err(format!(
            "{kind} '{name}' is a {value}, only tensors are supported"
        ));
    };
    let datatype = datatype(*ty).ok_or_else(|| {
        format!("{kind} '{name}' has elements of type {ty}, which the protocol does not have")
    })?;
    Ok(Outlet {
        spec: TensorSpec {
            name: name.to_owned(),
            datatype,
            shape: shaped.then(|| shape.to_vec()),
            optional: false,
        },
        first_dimension: dimension_symbols.first().cloned().unwrap_or_default(),
    })
}

pub(super) fn datatype(element: TensorElementType) -> Option<DataType> {
    Some(match element {
        TensorElementType::Bool => DataType::Bool,
        TensorElementType::Uint8 => DataType::Uint8,
        TensorElementType::Uint16 => DataType::Uint16,
        TensorElementType::Uint32 => DataType::Uint32,
        TensorElementType::Uint64 => DataType::Uint64,
        TensorElementType::Int8 => DataType::Int8,
        TensorElementType::Int16 => DataType::Int16,
        TensorElementType::Int32 => DataType::Int32,
        TensorElementType::Int64 => DataType::Int64,
        TensorElementType::Float16 => DataType::Fp16,
        TensorElementType::Bfloat16 => DataType::Bf16,
        TensorElementType::Float32 => DataType::Fp32,
        TensorElementType::Float64 => DataType::Fp64,
        TensorElementType::String => DataType::Bytes,
        _ => return None,
    })
}

/// Whether dimension 0 means the same everywhere, as far as the model says: free in every input and output,
/// and where inputs name it, by one name. (Names such as "unk__7" are a converter's way to say nothing.)
/// Inputs with a default do not count.
#[derive(Debug, Default)]
struct BatchAxis {
    inputs: usize,
    name: Option<String>,
    broken: bool,
}

impl BatchAxis {
    fn input(&mut self, outlet: &Outlet) {
        self.inputs += 1;
        self.output(outlet);
        let name = outlet.first_dimension.as_str();
        if name.is_empty() || name.starts_with("unk__") {
            return;
        }
        match &self.name {
            Some(known) => self.broken |= known != name,
            None => self.name = Some(name.to_owned()),
        }
    }

    fn output(&mut self, outlet: &Outlet) {
        let first = outlet.spec.shape.as_ref().and_then(|shape| shape.first());
        self.broken |= first != Some(&-1);
    }

    fn exists(&self) -> bool {
        self.inputs > 0 && !self.broken
    }
}

#[derive(Debug, Clone, Copy)]
enum Place {
    Input,
    Initializer,
    Output,
}

/// False if the model does not say how many dimensions the tensor has; the binding shows that as a scalar.
#[expect(
    unsafe_code,
    reason = "the binding does not offer this question of the C API"
)]
fn has_shape(session: &Session, place: Place, index: usize) -> bool {
    let api = ort::api();
    let ask = match place {
        Place::Input => api.SessionGetInputTypeInfo,
        Place::Initializer => api.SessionGetOverridableInitializerTypeInfo,
        Place::Output => api.SessionGetOutputTypeInfo,
    };
    let mut info = std::ptr::null_mut();
    let mut tensor = std::ptr::null();
    // SAFETY: the session is alive during the call and `index` is one of its inputs or outputs, or else the
    // call reports an error and leaves `info` null. `info` belongs to us and is released once; `tensor`
    // points into it and is not used after that.
    unsafe {
        let asked = ort::Error::result_from_status(ask(session.ptr(), index, &mut info));
        if asked.is_err() || info.is_null() {
            return true;
        }
        let cast =
            ort::Error::result_from_status((api.CastTypeInfoToTensorInfo)(info, &mut tensor));
        let shaped = cast.is_err() || tensor.is_null() || (api.TensorTypeAndShape_HasShape)(tensor);
        (api.ReleaseTypeInfo)(info);
        shaped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outlet(shape: Option<&[i64]>, name: &str) -> Outlet {
        Outlet {
            spec: TensorSpec {
                name: "x".to_owned(),
                datatype: DataType::Fp32,
                shape: shape.map(<[i64]>::to_vec),
                optional: false,
            },
            first_dimension: name.to_owned(),
        }
    }

    fn batched(inputs: &[Outlet], outputs: &[Outlet]) -> bool {
        let mut axis = BatchAxis::default();
        inputs.iter().for_each(|input| axis.input(input));
        outputs.iter().for_each(|output| axis.output(output));
        axis.exists()
    }

    #[test]
    fn a_free_first_dimension_everywhere_is_a_batch_axis() {
        let free = || outlet(Some(&[-1, 3]), "");
        assert!(batched(&[free(), outlet(Some(&[-1]), "batch")], &[free()]));
        assert!(batched(
            &[outlet(Some(&[-1]), "unk__1"), outlet(Some(&[-1]), "unk__2")],
            &[outlet(Some(&[-1]), "unk__3")]
        ));
    }

    #[test]
    fn anything_else_is_not() {
        let free = || outlet(Some(&[-1, 3]), "");
        assert!(!batched(&[outlet(Some(&[1, 3]), "")], &[free()]), "fixed");
        assert!(
            !batched(&[free()], &[outlet(Some(&[]), "")]),
            "scalar output"
        );
        assert!(!batched(&[free()], &[outlet(None, "")]), "unknown rank");
        assert!(!batched(&[], &[free()]), "no input");
        assert!(
            !batched(
                &[outlet(Some(&[-1]), "batch"), outlet(Some(&[-1]), "length")],
                &[free()]
            ),
            "two names"
        );
    }
}
