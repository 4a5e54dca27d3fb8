//! `ModelInferRequest` in, a request that the batcher may rely on out, or what is wrong with it.
//!
//! Checks names, datatypes, shapes and bytes against the model's signature. Raw tensors stay slices of the
//! message they came in, and nothing is allocated by what a shape claims. The wording is Triton's where
//! clients are used to it. Unknown parameters are ignored.

use std::collections::BTreeMap;
use std::fmt::Write;

use bytes::Bytes;
use forebay_proto::inference::infer_parameter::ParameterChoice;
use forebay_proto::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use forebay_proto::inference::{InferParameter, ModelInferRequest};
use forebay_proto::tensor::{DataType, TensorError, check_raw, raw_from_contents};

use super::Fault;
use super::delivery::Delivery;
use super::shared::Shared;
use crate::inference::{Signature, Tensor, TensorSpec};

/// What a request is checked against.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    pub model: &'a str,
    pub signature: &'a Signature,
    /// Rows of one request at most; `None`: any number.
    pub max_rows: Option<usize>,
    /// What of the request lies in shared memory.
    pub shared: &'a Shared,
}

/// The checked tensors of a request, see `InferRequest` for their order.
#[derive(Debug, PartialEq)]
pub struct Tensors {
    pub inputs: Vec<(usize, Tensor)>,
    pub outputs: Vec<usize>,
    /// How each of `outputs` is to be delivered.
    pub deliveries: Vec<Delivery>,
    pub rows: usize,
}

/// Takes the tensors out of `message`.
pub fn tensors(target: Target<'_>, message: &mut ModelInferRequest) -> Result<Tensors, Fault> {
    let inputs = target.inputs(message)?;
    let rows = target.rows(&inputs)?;
    let (outputs, deliveries) = target.outputs(&message.outputs)?;
    Ok(Tensors {
        inputs,
        outputs,
        deliveries,
        rows,
    })
}

impl Target<'_> {
    fn inputs(&self, message: &mut ModelInferRequest) -> Result<Vec<(usize, Tensor)>, Fault> {
        let sent = std::mem::take(&mut message.inputs);
        let raw = std::mem::take(&mut message.raw_input_contents);
        let all_raw = !raw.is_empty();
        let shared = &self.shared.inputs;
        let in_message = sent.len() - shared.iter().flatten().count();
        if all_raw && raw.len() != in_message {
            return Err(Fault::Invalid(format!(
                "expected {in_message} entries in raw_input_contents, one for each input, but got {} for model '{}'",
                raw.len(),
                self.model
            )));
        }
        let mut raw = raw.into_iter();
        let mut inputs: Vec<(usize, Tensor)> =
            Vec::with_capacity(sent.len().min(self.signature.inputs.len()));
        for (position, input) in sent.into_iter().enumerate() {
            let (index, spec) = find_input(self.model, self.signature, &input.name)?;
            if inputs.iter().any(|(other, _)| *other == index) {
                return Err(repeated(&input.name));
            }
            let shared = shared.get(position).cloned().flatten();
            let data = match shared.or_else(|| raw.next()) {
                Some(_) if input.contents.is_some() => {
                    return Err(Fault::Invalid(format!(
                        "contents field must not be specified when using raw_input_contents for '{}' for model '{}'",
                        input.name, self.model
                    )));
                }
                data => data,
            };
            inputs.push((index, self.input(spec, input, data)?));
        }
        inputs.sort_unstable_by_key(|(index, _)| *index);
        self.check_complete(&inputs)?;
        Ok(inputs)
    }

    fn input(
        &self,
        spec: &TensorSpec,
        input: InferInputTensor,
        raw: Option<Bytes>,
    ) -> Result<Tensor, Fault> {
        let datatype =
            DataType::parse(&input.datatype).filter(|datatype| *datatype == spec.datatype);
        let Some(datatype) = datatype else {
            return Err(Fault::Invalid(format!(
                "inference input '{}' data-type is '{}', but model '{}' expects '{}'",
                spec.name,
                cut(&input.datatype),
                self.model,
                spec.datatype
            )));
        };
        self.check_shape(spec, &input.shape)?;
        let data = match raw {
            Some(data) => {
                check_raw(datatype, &input.shape, &data)
                    .map_err(|error| self.bad_tensor(spec, error))?;
                data
            }
            None => raw_from_contents(datatype, &input.shape, &input.contents.unwrap_or_default())
                .map_err(|error| self.bad_tensor(spec, error))?,
        };
        Ok(Tensor {
            datatype,
            shape: input.shape,
            data,
        })
    }

    fn check_shape(&self, spec: &TensorSpec, shape: &[i64]) -> Result<(), Fault> {
        let fits = |expected: &[i64]| {
            expected.len() == shape.len()
                && expected
                    .iter()
                    .zip(shape)
                    .all(|(want, got)| *want < 0 || want == got)
        };
        match &spec.shape {
            Some(expected) if !fits(expected) => Err(Fault::Invalid(format!(
                "unexpected shape for input '{}' for model '{}'. Expected {}, got {}",
                spec.name,
                self.model,
                dimensions(expected),
                dimensions(shape)
            ))),
            _ => Ok(()),
        }
    }

    fn bad_tensor(&self, spec: &TensorSpec, error: TensorError) -> Fault {
        Fault::Invalid(match error {
            TensorError::ByteLength {
                expected, actual, ..
            } => format!(
                "input byte size mismatch for input '{}' for model '{}'. Expected {expected}, got {actual}",
                spec.name, self.model
            ),
            error => format!("input '{}' for model '{}': {error}", spec.name, self.model),
        })
    }

    fn check_complete(&self, inputs: &[(usize, Tensor)]) -> Result<(), Fault> {
        let given = |index: usize| inputs.iter().any(|(other, _)| *other == index);
        let specs = &self.signature.inputs;
        let missing: Vec<&TensorSpec> = (0..specs.len())
            .filter(|index| !given(*index))
            .map(|index| &specs[index])
            .filter(|spec| !spec.optional)
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let required = specs.iter().filter(|spec| !spec.optional).count();
        Err(Fault::Invalid(format!(
            "expected {required} inputs but got {} inputs for model '{}'. Got input(s) [{}], but missing \
             required input(s) [{}]. Please provide all required input(s).",
            inputs.len(),
            self.model,
            names(inputs.iter().map(|(index, _)| &specs[*index])),
            names(missing.into_iter())
        )))
    }

    /// Rows of the request: the size of dimension 0, which the inputs of a batched model share. Inputs with
    /// a default have no batch axis.
    fn rows(&self, inputs: &[(usize, Tensor)]) -> Result<usize, Fault> {
        if !self.signature.batched {
            return Ok(1);
        }
        let mut rows = None;
        for (index, tensor) in inputs {
            let spec = &self.signature.inputs[*index];
            if spec.optional {
                continue;
            }
            let size = tensor
                .shape
                .first()
                .and_then(|size| usize::try_from(*size).ok());
            match (rows, size) {
                (_, None) => {
                    return Err(Fault::Invalid(format!(
                        "input '{}' for model '{}' has no batch axis",
                        spec.name, self.model
                    )));
                }
                (Some(rows), Some(size)) if rows != size => {
                    return Err(Fault::Invalid(format!(
                        "input '{}' batch size does not match other inputs for '{}': {size}, others have {rows}",
                        spec.name, self.model
                    )));
                }
                (_, size) => rows = size,
            }
        }
        let rows = rows.unwrap_or(1);
        match self.max_rows {
            Some(limit) if rows > limit => Err(Fault::Invalid(format!(
                "inference request batch-size must be <= {limit} for '{}'",
                self.model
            ))),
            _ => Ok(rows),
        }
    }

    fn outputs(
        &self,
        requested: &[InferRequestedOutputTensor],
    ) -> Result<(Vec<usize>, Vec<Delivery>), Fault> {
        let specs = &self.signature.outputs;
        if requested.is_empty() {
            return Ok((
                (0..specs.len()).collect(),
                vec![Delivery::Tensor; specs.len()],
            ));
        }
        let mut outputs = Vec::with_capacity(requested.len().min(specs.len()));
        let mut deliveries = Vec::with_capacity(outputs.capacity());
        for (position, output) in requested.iter().enumerate() {
            let Some(index) = specs.iter().position(|spec| spec.name == output.name) else {
                return Err(Fault::Invalid(format!(
                    "unexpected inference output '{}' for model '{}'",
                    cut(&output.name),
                    self.model
                )));
            };
            if outputs.contains(&index) {
                return Err(Fault::Invalid(format!(
                    "output '{}' already exists in request",
                    output.name
                )));
            }
            let place = self.shared.outputs.get(position).and_then(Option::as_ref);
            deliveries.push(Delivery::asked(&output.parameters, place)?);
            outputs.push(index);
        }
        Ok((outputs, deliveries))
    }
}

/// Whether `inputs` are inputs of the model, each at most once; nothing else of them is looked at.
pub fn check_inputs(
    model: &str,
    signature: &Signature,
    inputs: &[InferInputTensor],
) -> Result<(), Fault> {
    let mut seen = vec![false; signature.inputs.len()];
    for input in inputs {
        let (index, _) = find_input(model, signature, &input.name)?;
        if std::mem::replace(&mut seen[index], true) {
            return Err(repeated(&input.name));
        }
    }
    Ok(())
}

fn find_input<'a>(
    model: &str,
    signature: &'a Signature,
    name: &str,
) -> Result<(usize, &'a TensorSpec), Fault> {
    let mut specs = signature.inputs.iter().enumerate();
    specs.find(|(_, spec)| spec.name == name).ok_or_else(|| {
        Fault::Invalid(format!(
            "unexpected inference input '{}' for model '{model}'",
            cut(name)
        ))
    })
}

fn repeated(name: &str) -> Fault {
    Fault::Invalid(format!("input '{name}' already exists in request"))
}

/// The request parameter `timeout`, in microseconds; zero and absent: none.
pub fn timeout(parameters: &BTreeMap<String, InferParameter>) -> Result<Option<u64>, Fault> {
    let microseconds = parameters.get("timeout").map_or(Some(0), count);
    let microseconds = microseconds.ok_or_else(|| {
        Fault::Invalid(
            "parameter 'timeout' must be an int64 of 0 or more, in microseconds".to_owned(),
        )
    })?;
    Ok((microseconds > 0).then_some(microseconds))
}

/// The request parameter `priority`; zero and absent: the model's default.
pub fn priority(parameters: &BTreeMap<String, InferParameter>) -> Result<u32, Fault> {
    let priority = parameters.get("priority").map_or(Some(0), count);
    let priority = priority.ok_or_else(|| {
        Fault::Invalid("parameter 'priority' must be a uint64 or an int64 of 0 or more".to_owned())
    })?;
    Ok(u32::try_from(priority).unwrap_or(u32::MAX))
}

/// An integer of 0 or more.
fn count(parameter: &InferParameter) -> Option<u64> {
    match &parameter.parameter_choice {
        Some(ParameterChoice::Int64Param(value)) => u64::try_from(*value).ok(),
        Some(ParameterChoice::Uint64Param(value)) => Some(*value),
        _ => None,
    }
}

/// A name from a request, shortened for an error message.
fn cut(name: &str) -> &str {
    let end = name
        .char_indices()
        .nth(100)
        .map_or(name.len(), |(end, _)| end);
    &name[..end]
}

fn names<'a>(specs: impl Iterator<Item = &'a TensorSpec>) -> String {
    specs
        .map(|spec| format!("'{}'", spec.name))
        .collect::<Vec<_>>()
        .join(",")
}

/// A shape in an error message, cut after its first dimensions.
fn dimensions(shape: &[i64]) -> String {
    let mut text = String::from("[");
    for (axis, size) in shape.iter().take(16).enumerate() {
        let comma = if axis == 0 { "" } else { "," };
        write!(text, "{comma}{size}").expect("writing to a String succeeds");
    }
    text.push_str(if shape.len() > 16 { ",…]" } else { "]" });
    text
}

#[cfg(test)]
mod tests;
