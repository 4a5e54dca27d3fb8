//! Whether what the file declares fits the model, and what it narrows.
//!
//! Errors are worded as Triton's ONNX Runtime backend words them. Where the file is less exact than the model,
//! the model wins; where it is more exact, requests must follow it.

use forebay_proto::tensor::DataType;

use crate::inference::{Signature, TensorSpec};

/// What the file says about rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Batching {
    /// Nothing: the model itself tells, as Triton completes such a configuration from the model.
    Unsaid,
    /// Shapes are whole, no two requests go together.
    None,
    /// Up to so many, along a first dimension that the declared shapes leave out.
    Rows(u32),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    pub batching: Batching,
    pub inputs: Vec<DeclaredTensor>,
    pub outputs: Vec<DeclaredTensor>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredTensor {
    pub name: String,
    pub datatype: DataType,
    /// As clients send or get it; -1 stands for any size.
    pub dims: Vec<i64>,
    /// As the model takes or gives it, if that is different.
    pub reshape: Option<Vec<i64>>,
    pub optional: bool,
}

impl Declared {
    /// Makes the signature of model `name` what the file says it is.
    ///
    /// # Errors
    /// The two contradict each other. One line.
    pub fn apply(&self, name: &str, signature: &mut Signature) -> Result<(), String> {
        let rows = match self.batching {
            Batching::Unsaid => signature.batched,
            Batching::None => false,
            Batching::Rows(_) => true,
        };
        if rows && !signature.batched {
            let tensors = signature.inputs.iter().filter(|input| !input.optional);
            for tensor in tensors.chain(&signature.outputs) {
                has_rows(name, tensor)?;
            }
        }
        signature.batched = rows;
        if !self.inputs.is_empty() {
            let expected = self.inputs.iter().filter(|input| !input.optional).count();
            let provided = signature
                .inputs
                .iter()
                .filter(|input| !input.optional)
                .count();
            let declares_defaults = self.inputs.iter().any(|input| {
                let spec = signature.inputs.iter().find(|spec| spec.name == input.name);
                spec.is_some_and(|spec| spec.optional)
            });
            if expected != provided && !declares_defaults {
                return Err(format!(
                    "unable to load model '{name}', configuration expects {expected} inputs, model provides {provided}"
                ));
            }
        }
        for declared in &self.inputs {
            let place = Place {
                model: name,
                kind: "input",
                rows,
            };
            let narrowed = place.shape(declared, &signature.inputs)?;
            narrow(&mut signature.inputs, declared, narrowed);
        }
        for declared in &self.outputs {
            let place = Place {
                model: name,
                kind: "output",
                rows,
            };
            place.shape(declared, &signature.outputs)?;
        }
        Ok(())
    }
}

fn narrow(specs: &mut [TensorSpec], declared: &DeclaredTensor, shape: Option<Vec<i64>>) {
    let spec = specs.iter_mut().find(|spec| spec.name == declared.name);
    if let (Some(spec), Some(shape)) = (spec, shape) {
        spec.shape = Some(shape);
    }
}

fn has_rows(model: &str, tensor: &TensorSpec) -> Result<(), String> {
    match &tensor.shape {
        Some(shape) if shape.first() != Some(&-1) => Err(format!(
            "model '{model}', tensor '{}': for the model to support batching the shape should have at least 1 \
             dimension and the first dimension must be -1; but shape expected by the model is {shape:?}",
            tensor.name
        )),
        _ => Ok(()),
    }
}

struct Place<'a> {
    model: &'a str,
    kind: &'a str,
    rows: bool,
}

impl Place<'_> {
    /// The shape that both agree on; None: the model's is a scalar.
    fn shape(
        &self,
        declared: &DeclaredTensor,
        specs: &[TensorSpec],
    ) -> Result<Option<Vec<i64>>, String> {
        let (model, kind, name) = (self.model, self.kind, &declared.name);
        let Some(spec) = specs.iter().find(|spec| spec.name == *name) else {
            let allowed: Vec<&str> = specs.iter().map(|spec| &spec.name[..]).collect();
            return Err(format!(
                "unexpected inference {kind} '{name}', allowed {kind}s are: {}",
                allowed.join(", ")
            ));
        };
        if spec.datatype != declared.datatype {
            let [expected, provided] = [declared.datatype, spec.datatype]
                .map(|datatype| datatype.config_type().as_str_name());
            return Err(format!(
                "unable to load model '{model}', configuration expects datatype {expected} for {kind} \
                 '{name}', model provides {provided}"
            ));
        }
        let dims = declared.reshape.as_ref().unwrap_or(&declared.dims);
        let mut complete: Vec<i64> = self.rows.then_some(-1).into_iter().collect();
        complete.extend(dims);
        let Some(shape) = &spec.shape else {
            return Ok(Some(complete));
        };
        if shape.is_empty() && !self.rows {
            return if dims.iter().all(|size| *size == 1) {
                Ok(None)
            } else {
                Err(format!(
                    "unable to load model '{model}', scalar tensor '{name}', should only provide 1 in the model \
                     configuration when the model doesn't support batching. Model configuration provided: {dims:?}"
                ))
            };
        }
        let fits = shape.len() == complete.len()
            && shape
                .iter()
                .zip(&complete)
                .all(|(provided, said)| provided == said || *provided == -1 || *said == -1);
        if !fits {
            return Err(self.mismatch(name, shape, &complete));
        }
        let narrowest = shape.iter().zip(&complete);
        Ok(Some(
            narrowest
                .map(|(provided, said)| *provided.max(said))
                .collect(),
        ))
    }

    fn mismatch(&self, name: &str, shape: &[i64], complete: &[i64]) -> String {
        let (model, provided, said) = (self.model, shape.len(), complete.len());
        let of_rows = if self.rows {
            "an initial batch dimension because max_batch_size > 0 followed by the explicit tensor shape, making \
             complete "
        } else {
            ""
        };
        format!(
            "model '{model}', tensor '{name}': the model expects {provided} dimensions (shape {shape:?}) but the \
             model configuration specifies {said} dimensions ({of_rows}shape {complete:?})"
        )
    }
}

#[cfg(test)]
mod tests;
