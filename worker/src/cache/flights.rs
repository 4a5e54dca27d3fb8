//! Runs in progress by key, so that identical requests at the same time are run once.
//!
//! A run is a shared future: whoever waits drives it, it goes on while anybody waits, and when the last one leaves
//! it is dropped, which takes the request back. It leaves this table when it ends, whichever way.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use forebay_cache::{Digested, Key};
use futures::future::{BoxFuture, FutureExt, Shared, WeakShared};
use parking_lot::Mutex;

use crate::batch::job::Answer;

/// One run, to be waited for.
pub type Flight = Shared<BoxFuture<'static, Answer>>;

#[derive(Debug, Default)]
pub struct Flights {
    runs: Arc<Mutex<Runs>>,
}

#[derive(Debug, Default)]
struct Runs {
    by_key: HashMap<Key, Running, Digested>,
    /// Tells a run from a later one with the same key.
    started: u64,
}

#[derive(Debug)]
struct Running {
    number: u64,
    answer: WeakShared<BoxFuture<'static, Answer>>,
    /// Of the request that it was started for.
    deadline: Option<Instant>,
}

/// What becomes of a request.
pub enum Boarding {
    /// Somebody else's run, and its deadline.
    Joined(Flight, Option<Instant>),
    /// A run of its own, which others may join.
    Started(Flight),
}

impl Flights {
    /// Joins the run of this key, or starts the one that `run` makes.
    pub fn board(
        &self,
        key: Key,
        deadline: Option<Instant>,
        run: impl FnOnce() -> BoxFuture<'static, Answer>,
    ) -> Boarding {
        let mut runs = self.runs.lock();
        if let Some(running) = runs.by_key.get(&key)
            && let Some(answer) = running.answer.upgrade()
        {
            return Boarding::Joined(answer, running.deadline);
        }
        runs.started += 1;
        let number = runs.started;
        let landing = Landing {
            runs: Arc::clone(&self.runs),
            key,
            number,
        };
        let run = run();
        let flight = async move {
            let _landing = landing;
            run.await
        };
        let flight = flight.boxed().shared();
        let answer = flight.downgrade().expect("a future that was never polled");
        let running = Running {
            number,
            answer,
            deadline,
        };
        runs.by_key.insert(key, running);
        Boarding::Started(flight)
    }

    /// Runs in progress.
    pub fn len(&self) -> usize {
        self.runs.lock().by_key.len()
    }
}

/// Takes its run out of the table when the run ends or is given up.
struct Landing {
    runs: Arc<Mutex<Runs>>,
    key: Key,
    number: u64,
}

impl Drop for Landing {
    fn drop(&mut self) {
        let mut runs = self.runs.lock();
        if runs
            .by_key
            .get(&self.key)
            .is_some_and(|running| running.number == self.number)
        {
            runs.by_key.remove(&self.key);
        }
    }
}
