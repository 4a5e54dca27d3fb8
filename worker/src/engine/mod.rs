//! What runs a model: one `Engine` value is one instance, owned by one OS thread.
//!
//! The batcher knows only this seam. `onnx` is the real thing; `fake` is scripted, for tests.

pub mod content;
#[cfg(test)]
pub mod fake;
pub mod onnx;

use std::sync::Arc;

use forebay_proto::tensor::DataType;

use crate::inference::{Signature, Tensor};

/// One input of a run, borrowed for its length.
#[derive(Debug, Clone)]
pub struct BoundTensor<'a> {
    /// Index into `Signature::inputs`.
    pub input: usize,
    pub datatype: DataType,
    pub shape: Vec<i64>,
    /// As `Tensor::data`; aligned to the size of an element.
    pub data: &'a [u8],
}

/// Runs one model. Not shared: `run` is called from one thread at a time.
pub trait Engine: Send {
    /// Computes `outputs` (indexes into `Signature::outputs`, ascending) and nothing else; the answer has their order.
    ///
    /// # Errors
    /// `EngineError`, after which the engine is still usable unless it is `Broken`.
    fn run(
        &mut self,
        inputs: &[BoundTensor<'_>],
        outputs: &[usize],
    ) -> Result<Vec<Tensor>, EngineError>;

    /// Memory that its session takes now, in bytes, be it shared with other instances or not. `None`: not known.
    fn memory_bytes(&self) -> Option<u64> {
        None
    }

    /// A handle for other threads, good for the life of the engine; `None` if runs cannot be interrupted.
    fn interrupter(&self) -> Option<Arc<dyn Interrupt>>;
}

/// Ends a run that nobody needs any more.
pub trait Interrupt: Send + Sync {
    /// Ends the run that is in progress, as soon as the engine can, with `EngineError::Interrupted`. Does nothing
    /// between runs: a run that starts later is not touched. Who means one particular run must see to it that
    /// the engine cannot start the next one in the meantime.
    fn interrupt(&self);
}

/// Why a run failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// These values cannot be computed: an index out of range, shapes that do not fit together.
    #[error("{0}")]
    InvalidInput(String),
    #[error("the run was interrupted")]
    Interrupted,
    /// The engine cannot run any more.
    #[error("{0}")]
    Broken(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// Makes the instance of the given number, from 0, of the same model; used for the second and further ones and to
/// replace a broken one. The number says on which of the model's devices: they take turns.
pub type EngineFactory = Arc<dyn Fn(usize) -> Result<Box<dyn Engine>, String> + Send + Sync>;

/// A provider, by the engine's name for it, and how many nodes of the graph it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeShare {
    pub provider: String,
    pub nodes: usize,
}

/// A model as the engine understood it.
pub struct LoadedModel {
    pub signature: Signature,
    /// Where it really runs: "cpu", "cuda", "tensorrt" or "openvino".
    pub provider: &'static str,
    /// Who has the nodes of the graph, as far as the engine can tell; what the provider cannot run, the CPU runs.
    pub nodes: Vec<NodeShare>,
    /// How long a run takes follows from the shapes of its inputs: nothing in the graph is repeated or left out by what
    /// they hold.
    pub predictable: bool,
    /// Why it does not run where the configuration would rather have it.
    pub provider_note: Option<String>,
    /// Memory of the machine that its instances take now, in bytes: weights, and what runs grew to. An estimate.
    pub memory_bytes: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Whether all instances run one session and so take the memory of one. Else each has a session of its own.
    pub shares_session: bool,
    /// Instance 0.
    pub first: Box<dyn Engine>,
    pub factory: EngineFactory,
}

impl std::fmt::Debug for LoadedModel {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("LoadedModel")
            .field("signature", &self.signature)
            .field("provider", &self.provider)
            .finish_non_exhaustive()
    }
}
