//! What crosses the seam between the services and the models: one request's tensors in, tensors or an error out.
//!
//! Plain data. The services build an `InferRequest` that is already checked against the model's
//! `Signature`; the batcher and the engine rely on that.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use forebay_proto::tensor::DataType;

/// One tensor of a model's signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    pub name: String,
    pub datatype: DataType,
    /// −1 where any size is accepted; the batch axis, if any, is dimension 0. Empty: a scalar.
    /// `None`: the model does not say the rank, any shape is passed on.
    pub shape: Option<Vec<i64>>,
    /// The input has a default value inside the model and may be left out.
    pub optional: bool,
}

/// What a model takes and gives, read from the model itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    pub inputs: Vec<TensorSpec>,
    pub outputs: Vec<TensorSpec>,
    /// Every input and output has a free dimension 0 with the same meaning: rows may be stacked along it.
    pub batched: bool,
}

/// Raw little-endian bytes of a tensor, row major; BYTES as u32 length + bytes per element.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    pub datatype: DataType,
    pub shape: Vec<i64>,
    pub data: Bytes,
}

/// A checked request. `inputs` pairs an index into `Signature::inputs` with its tensor, sorted by index.
#[derive(Debug, Clone)]
pub struct InferRequest {
    pub inputs: Vec<(usize, Tensor)>,
    /// Indexes into `Signature::outputs`, in the order the caller wants them.
    pub outputs: Vec<usize>,
    /// Rows along the batch axis; 1 for a model that is not batched.
    pub rows: usize,
    pub deadline: Option<Instant>,
    /// 1 goes first; 0: the model's default.
    pub priority: u32,
    /// The caller's span, if this request is traced.
    pub trace: Option<opentelemetry::trace::SpanContext>,
}

/// The answer: tensors in the order of `InferRequest::outputs`.
#[derive(Debug, Clone)]
pub struct InferResponse {
    pub outputs: Vec<Tensor>,
    pub timing: Timing,
    pub origin: Origin,
}

/// Where an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Origin {
    /// The model ran for this request.
    #[default]
    Run,
    /// The model ran for an identical request at the same time.
    Joined,
    /// The response cache had it.
    Kept,
}

/// Where the time of one request went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timing {
    /// From submission until an instance took the batch.
    pub queue: Duration,
    /// Gathering the batch's inputs.
    pub input: Duration,
    /// The engine's run.
    pub compute: Duration,
    /// Slicing the outputs.
    pub output: Duration,
    /// Rows of the batch this request was part of.
    pub batch_rows: usize,
}

/// Why a request got no answer. The services map each to one status.
#[derive(Debug, Clone, thiserror::Error)]
pub enum InferError {
    /// The engine refused the values (out of range index, incompatible shapes): the caller's fault.
    #[error("{0}")]
    InvalidInput(String),
    #[error("queue of model '{model}' is full ({limit} requests wait)")]
    QueueFull { model: String, limit: u32 },
    /// What waits and runs before it would take longer than the request has; it was not queued.
    #[error(
        "model '{model}' cannot meet the deadline (an answer is expected in {expected_wait:?})"
    )]
    CannotMeetDeadline {
        model: String,
        expected_wait: Duration,
    },
    #[error("deadline passed while the request waited in the queue of model '{0}'")]
    DeadlineInQueue(String),
    /// Of a request that is run in parts: only some of them were done in time.
    #[error("deadline passed when model '{0}' had done only some of the rows of the request")]
    DeadlineWhileRunning(String),
    /// Of a request that is run in parts: what they gave until it was given up.
    #[error(
        "answer of model '{model}' of {bytes} bytes or more exceeds the limit of {limit} bytes"
    )]
    AnswerTooLarge {
        model: String,
        bytes: usize,
        limit: usize,
    },
    #[error("model '{0}' is unloading")]
    Unavailable(String),
    /// A step of an ensemble whose model does not take requests.
    #[error("model '{ensemble}' is not ready: {step}: {reason}")]
    StepNotReady {
        ensemble: String,
        step: String,
        reason: String,
    },
    /// The same of a step of an ensemble, when models of other steps may have begun already.
    #[error("{0}")]
    Begun(Box<InferError>),
    #[error("model '{model}' failed: {message}")]
    Engine { model: Arc<str>, message: String },
}
