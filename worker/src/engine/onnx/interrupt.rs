//! Ends a run of ONNX Runtime from another thread, without ever touching a later one.
//!
//! The runtime looks at a flag of the run's options between two kernels; a single long kernel runs to its end.

use ort::session::RunOptions;
use parking_lot::Mutex;

use crate::engine::{EngineError, Interrupt};

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
    ///
    /// # Errors
    /// `Broken`: the flag cannot be taken back, so every later run with these options would end at once.
    pub(super) fn end(self) -> Result<bool, EngineError> {
        self.0.settle()
    }
}

impl Termination {
    /// Nothing interrupts from here on, and the next run finds no flag: both under one lock, as an interrupt in between
    /// would end every later run.
    fn settle(&self) -> Result<bool, EngineError> {
        let mut state = self.state.lock();
        let interrupted = std::mem::replace(&mut *state, State::Idle) == State::Interrupted;
        if interrupted {
            self.options.unterminate().map_err(|error| {
                EngineError::Broken(format!("runs would be interrupted from now on: {error}"))
            })?;
        }
        Ok(interrupted)
    }
}

/// Also where a panic ended the run.
impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.settle() {
            tracing::warn!(%error, "after a run that was not ended");
        }
    }
}
