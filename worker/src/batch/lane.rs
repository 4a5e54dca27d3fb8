//! The queue of one model behind its lock: callers push, the model's instances take.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::batch::curve::Learned;
use crate::batch::forming::{Asking, Forming};
use crate::batch::job::Job;
use crate::batch::queue::{Decision, Dropped, Queue};

#[derive(Debug)]
pub struct Lane {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug)]
struct State {
    queue: Queue<Job>,
    forming: Forming,
    /// Instances that wait for work.
    idle: usize,
    draining: bool,
}

/// What an instance is given.
#[derive(Debug)]
pub enum Work {
    Batch(Vec<Job>),
    /// Nothing to run yet, but there are dropped requests to answer.
    Nothing,
    /// The model shuts down and the queue is empty.
    Closed,
}

/// Why a request was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    Full,
    Draining,
}

/// A look at the queue and at what was learned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glance {
    pub requests: usize,
    pub rows: usize,
    pub curve: Vec<(usize, Duration)>,
    pub best_size: usize,
}

pub type DroppedJobs = Vec<(Job, Dropped)>;

impl Lane {
    /// `limit`: requests that may wait.
    pub fn new(limit: usize, forming: Forming) -> Self {
        Self {
            state: Mutex::new(State {
                queue: Queue::new(limit),
                forming,
                idle: 0,
                draining: false,
            }),
            wake: Condvar::new(),
        }
    }

    /// Lets a request in, or says why not. The caller answers whoever was dropped to make room.
    pub fn push(&self, job: Job, now: Instant) -> (Result<(), Refusal>, DroppedJobs) {
        let mut state = self.state.lock();
        if state.draining {
            return (Err(Refusal::Draining), Vec::new());
        }
        let pushed = state.queue.push(job, now);
        let wake = state.idle > 0;
        drop(state);
        if pushed.refused.is_some() {
            return (Err(Refusal::Full), pushed.dropped);
        }
        if wake {
            self.wake.notify_one();
        }
        (Ok(()), pushed.dropped)
    }

    /// Blocks until there is something to do.
    pub fn take(&self) -> (Work, DroppedJobs) {
        let mut guard = self.state.lock();
        guard.idle += 1;
        loop {
            let state = &mut *guard;
            let asking = Asking {
                now: Instant::now(),
                idle: state.idle,
                draining: state.draining,
            };
            let forming = &mut state.forming;
            let turn = state
                .queue
                .next(asking.now, |standing| forming.call(standing, asking));
            let work = match turn.decision {
                Decision::Run(batch) => Work::Batch(batch),
                _ if !turn.dropped.is_empty() => Work::Nothing,
                Decision::Empty if state.draining => Work::Closed,
                Decision::Empty => {
                    self.wake.wait(&mut guard);
                    continue;
                }
                Decision::WaitUntil(until) => {
                    self.wake.wait_until(&mut guard, until);
                    continue;
                }
            };
            state.idle -= 1;
            let more = state.idle > 0 && !state.queue.is_empty();
            drop(guard);
            if more {
                self.wake.notify_one();
            }
            return (work, turn.dropped);
        }
    }

    /// A batch kept an instance busy for so long.
    pub fn record(&self, row_bytes: usize, rows: usize, took: Duration) {
        self.state.lock().forming.record(row_bytes, rows, took);
    }

    /// From now on every request goes by itself.
    pub fn stop_stacking(&self) {
        self.state.lock().forming.stop_stacking();
    }

    /// Lets nobody in any more; instances finish what waits, then see `Closed`.
    pub fn drain(&self) {
        self.state.lock().draining = true;
        self.wake.notify_all();
    }

    /// What was learned about durations.
    pub fn learned(&self) -> Vec<Learned> {
        self.state.lock().forming.curves().learned()
    }

    pub fn glance(&self) -> Glance {
        let state = self.state.lock();
        let curve = state.forming.curves().busiest();
        Glance {
            requests: state.queue.requests(),
            rows: state.queue.rows(),
            best_size: state.forming.usual_size(),
            curve: curve.map(|curve| curve.points()).unwrap_or_default(),
        }
    }
}
