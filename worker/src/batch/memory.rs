//! The memory budget behind its lock: instances park their engines here while they have nothing to run.
//!
//! `ledger` decides who has to go. What an engine takes is not measured but told by whoever made it, as the
//! allocations of a runtime cannot be told apart.

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
}

impl Memory {
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self {
            ledger: Mutex::new(Ledger::new(limit)),
            granted: Condvar::new(),
        })
    }

    /// Seats for the instances of a model, each of which takes so many bytes.
    ///
    /// # Errors
    /// Even alone an instance would exceed the budget.
    pub fn seats(self: &Arc<Self>, instances: usize, bytes: u64) -> Result<Vec<Seat>, String> {
        let mut ledger = self.ledger.lock();
        let limit = ledger.limit();
        if bytes > limit {
            return Err(format!(
                "its files are {bytes} bytes, and memory_budget is {limit} bytes"
            ));
        }
        let seats = (0..instances).map(|_| Seat {
            memory: Arc::clone(self),
            id: ledger.add(bytes),
        });
        Ok(seats.collect())
    }

    /// Bytes of the engines that are in memory.
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
        let mut ledger = self.memory.ledger.lock();
        let engines = ledger.park(self.id, engine, Instant::now());
        self.memory.let_go(&mut ledger, engines);
    }

    /// There is something to run. None: the engine was let go, or was never made.
    pub fn take(&self) -> Option<Box<dyn Engine>> {
        self.memory.ledger.lock().take(self.id)
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
