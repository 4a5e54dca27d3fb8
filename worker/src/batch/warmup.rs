//! First runs of a fresh engine, with made-up inputs: memory grows before the first caller comes, and the
//! duration of each batch size becomes known.
//!
//! Bounded in time; a model that refuses made-up inputs is none the worse, it learns from its callers instead.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::batch::curve::{HOPELESS, sizes};
use crate::batch::gather::Gather;
use crate::batch::scatter::scatter;
use crate::engine::Engine;
use crate::inference::{InferRequest, Signature, Tensor, TensorSpec};

/// What stands for a free dimension that is not the batch axis.
const FREE_DIMENSION: i64 = 32;
/// Batches whose inputs are larger than this are not made up.
const MAX_INPUT_BYTES: usize = 256 << 20;
/// Runs of one size: the first grows the memory, the best of the others counts.
const RUNS: u32 = 4;

/// A measured batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    pub rows: usize,
    pub took: Duration,
}

/// Made-up requests of one row each; `None` if the signature leaves too much open.
pub fn synthetic_request(signature: &Signature) -> Option<InferRequest> {
    let required = signature.inputs.iter().enumerate().filter(|(_, spec)| !spec.optional);
    let inputs = required
        .map(|(index, spec)| Some((index, synthetic_tensor(spec, signature.batched)?)))
        .collect::<Option<Vec<_>>>()?;
    Some(InferRequest {
        inputs,
        outputs: (0..signature.outputs.len()).collect(),
        rows: 1,
        deadline: None,
        trace: None,
    })
}

/// What the first runs taught.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WarmUp {
    pub samples: Vec<Sample>,
    /// False: stacked rows do not come back as rows.
    pub stackable: bool,
}

/// Runs batches of growing size until `deadline`, or until larger ones are hopelessly slow per row.
pub fn warm_up(engine: &mut dyn Engine, request: &InferRequest, max_rows: usize, deadline: Instant) -> WarmUp {
    let mut gather = Gather::default();
    let mut learned = WarmUp {
        samples: Vec::new(),
        stackable: true,
    };
    let request_bytes: usize = request.inputs.iter().map(|(_, tensor)| tensor.data.len()).sum();
    let mut least_per_row = f64::INFINITY;
    for rows in sizes(max_rows) {
        if request_bytes.saturating_mul(rows) > MAX_INPUT_BYTES {
            break;
        }
        let mut took: Option<Duration> = None;
        for run in 0..RUNS {
            let start = Instant::now();
            match run_once(engine, &mut gather, request, rows) {
                Turn::Worked => {}
                Turn::Refused => return learned,
                Turn::NotByRow => {
                    learned.stackable = false;
                    return learned;
                }
            }
            let this = start.elapsed();
            took = Some(match took {
                Some(best) if run > 1 => best.min(this),
                _ => this,
            });
            if Instant::now() + this > deadline {
                break;
            }
        }
        let Some(took) = took else { break };
        learned.samples.push(Sample { rows, took });
        let per_row = took.as_secs_f64() / rows as f64;
        least_per_row = least_per_row.min(per_row);
        if per_row > least_per_row * HOPELESS || Instant::now() + took * 2 > deadline {
            break;
        }
    }
    learned
}

enum Turn {
    Worked,
    Refused,
    NotByRow,
}

/// One whole turn of an instance.
fn run_once(engine: &mut dyn Engine, gather: &mut Gather, request: &InferRequest, rows: usize) -> Turn {
    let requests = vec![request; rows];
    let inputs = gather.gather(&requests, rows);
    match engine.run(&inputs, &request.outputs) {
        Ok(outputs) if rows == 1 || scatter(&outputs, &vec![1; rows]).is_ok() => Turn::Worked,
        Ok(_) => Turn::NotByRow,
        Err(_) => Turn::Refused,
    }
}

/// Zeros, or empty strings.
fn synthetic_tensor(spec: &TensorSpec, batched: bool) -> Option<Tensor> {
    let mut shape = spec.shape.clone()?;
    for (axis, dimension) in shape.iter_mut().enumerate() {
        if *dimension < 0 {
            *dimension = if axis == 0 && batched { 1 } else { FREE_DIMENSION };
        }
    }
    // An empty string is its length of zero, four bytes of zero.
    let width = spec.datatype.size().unwrap_or(4);
    let bytes = shape.iter().try_fold(width, |product, dimension| {
        product.checked_mul(usize::try_from(*dimension).ok()?)
    })?;
    (bytes <= MAX_INPUT_BYTES).then(|| Tensor {
        datatype: spec.datatype,
        shape,
        data: Bytes::from(vec![0; bytes]),
    })
}
