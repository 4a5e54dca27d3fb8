//! A request to a model that is a step: what the model's signature asks for, checked again.
//!
//! What a model makes is only known when it is made, and a model may have been reloaded with another
//! signature since the ensemble was put together.

use crate::inference::{InferRequest, Signature, Tensor};
use crate::served::Served;

use super::step::Input;

/// What steps inherit from the request to the ensemble.
#[derive(Debug, Clone)]
pub struct Inherited {
    pub deadline: Option<std::time::Instant>,
    pub priority: u32,
    pub trace: Option<opentelemetry::trace::SpanContext>,
}

/// Why a model cannot be asked.
#[derive(Debug, PartialEq, Eq)]
pub enum Misfit {
    /// A tensor that it does not take as it is.
    Tensor(String),
    /// It is not the model that the ensemble was made for.
    Model(String),
}

/// The request for `outputs`, the model's own names.
pub fn request(
    served: &Served,
    inputs: &[Input],
    outputs: &[String],
    inherited: Inherited,
) -> Result<InferRequest, Misfit> {
    let signature = served.signature();
    let mut given: Vec<(usize, Tensor)> = Vec::with_capacity(inputs.len());
    for input in inputs {
        let index = signature
            .inputs
            .iter()
            .position(|spec| spec.name == input.port);
        let index = index
            .ok_or_else(|| Misfit::Model(format!("it has no input '{}' any more", input.port)))?;
        check(signature, index, input)?;
        given.push((index, input.tensor.clone()));
    }
    given.sort_unstable_by_key(|(index, _)| *index);
    for (index, spec) in signature.inputs.iter().enumerate() {
        if !spec.optional && !given.iter().any(|(given, _)| *given == index) {
            return Err(Misfit::Model(format!("it needs the input '{}'", spec.name)));
        }
    }
    let find = |name: &String| {
        let found = signature.outputs.iter().position(|spec| spec.name == *name);
        found.ok_or_else(|| Misfit::Model(format!("it has no output '{name}' any more")))
    };
    let outputs = outputs.iter().map(find).collect::<Result<_, _>>()?;
    let rows = rows(signature, &given)?;
    if let Some(limit) = served.request_limit().filter(|limit| rows > *limit) {
        return Err(Misfit::Tensor(format!(
            "{rows} rows, it takes {limit} at most"
        )));
    }
    Ok(InferRequest {
        inputs: given,
        outputs,
        rows,
        deadline: inherited.deadline,
        priority: inherited.priority,
        trace: inherited.trace,
    })
}

fn check(signature: &Signature, index: usize, input: &Input) -> Result<(), Misfit> {
    let (spec, tensor) = (&signature.inputs[index], &input.tensor);
    if spec.datatype != tensor.datatype {
        return Err(Misfit::Tensor(format!(
            "input '{}' takes {}, but '{}' is {}",
            spec.name, spec.datatype, input.name, tensor.datatype
        )));
    }
    let fits = spec.shape.as_ref().is_none_or(|expected| {
        let fits = |(want, got): (&i64, &i64)| *want < 0 || want == got;
        expected.len() == tensor.shape.len() && expected.iter().zip(&tensor.shape).all(fits)
    });
    if !fits {
        return Err(Misfit::Tensor(format!(
            "input '{}' takes the shape {:?}, but '{}' has {:?}",
            spec.name,
            spec.shape.as_deref().unwrap_or_default(),
            input.name,
            tensor.shape
        )));
    }
    Ok(())
}

/// The size of dimension 0, which the inputs of a batched model share. Inputs with a default have no batch axis.
fn rows(signature: &Signature, inputs: &[(usize, Tensor)]) -> Result<usize, Misfit> {
    if !signature.batched {
        return Ok(1);
    }
    let mut rows = None;
    for (index, tensor) in inputs {
        let spec = &signature.inputs[*index];
        if spec.optional {
            continue;
        }
        let size = tensor
            .shape
            .first()
            .and_then(|size| usize::try_from(*size).ok());
        let size =
            size.ok_or_else(|| Misfit::Tensor(format!("input '{}' has no rows", spec.name)))?;
        if rows.is_some_and(|rows| rows != size) {
            return Err(Misfit::Tensor(format!(
                "input '{}' has {size} rows, others have {}",
                spec.name,
                rows.unwrap_or_default()
            )));
        }
        rows = Some(size);
    }
    Ok(rows.unwrap_or(1))
}
