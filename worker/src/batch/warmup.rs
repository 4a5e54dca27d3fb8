//! First runs of a fresh engine, with made-up inputs: memory grows before the first caller comes, and the
//! duration of each batch size becomes known.
//!
//! Bounded in time; a model that refuses made-up inputs is none the worse, it learns from its callers instead.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::batch::curve::{HOPELESS, sizes};
use crate::batch::gather::Gather;
use crate::batch::padding::{LENGTH_AXIS, Padding};
use crate::batch::scatter::scatter;
use crate::engine::{Engine, EngineError};
use crate::inference::{InferRequest, Signature, Tensor, TensorSpec};

/// What stands for a free dimension that is not the batch axis.
const FREE_DIMENSION: i64 = 32;
/// Lengths of a padded model that are made up.
const MAX_LENGTHS: usize = 6;
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

/// Made-up requests of one row each, of every length that a padded model is to know; none if the signature leaves
/// too much open.
pub fn synthetic_requests(signature: &Signature, padding: Option<&Padding>) -> Vec<InferRequest> {
    let lengths = match padding {
        Some(padding) => padding.usual_lengths(MAX_LENGTHS),
        None => vec![],
    };
    let requests = match lengths.as_slice() {
        [] => vec![synthetic_request(signature, FREE_DIMENSION)],
        lengths => lengths
            .iter()
            .map(|length| synthetic_request(signature, i64::try_from(*length).ok()?))
            .collect(),
    };
    requests.into_iter().flatten().collect()
}

/// `length`: of every dimension 1 that is free.
fn synthetic_request(signature: &Signature, length: i64) -> Option<InferRequest> {
    let required = signature
        .inputs
        .iter()
        .enumerate()
        .filter(|(_, spec)| !spec.optional);
    let inputs = required
        .map(|(index, spec)| Some((index, synthetic_tensor(spec, signature.batched, length)?)))
        .collect::<Option<Vec<_>>>()?;
    Some(InferRequest {
        inputs,
        outputs: (0..signature.outputs.len()).collect(),
        rows: 1,
        deadline: None,
        priority: 0,
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
pub fn warm_up(
    engine: &mut dyn Engine,
    request: &InferRequest,
    max_rows: usize,
    deadline: Instant,
) -> WarmUp {
    let mut gather = Gather::default();
    let mut learned = WarmUp {
        samples: Vec::new(),
        stackable: true,
    };
    let request_bytes: usize = request
        .inputs
        .iter()
        .map(|(_, tensor)| tensor.data.len())
        .sum();
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

/// Runs one request on its own.
///
/// # Errors
/// The engine's.
pub fn run_alone(engine: &mut dyn Engine, request: &InferRequest) -> Result<(), EngineError> {
    let mut gather = Gather::default();
    let inputs = gather.gather(&[request], request.rows, None);
    engine.run(&inputs, &request.outputs).map(drop)
}

enum Turn {
    Worked,
    Refused,
    NotByRow,
}

/// One whole turn of an instance.
fn run_once(
    engine: &mut dyn Engine,
    gather: &mut Gather,
    request: &InferRequest,
    rows: usize,
) -> Turn {
    let requests = vec![request; rows];
    let inputs = gather.gather(&requests, rows, None);
    match engine.run(&inputs, &request.outputs) {
        Ok(outputs) if rows == 1 || scatter(&outputs, &vec![1; rows]).is_ok() => Turn::Worked,
        Ok(_) => Turn::NotByRow,
        Err(_) => Turn::Refused,
    }
}

/// Zeros, or empty strings.
fn synthetic_tensor(spec: &TensorSpec, batched: bool, length: i64) -> Option<Tensor> {
    let mut shape = spec.shape.clone()?;
    for (axis, dimension) in shape.iter_mut().enumerate() {
        if *dimension < 0 {
            *dimension = match axis {
                0 if batched => 1,
                LENGTH_AXIS => length,
                _ => FREE_DIMENSION,
            };
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use forebay_config::worker::Padding as Config;
    use forebay_proto::tensor::DataType;

    use super::*;
    use crate::batch::padding::Extent;
    use crate::engine::fake::{Script, signature};

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(3600)
    }

    fn spec(datatype: DataType, shape: Option<&[i64]>, optional: bool) -> TensorSpec {
        TensorSpec {
            name: "x".to_owned(),
            datatype,
            shape: shape.map(<[i64]>::to_vec),
            optional,
        }
    }

    fn made_up(inputs: Vec<TensorSpec>, batched: bool) -> Option<InferRequest> {
        let signature = Signature {
            inputs,
            outputs: vec![],
            batched,
        };
        synthetic_requests(&signature, None).pop()
    }

    #[test]
    fn free_dimensions_are_filled_in() {
        let strings = spec(DataType::Bytes, Some(&[-1, 2]), false);
        let default = spec(DataType::Fp32, Some(&[3]), true);
        let tokens = spec(DataType::Int64, Some(&[-1, -1]), false);
        let request = made_up(vec![strings.clone(), default, tokens], true).unwrap();
        let shapes: Vec<_> = request
            .inputs
            .iter()
            .map(|(index, tensor)| (*index, tensor.shape.clone()))
            .collect();
        assert_eq!(shapes, [(0, vec![1, 2]), (2, vec![1, FREE_DIMENSION])]);
        assert_eq!(request.inputs[0].1.data.len(), 8, "two empty strings");
        assert_eq!(
            made_up(vec![strings], false).unwrap().inputs[0].1.shape,
            [FREE_DIMENSION, 2]
        );
    }

    #[test]
    fn nothing_is_made_up_where_the_model_says_too_little_or_wants_too_much() {
        assert!(made_up(vec![spec(DataType::Fp32, None, false)], false).is_none());
        assert!(made_up(vec![spec(DataType::Fp32, Some(&[1 << 40]), false)], false).is_none());
        assert!(
            made_up(
                vec![spec(DataType::Fp32, Some(&[1 << 40, 1 << 40]), false)],
                false
            )
            .is_none()
        );
    }

    #[test]
    fn a_padded_model_is_warmed_up_at_its_lengths() {
        let tokens = spec(DataType::Int64, Some(&[-1, -1]), false);
        let signature = Signature {
            inputs: vec![tokens],
            outputs: vec![],
            batched: true,
        };
        let lengths = |buckets: &[u32]| {
            let config = Config {
                inputs: BTreeMap::from([("x".to_owned(), 0.0)]),
                outputs: vec![],
                buckets: buckets.to_vec(),
            };
            let padding = Padding::new(&config, &signature, Extent::Longest).unwrap();
            let requests = synthetic_requests(&signature, Some(&padding));
            let shapes = requests.iter().map(|request| request.inputs[0].1.shape[1]);
            shapes.collect::<Vec<_>>()
        };
        assert_eq!(lengths(&[24, 100]), [24, 100]);
        assert_eq!(lengths(&[]), [16, 32, 64, 128, 256, 512]);
        let many: Vec<u32> = (1..=12).map(|step| step * 10).collect();
        assert_eq!(lengths(&many), [20, 40, 60, 80, 100, 120]);
    }

    #[test]
    fn every_size_is_run_and_measured() {
        let script: Arc<Script> = Arc::default();
        let mut engine = script.factory()(0).unwrap();
        let request = synthetic_requests(&signature(), None).remove(0);
        let learned = warm_up(&mut *engine, &request, 4, later());
        assert!(learned.stackable);
        assert_eq!(learned.samples.first().map(|sample| sample.rows), Some(1));
        let runs = script.runs.lock();
        assert_eq!(&runs[..RUNS as usize], vec![1; RUNS as usize]);
        assert_eq!(runs.len(), learned.samples.len() * RUNS as usize);
    }

    #[test]
    fn when_time_is_up_one_run_is_enough() {
        let script: Arc<Script> = Arc::default();
        let mut engine = script.factory()(0).unwrap();
        let request = synthetic_requests(&signature(), None).remove(0);
        let learned = warm_up(&mut *engine, &request, 4, Instant::now());
        assert_eq!(learned.samples.len(), 1);
        assert_eq!(*script.runs.lock(), [1]);
    }

    #[test]
    fn rows_that_do_not_come_back_are_noticed() {
        let script: Arc<Script> = Arc::default();
        script.crooked.store(true, Ordering::SeqCst);
        let mut engine = script.factory()(0).unwrap();
        let request = synthetic_requests(&signature(), None).remove(0);
        let learned = warm_up(&mut *engine, &request, 4, later());
        assert!(!learned.stackable);
        assert_eq!(learned.samples.len(), 1);
    }
}
