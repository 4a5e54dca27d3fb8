//! Ends a run of ONNX Runtime from another thread, without ever touching a later one.
//!
//! The runtime looks at a flag of the run's options between two kernels; a single long kernel runs to its end.

use std::sync::Arc;

use ort::session::{HasSelectedOutputs, RunOptions};
use parking_lot::Mutex;

use crate::engine::Interrupt;

/// Options that one thread runs with while others may set their termination flag.
pub(super) struct SharedOptions(RunOptions<HasSelectedOutputs>);

#[expect(
    unsafe_code,
    reason = "the binding withholds Sync from options that select outputs"
)]
// SAFETY: the binding withholds it because two runs at once could write into one preallocated output. Nothing is
// preallocated in these options, one thread alone runs with them, and others only set their termination flag,
// which the C API allows during a run.
unsafe impl Sync for SharedOptions {}

impl SharedOptions {
    pub(super) fn new(options: RunOptions<HasSelectedOutputs>) -> Arc<Self> {
        Arc::new(Self(options))
    }

    pub(super) fn get(&self) -> &RunOptions<HasSelectedOutputs> {
        &self.0
    }
}

/// What an engine and its interrupter share.
#[derive(Default)]
pub(super) struct Termination {
    state: Mutex<State>,
}

#[derive(Default)]
enum State {
    #[default]
    Idle,
    Running(Arc<SharedOptions>),
    Interrupted,
}

impl Termination {
    /// From now on until the guard ends, `interrupt` reaches a run with these options.
    pub(super) fn run(&self, options: &Arc<SharedOptions>) -> Running<'_> {
        *self.state.lock() = State::Running(Arc::clone(options));
        Running(self)
    }
}

impl Interrupt for Termination {
    fn interrupt(&self) {
        let mut state = self.state.lock();
        if let State::Running(options) = &*state {
            if let Err(error) = options.0.terminate() {
                tracing::warn!(%error, "a run cannot be interrupted");
                return;
            }
            *state = State::Interrupted;
        }
    }
}

/// A run in progress.
pub(super) struct Running<'a>(&'a Termination);

impl Running<'_> {
    /// Ends it. True if it was interrupted: its options carry the flag and must not be used again.
    pub(super) fn end(self) -> bool {
        matches!(
            std::mem::take(&mut *self.0.state.lock()),
            State::Interrupted
        )
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        *self.0.state.lock() = State::Idle;
    }
}
