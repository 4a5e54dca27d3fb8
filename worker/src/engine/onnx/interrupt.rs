//! Ends a run of ONNX Runtime from another thread, without ever touching a later one.
//!
//! The runtime looks at a flag of the run's options between two kernels; a single long kernel runs to its end.

use ort::session::RunOptions;
use parking_lot::Mutex;

use crate::engine::Interrupt;

/// What an engine and its interrupter share: the options of its runs, which one thread starts, one at a time.
pub(super) struct Termination {
    options: RunOptions,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Running,
    /// The options carry the flag.
    Interrupted,
}

impl Termination {
    /// # Errors
    /// ONNX Runtime has no memory for the options.
    pub(super) fn new() -> Result<Self, String> {
        Ok(Self {
            options: RunOptions::new().map_err(|error| error.to_string())?,
            state: Mutex::new(State::Idle),
        })
    }

    /// From now on until the guard ends, `interrupt` reaches the run that uses its options.
    pub(super) fn run(&self) -> Running<'_> {
        *self.state.lock() = State::Running;
        Running(self)
    }
}

impl Interrupt for Termination {
    fn interrupt(&self) {
        let mut state = self.state.lock();
        if *state != State::Running {
            return;
        }
        match self.options.terminate() {
            Ok(()) => *state = State::Interrupted,
            Err(error) => tracing::warn!(%error, "a run cannot be interrupted"),
        }
    }
}

/// A run in progress.
pub(super) struct Running<'a>(&'a Termination);

impl Running<'_> {
    pub(super) fn options(&self) -> &RunOptions {
        &self.0.options
    }

    /// Ends it. True if it was interrupted.
    pub(super) fn end(self) -> bool {
        *self.0.state.lock() == State::Interrupted
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        if *state == State::Interrupted
            && let Err(error) = self.0.options.unterminate()
        {
            tracing::error!(%error, "an interrupted instance cannot run any more");
        }
        *state = State::Idle;
    }
}
