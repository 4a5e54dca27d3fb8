//! Built-in steps: what all of them have in common, and how one is made of its configuration.

mod bounds;
mod detokenizer;
mod image;
mod labels;
mod pooling;
mod strings;
mod tokenizer;

use std::path::Path;
use std::sync::Arc;

use forebay_config::worker::StepKind;

use super::plan::Typed;
use crate::inference::Tensor;

/// A tensor that a step is given.
#[derive(Debug, Clone)]
pub struct Input {
    /// The step's own name for it.
    pub port: String,
    /// What the ensemble calls it.
    pub name: String,
    pub tensor: Tensor,
    /// The number of its first row in the request, where this is only some of the rows.
    pub first_row: usize,
}

/// Why a step could not be taken. Reads on after the name of the step.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// The caller's values are at fault.
    #[error("{0}")]
    Invalid(String),
    /// Something else is: a file and a model that do not belong together, for example.
    #[error("{0}")]
    Failed(String),
}

/// What a built-in step does. `run` blocks.
pub trait Transform: Typed + Send + Sync {
    /// The tensors of `ports`, in their order.
    fn run(&self, inputs: &[Input], ports: &[String]) -> Result<Vec<Tensor>, StepError>;

    /// Refuses inputs for which `run` would make too much, as far as their shapes tell.
    fn check(&self, _: &[Input], _: &[String]) -> Result<(), StepError> {
        Ok(())
    }

    /// Whether it is done in so little time that a thread that others wait for may do it.
    fn quick(&self, inputs: &[Input]) -> bool;

    /// Rows of its only input have nothing to do with each other, and each takes long.
    fn apart(&self) -> bool {
        false
    }
}

/// To be asked for the whole of the inputs before anything is run with them.
///
/// # Errors
/// Inputs that do not bear out their shapes, or of which the step would make too much.
pub fn check(
    transform: &dyn Transform,
    inputs: &[Input],
    ports: &[String],
) -> Result<(), StepError> {
    inputs.iter().try_for_each(bounds::check)?;
    transform.check(inputs, ports)
}

/// `None`: the step is a model. Reads the files that it needs; blocks. Relative paths start at `repository`.
///
/// # Errors
/// A file that cannot be read or understood.
pub fn make(kind: &StepKind, repository: &Path) -> Result<Option<Arc<dyn Transform>>, String> {
    Ok(Some(match kind {
        StepKind::Model { .. } => return Ok(None),
        StepKind::Tokenizer(config) => Arc::new(tokenizer::Tokenizer::load(config, repository)?),
        StepKind::Detokenizer(config) => {
            Arc::new(detokenizer::Detokenizer::load(config, repository)?)
        }
        StepKind::Pool(config) => Arc::new(pooling::Pooling::new(*config)),
        StepKind::Image(config) => Arc::new(image::Image::new(config.clone())),
        StepKind::Labels(config) => Arc::new(labels::Labels::load(config, repository)?),
    }))
}

pub use bounds::MAX_ROWS;
pub use strings::split_rows;

/// Size of dimension 0: a tensor without any has one row.
fn row_count(input: &Input) -> usize {
    let rows = input.tensor.shape.first().copied().unwrap_or(1);
    usize::try_from(rows).unwrap_or(0)
}

/// The input of this name.
fn input<'a>(inputs: &'a [Input], port: &str) -> Option<&'a Input> {
    inputs.iter().find(|input| input.port == port)
}

/// One that planning made sure of.
fn needed<'a>(inputs: &'a [Input], port: &str) -> Result<&'a Input, StepError> {
    input(inputs, port).ok_or_else(|| StepError::Failed(format!("input '{port}' is missing")))
}

/// Sizes of the dimensions of `input`, which must be so many.
fn sizes<const RANK: usize>(input: &Input) -> Result<[usize; RANK], StepError> {
    let sizes: Option<Vec<usize>> = input
        .tensor
        .shape
        .iter()
        .map(|size| usize::try_from(*size).ok())
        .collect();
    let sizes = sizes.and_then(|sizes| sizes.try_into().ok());
    sizes.ok_or_else(|| {
        StepError::Invalid(format!(
            "'{}' has the shape {:?}, but {RANK} dimensions are needed",
            input.name, input.tensor.shape
        ))
    })
}

/// For an error message.
fn wrong_type(input: &Input) -> StepError {
    StepError::Invalid(format!(
        "'{}' cannot be {}",
        input.name, input.tensor.datatype
    ))
}

fn unknown_port(port: &str) -> String {
    format!("it has no '{port}'")
}

#[cfg(test)]
mod tests;
