//! What is told about an executed batch: the seam to traces.
//!
//! Instants, not wall-clock times: whoever makes spans of them reads both clocks once and converts.

use std::time::{Duration, Instant};

use opentelemetry::trace::SpanContext;

/// Told once per executed batch, from the instance's thread, after the answers were sent. Must be quick.
pub trait BatchObserver: Send + Sync {
    fn batch_done(&self, report: BatchReport<'_>);
}

/// Nobody listens.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoObserver;

impl BatchObserver for NoObserver {
    fn batch_done(&self, _: BatchReport<'_>) {}
}

/// A stretch of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub start: Instant,
    pub end: Instant,
}

impl Span {
    pub fn duration(&self) -> Duration {
        self.end.saturating_duration_since(self.start)
    }
}

/// One run of the engine. A batch that fails because of one of its requests is run again in parts, and each
/// part is a report of its own.
#[derive(Debug, Clone, Copy)]
pub struct BatchReport<'a> {
    pub model: &'a str,
    pub version: u64,
    /// Number of the instance that ran it, from 0.
    pub instance: usize,
    pub rows: usize,
    /// Stacking the inputs.
    pub gather: Span,
    /// The engine's run.
    pub run: Span,
    /// Slicing the outputs.
    pub scatter: Span,
    /// Why the run failed; its requests were then answered with an error or run again.
    pub error: Option<&'a str>,
    pub requests: &'a [RequestReport],
    /// At least one request carries a span.
    pub any_traced: bool,
}

/// One request of a batch.
#[derive(Debug, Clone)]
pub struct RequestReport {
    /// The caller's span, if this request is traced.
    pub trace: Option<SpanContext>,
    pub rows: usize,
    /// When it entered the queue.
    pub enqueued: Instant,
    /// When an instance took it.
    pub started: Instant,
}
