//! From the outputs of a run to the answers of the requests in it.

use crate::batch::gather::Fill;
use crate::batch::job::Job;
use crate::batch::scatter::{scatter, shorten};
use crate::engine::EngineError;
use crate::inference::{InferRequest, Tensor};

/// Why a batch has no outputs.
#[derive(Debug)]
pub enum Failure {
    Engine(EngineError),
    /// The engine is gone.
    Lost(String),
    /// Rows must not be stacked.
    NotByRow(String),
    /// An output to be cut to length does not have the length of the inputs.
    NotByLength(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Engine(error) => error.fmt(formatter),
            Self::Lost(reason) | Self::NotByRow(reason) | Self::NotByLength(reason) => {
                formatter.write_str(reason)
            }
        }
    }
}

/// What at least one request asked for, ascending.
pub fn wanted_outputs(jobs: &[Job]) -> Vec<usize> {
    let mut wanted: Vec<usize> = Vec::new();
    for job in jobs {
        if job.request.outputs != wanted {
            wanted.extend_from_slice(&job.request.outputs);
            wanted.sort_unstable();
            wanted.dedup();
        }
    }
    wanted
}

/// To every request its rows of the outputs it asked for, in its order.
pub fn distribute(
    jobs: &[Job],
    outputs: &[usize],
    results: Vec<Tensor>,
    fill: Option<Fill<'_>>,
) -> Result<Vec<Vec<Tensor>>, Failure> {
    let answers = match jobs {
        [_] => vec![results],
        _ => {
            let rows: Vec<usize> = jobs.iter().map(|job| job.request.rows).collect();
            scatter(&results, &rows).map_err(|error| Failure::NotByRow(error.to_string()))?
        }
    };
    let pick = |(job, answer): (&Job, Vec<Tensor>)| {
        if job.request.outputs == outputs {
            return Some(answer);
        }
        let position = |output| outputs.binary_search(output).ok();
        let wanted = job.request.outputs.iter();
        wanted
            .map(|output| answer.get(position(output)?).cloned())
            .collect()
    };
    let picked: Option<Vec<Vec<Tensor>>> = jobs.iter().zip(answers).map(pick).collect();
    let mut picked = picked.ok_or_else(|| {
        Failure::Engine(EngineError::Failed(
            "the engine gave fewer outputs than asked for".to_owned(),
        ))
    })?;
    if let Some(fill) = fill {
        for (job, answer) in jobs.iter().zip(&mut picked) {
            cut_to_length(&job.request, answer, fill)?;
        }
    }
    Ok(picked)
}

/// Gives an answer out of a filled up batch the length of its request.
fn cut_to_length(
    request: &InferRequest,
    answer: &mut [Tensor],
    fill: Fill<'_>,
) -> Result<(), Failure> {
    let own = fill.padding.length(request).unwrap_or(fill.length);
    for (output, tensor) in request.outputs.iter().zip(answer) {
        if own == fill.length || !fill.padding.cuts(*output) {
            continue;
        }
        *tensor = shorten(tensor, fill.length, own).ok_or_else(|| {
            Failure::NotByLength(format!(
                "output {output} has shape {:?} for inputs of length {}",
                tensor.shape, fill.length
            ))
        })?;
    }
    Ok(())
}
