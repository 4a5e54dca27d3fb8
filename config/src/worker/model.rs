//! `[defaults]` and `[models.NAME]`: how one model is batched and run.

use std::time::Duration;

#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// Rows of a batch at most; 1 turns batching off. Models without a batch axis are never batched.
    pub max_batch_size: u32,
    /// How long the oldest request may wait for company while an instance is idle; zero: it never waits.
    pub max_queue_delay: Duration,
    /// Requests waiting at most; more are refused with RESOURCE_EXHAUSTED.
    pub max_queue_size: u32,
    /// Sessions, each with a thread of its own; 1 or more.
    pub instances: u32,
    pub provider: Provider,
    /// Time a request may take when the client names none; None: unbounded.
    pub default_timeout: Option<Duration>,
    /// Learn the duration of each batch size at warm-up, and never form a batch that is slower per row
    /// than a smaller one.
    pub learn_batch_size: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    Cpu,
    /// Must run on CUDA; else loading fails.
    Cuda,
    /// CUDA if it can, else CPU, and says so.
    Auto,
}
