//! The memory budget behind its lock: instances park their engines here while they have nothing to run.
//!
//! `ledger` decides who has to go. What a session takes is told by its engines, after each run; until there is
//! one, and where an engine does not know, whoever asks for the seat says how much it is.

mod ledger;

use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex, MutexGuard};

use self::ledger::{Ledger, SeatId};
use crate::engine::Engine;

/// The budget of a process.
pub struct Memory {
    ledger: Mutex<Ledger<Box<dyn Engine>>>,
    granted: Condvar,
}

/// The place of one instance in the budget, given back when it is dropped.
pub struct Seat {
    memory: Arc<Memory>,
    id: SeatId,
    /// What its session takes at least.
    bytes: u64,
}

/// Tells of a seat whether its instance is in memory.
pub struct Watch {
    memory: Arc<Memory>,
    id: SeatId,
}

impl Memory {
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self {
            ledger: Mutex::new(Ledger::new(limit)),
            granted: Condvar::new(),
        })
    }

    /// A seat for the first instance of a model, whose session takes at least so many bytes.
    ///
    /// # Errors
    /// Even alone it would exceed the budget.
    pub fn seat(self: &Arc<Self>, bytes: u64) -> Result<Seat, String> {
        let mut ledger = self.ledger.lock();
        let limit = ledger.limit();
        if bytes > limit {
            return Err(format!(
                "its files are {bytes} bytes, and memory_budget is {limit} bytes"
            ));
        }
        Ok(Seat {
            memory: Arc::clone(self),
            id: ledger.add(bytes),
            bytes,
        })
    }

    /// Bytes of the sessions that are in memory.
    pub fn taken(&self) -> u64 {
        self.ledger.lock().taken()
    }

    /// Engines are dropped outside the lock, and only then others told that there may be room.
    fn let_go(
        &self,
        ledger: &mut MutexGuard<'_, Ledger<Box<dyn Engine>>>,
        engines: Vec<Box<dyn Engine>>,
    ) {
        if !engines.is_empty() {
            tracing::info!(
                "{} idle instances were unloaded, memory_budget is reached",
                engines.len()
            );
            MutexGuard::unlocked(ledger, || drop(engines));
        }
        self.granted.notify_all();
    }
}

impl Seat {
    /// For a further instance of the model: in the same session, or with one of its own.
    pub fn further(&self, shares_session: bool) -> Self {
        let mut ledger = self.memory.ledger.lock();
        let id = match shares_session {
            true => ledger.join(self.id),
            false => ledger.add(self.bytes),
        };
        Self {
            memory: Arc::clone(&self.memory),
            id,
            bytes: self.bytes,
        }
    }

    pub fn watch(&self) -> Watch {
        Watch {
            memory: Arc::clone(&self.memory),
            id: self.id,
        }
    }

    /// Returns when there is room for the engine, which is then to be made. Blocks.
    pub fn claim(&self) {
        let mut ledger = self.memory.ledger.lock();
        let engines = ledger.claim(self.id);
        self.memory.let_go(&mut ledger, engines);
        while !ledger.holds(self.id) {
            self.memory.granted.wait(&mut ledger);
        }
    }

    /// Whether there was room that nobody else has or wants; the engine is then to be made.
    pub fn claim_if_free(&self) -> bool {
        self.memory.ledger.lock().claim_if_free(self.id)
    }

    /// There is nothing to run. `engine`: None if it is lost, or here already.
    pub fn park(&self, engine: Option<Box<dyn Engine>>) {
        let bytes = engine.as_ref().and_then(|engine| engine.memory_bytes());
        let mut ledger = self.memory.ledger.lock();
        if let Some(bytes) = bytes {
            ledger.resize(self.id, bytes);
        }
        let engines = ledger.park(self.id, engine, Instant::now());
        self.memory.let_go(&mut ledger, engines);
    }

    /// There is something to run. None: the engine was let go, or was never made.
    pub fn take(&self) -> Option<Box<dyn Engine>> {
        self.memory.ledger.lock().take(self.id)
    }
}

impl Watch {
    pub fn in_memory(&self) -> bool {
        self.memory.ledger.lock().holds(self.id)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut ledger = self.memory.ledger.lock();
        let engines = ledger.remove(self.id);
        self.memory.let_go(&mut ledger, engines);
    }
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Memory")
            .field("taken", &self.taken())
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Seat {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Seat")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
