//! The queue of one model behind its lock: callers push, the model's instances take.
//!
//! A run that is shorter than it takes to wake a thread is the caller's own: it is lent an instance that rests, so that
//! a request that comes alone pays for no change of threads. Where requests meet they are left to the instances' threads:
//! while a batch runs, the next one gathers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::batch::admission::{self, Applicant, Situation};
use crate::batch::curve::Learned;
use crate::batch::forming::{Asking, Forming};
use crate::batch::job::Job;
use crate::batch::queue::{Decision, Dropped, Place, Queue, Waiting, Weight};
use crate::engine::Interrupt;

/// What a caller does at once, on its own thread, is expected to take no longer than this: about what it takes to wake
/// another thread twice.
const ERRAND: Duration = Duration::from_micros(100);
/// A run that takes longer than this comes as a surprise, and so many that do not have to follow before the next errand:
/// how long some models take depends on what they are given, and a caller's thread serves others too.
const SURPRISE: Duration = Duration::from_millis(1);
const STEADY: u32 = 32;
/// Requests that met have others on their heels: for so long, they do better to gather.
const CROWD: Duration = Duration::from_millis(20);
/// After so many errands one request is left to an instance's thread: callers that share a thread never meet while each
/// of them runs its own.
const STREAK: u32 = 16;

pub struct Lane {
    state: Mutex<State>,
    wake: Condvar,
    arrivals: AtomicU64,
}

struct State {
    queue: Queue<Job>,
    forming: Forming,
    /// Instances that wait for work, other than those that are lent.
    idle: usize,
    lent: usize,
    /// Runs since the last surprise.
    steady: u32,
    /// Errands since a request was last left to an instance's thread.
    streak: u32,
    /// When a request last came while another one waited or was run.
    met: Option<Instant>,
    /// By number of the instance.
    instances: Vec<Occupied>,
    /// When each class of weight was last measured.
    measured: BTreeMap<Weight, Instant>,
    draining: bool,
}

/// What an instance is doing.
#[derive(Default)]
struct Occupied {
    /// Requests of its batch that somebody waits for, by their numbers.
    wanted: Vec<u64>,
    /// When its batch is expected to be done; None: it waits for work.
    free_at: Option<Instant>,
    interrupt: Option<Arc<dyn Interrupt>>,
    /// Its thread has nothing to do.
    rests: bool,
    /// It can run something at once.
    ready: bool,
    /// A caller uses it.
    lent: bool,
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

/// What a caller is to run by itself: a batch on an instance that is lent to it.
#[derive(Debug)]
pub struct Errand {
    pub instance: usize,
    pub batch: Vec<Job>,
}

/// What became of a request that was to be let in.
#[derive(Debug)]
pub struct Pushed {
    pub place: Result<Place, Refusal>,
    /// To be answered by the caller.
    pub dropped: DroppedJobs,
    /// To be run by the caller.
    pub errand: Option<Errand>,
}

/// Why a request was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    Full,
    Draining,
    /// Its deadline would pass before the answer that is expected after so long.
    TooLate(Duration),
}

/// What a batch took of an instance's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    pub weight: Weight,
    pub rows: usize,
    pub took: Duration,
}

/// A request of a batch that is still to be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub number: u64,
    pub rows: usize,
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
    /// `limit`: requests that may wait. What `forming` knows already counts as measured `now`.
    pub fn new(limit: usize, forming: Forming, now: Instant) -> Self {
        let rows = forming.curves().classes();
        let rows = rows.map(|(row_bytes, _)| (Weight::Rows { row_bytes }, now));
        Self {
            state: Mutex::new(State {
                queue: Queue::new(limit),
                measured: rows.collect(),
                forming,
                idle: 0,
                lent: 0,
                steady: 0,
                streak: 0,
                met: None,
                instances: Vec::new(),
                draining: false,
            }),
            wake: Condvar::new(),
            arrivals: AtomicU64::new(0),
        }
    }

    /// One more instance: its number, from 0.
    pub fn enlist(&self) -> usize {
        let instances = &mut self.state.lock().instances;
        instances.push(Occupied::default());
        instances.len() - 1
    }

    /// How the runs of an instance are interrupted from now on, and whether its engine is always at hand.
    pub fn set_engine(&self, instance: usize, interrupt: Option<Arc<dyn Interrupt>>, ready: bool) {
        if let Some(occupied) = self.state.lock().instances.get_mut(instance) {
            occupied.interrupt = interrupt;
            occupied.ready = ready;
        }
    }

    /// The number of the next request.
    pub fn number(&self) -> u64 {
        self.arrivals.fetch_add(1, Ordering::Relaxed)
    }

    /// Lets a request in, or says why not.
    pub fn push(&self, job: Job, now: Instant) -> Pushed {
        let refused = |refusal, dropped| Pushed {
            place: Err(refusal),
            dropped,
            errand: None,
        };
        let mut state = self.state.lock();
        if state.draining {
            return refused(Refusal::Draining, Vec::new());
        }
        if let Some(deadline) = job.deadline()
            && let Err(expected) = state.admit(&job, deadline, now)
        {
            return refused(Refusal::TooLate(expected), Vec::new());
        }
        if state.idle < state.instances.len() || !state.queue.is_empty() {
            state.met = Some(now);
        }
        let (weight, rows) = (job.weight(), job.rows());
        let mut pushed = state.queue.push(job, now);
        let Ok(place) = pushed.place else {
            drop(state);
            return refused(Refusal::Full, pushed.dropped);
        };
        let errand = state.lend(weight, rows, now, &mut pushed.dropped);
        if state.idle > 0 && !state.queue.is_empty() {
            self.wake_one(state);
        }
        Pushed {
            place: Ok(place),
            dropped: pushed.dropped,
            errand,
        }
    }

    /// An errand is done, which took so long.
    pub fn give_back(&self, instance: usize, took: Duration) {
        let mut state = self.state.lock();
        state.lent -= 1;
        state.idle += 1;
        if took > SURPRISE {
            state.steady = 0;
        }
        if let Some(occupied) = state.instances.get_mut(instance) {
            occupied.lent = false;
            occupied.wanted.clear();
            occupied.free_at = None;
        }
        // Its own thread heard nothing meanwhile.
        if state.draining || !state.queue.is_empty() {
            drop(state);
            self.wake.notify_all();
        }
    }

    /// Some instance looks at the queue.
    fn wake_one(&self, state: MutexGuard<'_, State>) {
        // The thread of a lent one would keep the news to itself.
        let all = state.lent > 0;
        drop(state);
        if all {
            self.wake.notify_all();
        } else {
            self.wake.notify_one();
        }
    }

    /// Nobody waits for this request any more: it comes back if it still waits, and the run that it is part of
    /// ends if nobody waits for anybody in it.
    pub fn take_back(&self, place: Place) -> Option<Job> {
        let mut state = self.state.lock();
        for occupied in &mut state.instances {
            let wanted = &mut occupied.wanted;
            let Some(position) = wanted.iter().position(|number| *number == place.number()) else {
                continue;
            };
            wanted.swap_remove(position);
            // Under the lock, so that the instance cannot have gone on to other requests.
            if let (true, Some(interrupt)) = (wanted.is_empty(), &occupied.interrupt) {
                interrupt.interrupt();
            }
        }
        state.queue.remove(place)
    }

    /// Blocks until there is something to do for this instance.
    pub fn take(&self, instance: usize) -> (Work, DroppedJobs) {
        let mut guard = self.state.lock();
        guard.idle += 1;
        if let Some(occupied) = guard.instances.get_mut(instance) {
            occupied.wanted.clear();
            occupied.free_at = None;
        }
        loop {
            let state = &mut *guard;
            let own = state.instances.get(instance);
            if own.is_some_and(|own| own.lent) {
                self.wake.wait(&mut guard);
                continue;
            }
            let asking = Asking {
                now: Instant::now(),
                idle: state.idle,
                instances: state.instances.len(),
                draining: state.draining,
            };
            let forming = &mut state.forming;
            let turn = state
                .queue
                .next(asking.now, |standing| forming.call(standing, asking));
            let work = match turn.decision {
                Decision::Run(batch) => {
                    state.occupy(instance, &batch, asking.now);
                    Work::Batch(batch)
                }
                _ if !turn.dropped.is_empty() => Work::Nothing,
                Decision::Empty if state.draining => Work::Closed,
                Decision::Empty => {
                    if let Some(own) = state.instances.get_mut(instance) {
                        own.rests = true;
                    }
                    self.wake.wait(&mut guard);
                    continue;
                }
                Decision::WaitUntil(until) => {
                    self.wake.wait_until(&mut guard, until);
                    continue;
                }
            };
            state.idle -= 1;
            if let Some(own) = state.instances.get_mut(instance) {
                own.rests = false;
            }
            if state.idle > 0 && !state.queue.is_empty() {
                self.wake_one(guard);
            }
            return (work, turn.dropped);
        }
    }

    /// A run worked. The instance is done with its batch but for the answers, and nothing in it can be interrupted
    /// any more; or `rest` of it is still to be run, after another run of it failed.
    pub fn done(&self, instance: usize, measured: Measured, rest: &[Standing], now: Instant) {
        let Measured { weight, rows, took } = measured;
        let mut state = self.state.lock();
        state.forming.record(weight, rows, took);
        state.steady = match took > SURPRISE {
            false => state.steady.saturating_add(1),
            true => 0,
        };
        state.measured.insert(weight.class(), now);
        let left: usize = rest.iter().map(|standing| standing.rows).sum();
        let curve = state.forming.curve(weight).filter(|_| left > 0);
        let expected = curve.and_then(|curve| curve.duration(left));
        if let Some(occupied) = state.instances.get_mut(instance) {
            if rest.is_empty() {
                occupied.wanted.clear();
            }
            occupied.free_at = Some(now + expected.unwrap_or_default());
        }
    }

    /// Of the batch, only `rest` is to be run from now on.
    pub fn carry_on(&self, instance: usize, rest: &[Standing]) {
        if let Some(occupied) = self.state.lock().instances.get_mut(instance) {
            let wanted = &mut occupied.wanted;
            wanted.retain(|number| rest.iter().any(|standing| standing.number == *number));
        }
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

    /// Rows that wait, by priority; a request that goes alone counts for one.
    pub fn queued_by_priority(&self) -> BTreeMap<u32, usize> {
        let mut rows = BTreeMap::new();
        for ((priority, _), waiting) in self.state.lock().queue.backlog() {
            *rows.entry(*priority).or_default() += waiting;
        }
        rows
    }

    /// What was learned about durations.
    pub fn learned(&self) -> Vec<Learned> {
        self.state.lock().forming.curves().learned()
    }

    pub fn glance(&self) -> Glance {
        let state = self.state.lock();
        let curves = state.forming.curves();
        Glance {
            requests: state.queue.requests(),
            rows: state.queue.rows(),
            best_size: state.forming.usual_size(),
            curve: curves
                .busiest()
                .map(|curve| curve.points())
                .unwrap_or_default(),
        }
    }
}

impl State {
    fn admit(&self, job: &Job, deadline: Instant, now: Instant) -> Result<(), Duration> {
        let weight = job.weight();
        let applicant = Applicant {
            rows: job.rows(),
            priority: job.priority,
            weight,
            measured: self.measured.get(&weight.class()).copied(),
            deadline,
        };
        let free_at: Vec<Instant> = self
            .instances
            .iter()
            .filter_map(|occupied| occupied.free_at)
            .collect();
        let situation = Situation {
            forming: &self.forming,
            backlog: self.queue.backlog(),
            idle: self.idle,
            free_at: &free_at,
        };
        admission::admit(applicant, situation, now)
    }

    /// An instance for a request that is alone in the queue, if that is quicker than waking its thread.
    fn lend(
        &mut self,
        weight: Weight,
        rows: usize,
        now: Instant,
        dropped: &mut DroppedJobs,
    ) -> Option<Errand> {
        let is_over = |met: Instant| now.saturating_duration_since(met) > CROWD;
        if self.steady < STEADY || !self.met.is_none_or(is_over) {
            return None;
        }
        let expected = self.forming.curve(weight)?.trusted(rows)?;
        if expected > ERRAND || rows > self.forming.whole(weight) {
            return None;
        }
        let mut instances = self.instances.iter();
        let instance =
            instances.position(|occupied| occupied.ready && occupied.rests && !occupied.lent)?;
        if self.streak == STREAK {
            self.streak = 0;
            return None;
        }
        let asking = Asking {
            now,
            idle: self.idle,
            instances: self.instances.len(),
            draining: false,
        };
        let forming = &mut self.forming;
        let turn = self
            .queue
            .next(now, |standing| forming.call(standing, asking));
        dropped.extend(turn.dropped);
        let Decision::Run(batch) = turn.decision else {
            return None;
        };
        self.occupy(instance, &batch, now);
        self.idle -= 1;
        self.lent += 1;
        self.streak += 1;
        if let Some(occupied) = self.instances.get_mut(instance) {
            occupied.lent = true;
        }
        Some(Errand { instance, batch })
    }

    fn occupy(&mut self, instance: usize, batch: &[Job], now: Instant) {
        let rows = batch.iter().map(Waiting::rows).sum();
        let weight = batch.first().map(Waiting::weight);
        let expected = weight.and_then(|weight| self.forming.curve(weight)?.duration(rows));
        if let Some(occupied) = self.instances.get_mut(instance) {
            occupied.wanted.clear();
            occupied.wanted.extend(batch.iter().map(Waiting::number));
            occupied.free_at = Some(now + expected.unwrap_or_default());
        }
    }
}
