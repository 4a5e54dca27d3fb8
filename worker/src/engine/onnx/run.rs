//! One instance: runs a session in its own thread.

use std::sync::Arc;

use ort::ErrorCode;

use crate::engine::onnx::interrupt::Termination;
use crate::engine::onnx::lending::Lending;
use crate::engine::onnx::shared::SharedSession;
use crate::engine::onnx::values;
use crate::engine::{BoundTensor, Engine, EngineError, Interrupt};
use crate::inference::Tensor;

pub(super) struct Onnx {
    session: Arc<SharedSession>,
    termination: Arc<Termination>,
    lending: Lending,
}

impl Onnx {
    /// # Errors
    /// ONNX Runtime has no memory for a run's options.
    pub(super) fn new(session: Arc<SharedSession>) -> Result<Self, String> {
        Ok(Self {
            session,
            termination: Arc::new(Termination::new()?),
            lending: Lending::default(),
        })
    }
}

impl Engine for Onnx {
    fn run(
        &mut self,
        inputs: &[BoundTensor<'_>],
        outputs: &[usize],
    ) -> Result<Vec<Tensor>, EngineError> {
        let mut feed = Vec::with_capacity(inputs.len());
        for tensor in inputs {
            feed.push((tensor.input, values::bind(tensor)?));
        }
        let running = self.termination.run();
        let results = self.session.run(&feed, outputs, running.options());
        let interrupted = running.end()?;
        let values = match results {
            Ok(values) => values.into_iter(),
            Err(_) if interrupted => return Err(EngineError::Interrupted),
            Err(error) => return Err(classify(error)),
        };
        values
            .map(|value| values::take(value, &self.lending))
            .collect()
    }

    fn memory_bytes(&self) -> Option<u64> {
        self.session.arena_bytes()
    }

    fn interrupter(&self) -> Option<Arc<dyn Interrupt>> {
        Some(Arc::<Termination>::clone(&self.termination))
    }
}

/// Whose fault a failed run is. Kernels report values that they cannot compute (an index out of range, shapes
/// that do not broadcast) under the same codes as faults of their own, so their words decide.
fn classify(error: ort::Error) -> EngineError {
    const CALLERS_FAULT: [&str; 8] = [
        "out of bounds",
        "out of range",
        "must be within",
        "Got invalid dimensions",
        "Invalid rank",
        "broadcast",
        "cannot be reshaped",
        "dimension mismatch",
    ];
    let text = error.to_string();
    if error.code() == ErrorCode::InvalidArgument
        || CALLERS_FAULT.iter().any(|words| text.contains(words))
    {
        EngineError::InvalidInput(text)
    } else {
        EngineError::Failed(text)
    }
}
