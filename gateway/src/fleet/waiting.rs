//! Where requests wait while every endpoint of a cluster has as many in flight as it may have.
//!
//! Slots are handed over: whoever frees one takes the queue's lock, leases an endpoint for the one whose turn it is,
//! and sends it the lease, from whatever thread. So a slot goes to exactly one request, nobody can take it in
//! between, and whoever goes away with a lease under way drops it, which hands it on. What order they wait in is
//! decided in `traffic::queue`.
//!
//! Nobody is forgotten: a newcomer is counted as waiting before it looks for a free slot once more, and a slot is
//! freed before its owner looks whether anybody waits, both with sequential consistency, so that at least one of the
//! two sees the other. The lock is taken only when somebody waits or joins.
//!
//! While somebody waits, whoever comes goes through here, and past those who wait if it finds what none of them can use.
//!
//! The room outlives its cluster: after a reload or a discovery those who wait are served from the cluster's new
//! endpoints. If none of them may take traffic at all, they are sent away, as newcomers then are.

mod counts;

#[cfg(test)]
mod tests;

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use forebay_config::gateway as config;
use http::HeaderMap;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::ask::{Ask, Bearings};
use super::cluster::Cluster;
use super::lease::Lease;
use crate::traffic::deadline::Deadline;
use crate::traffic::queue::pace::Pace;
use crate::traffic::queue::{Blocked, Next, Place, Queue, Ticket, Urgency};
use crate::traffic::subset::Wish;
pub use counts::WaitingCounts;

/// What is suggested to a client when nothing is known.
const USUAL_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

pub struct WaitingRoom {
    /// How many wait; changed under the lock of `state`.
    waiting: AtomicUsize,
    state: Mutex<State>,
    pace: Mutex<Pace>,
    tenants: RandomState,
    pub counts: WaitingCounts,
}

struct State {
    queue: Queue<Waiter>,
    settings: Option<config::Queue>,
    cluster: Weak<Cluster>,
}

struct Waiter {
    tried: SmallVec<[usize; 4]>,
    bearings: Bearings,
    answer: oneshot::Sender<Result<Lease, Unserved>>,
}

/// Who asks to wait.
pub struct Caller<'a> {
    /// Of the request: they say how urgent it is and whose.
    pub headers: &'a HeaderMap,
    pub route: &'a str,
    pub deadline: Deadline,
    /// Members that were asked before, by position.
    pub tried: &'a [usize],
    pub bearings: Bearings,
}

/// Why a request got no endpoint. The times are when it may pay to ask again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unserved {
    /// As many wait as may.
    QueueFull(Duration),
    /// Its turn would come too late for its deadline.
    Hopeless(Duration),
    /// Its turn would come, or has come, later than the cluster lets anybody wait.
    LongWait(Duration),
    /// Its deadline passed while it waited.
    Expired,
    /// No endpoint takes traffic, or the last one that did went away.
    NoEndpoint,
    /// The same of those endpoints that it may go to.
    NobodyInSubset,
}

impl Unserved {
    /// Of a request for which there is no endpoint at all.
    pub fn nobody(bearings: Bearings) -> Self {
        match bearings.wish {
            Wish::Only(_) => Self::NobodyInSubset,
            Wish::Nothing | Wish::First(_) => Self::NoEndpoint,
        }
    }
}

/// A request that waits. Dropped, it leaves the queue.
pub struct Waiting {
    room: Arc<WaitingRoom>,
    /// None: it never had to join the queue.
    ticket: Option<Ticket>,
    turn: oneshot::Receiver<Result<Lease, Unserved>>,
    since: Instant,
    until: Option<Instant>,
    /// What becomes of it at `until`.
    fate: Unserved,
}

impl Default for WaitingRoom {
    fn default() -> Self {
        Self {
            waiting: AtomicUsize::new(0),
            state: Mutex::new(State {
                queue: Queue::new(0),
                settings: None,
                cluster: Weak::new(),
            }),
            pace: Mutex::default(),
            tenants: RandomState::new(),
            counts: WaitingCounts::default(),
        }
    }
}

impl WaitingRoom {
    pub fn is_waited_in(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    pub(super) fn is_served_from(&self, cluster: &Arc<Cluster>) -> bool {
        std::ptr::eq(self.state.lock().cluster.as_ptr(), Arc::as_ptr(cluster))
    }

    /// From now on slots are those of `cluster`, and its settings count.
    pub(super) fn serve_from(&self, cluster: &Arc<Cluster>, now: Instant) {
        let mut state = self.state.lock();
        state.cluster = Arc::downgrade(cluster);
        if let Some(limit) = &cluster.config.limit {
            state
                .queue
                .resize(usize::try_from(limit.queue.size).unwrap_or(usize::MAX));
            state.settings = Some(limit.queue.clone());
        }
        let returned = self.hand_out(&mut state, now);
        drop(state);
        drop(returned);
    }

    /// A slot is free that was `held` for so long; `answered`: until an answer that counts as a success.
    pub(super) fn freed(&self, held: Duration, answered: bool, now: Instant) {
        self.pace.lock().freed(held, answered);
        self.look_again(now);
    }

    /// Some endpoint may have changed.
    pub(super) fn look_again(&self, now: Instant) {
        if self.is_waited_in() {
            let mut state = self.state.lock();
            let returned = self.hand_out(&mut state, now);
            drop(state);
            drop(returned);
        }
    }

    /// Joins those who wait.
    ///
    /// # Errors
    /// There is no room, or it would wait in vain.
    pub fn join(self: &Arc<Self>, caller: &Caller<'_>, now: Instant) -> Result<Waiting, Unserved> {
        self.admit(caller, now)
            .inspect_err(|unserved| self.counts.refused(*unserved))
    }

    fn admit(self: &Arc<Self>, caller: &Caller<'_>, now: Instant) -> Result<Waiting, Unserved> {
        let left = caller.deadline.remaining(now).ok_or(Unserved::Expired)?;
        let mut state = self.state.lock();
        let admitted = self.admit_to(&mut state, caller, left, now);
        // Once more, counted as waiting now: a slot may have become free in between.
        let returned = self.hand_out(&mut state, now);
        drop(state);
        // Each gives itself to the next.
        drop(returned);
        admitted
    }

    fn admit_to(
        self: &Arc<Self>,
        state: &mut State,
        caller: &Caller<'_>,
        left: Duration,
        now: Instant,
    ) -> Result<Waiting, Unserved> {
        let settings = state.settings.as_ref();
        let longest = settings
            .and_then(|settings| settings.max_wait)
            .unwrap_or(Duration::MAX);
        let until = now.checked_add(left.min(longest));
        let cluster = state.cluster.upgrade();
        let place = self.place(settings, caller, cluster.as_deref(), until);
        let (answer, turn) = oneshot::channel();
        let waiting = |ticket, fate| Waiting {
            room: self.clone(),
            ticket,
            turn,
            since: now,
            until,
            fate,
        };
        // None of those who wait can use what this one finds.
        if let Some(cluster) = cluster
            .as_ref()
            .filter(|_| !state.queue.has_lane(place.lane))
        {
            let ask = Ask::new(caller.tried, now).with(caller.bearings);
            match cluster.lease_now(&ask) {
                Some(lease) => {
                    // Its receiver is about to be given to the caller.
                    let _ = answer.send(Ok(lease));
                    return Ok(waiting(None, Unserved::Expired));
                }
                None if cluster.is_open(&ask) => {}
                None => return Err(Unserved::nobody(caller.bearings)),
            }
        }
        let in_flight = cluster.map_or(0, |cluster| cluster.active());
        let pace = *self.pace.lock();
        let expected = pace.wait(state.queue.ahead(&place), in_flight);
        let pause = expected.unwrap_or(USUAL_PAUSE).min(LONGEST_PAUSE);
        let expected = expected.unwrap_or_default();
        if expected.saturating_add(pace.quick()) > left {
            return Err(Unserved::Hopeless(pause));
        }
        if expected > longest {
            return Err(Unserved::LongWait(pause));
        }
        let waiter = Waiter {
            tried: caller.tried.into(),
            bearings: caller.bearings,
            answer,
        };
        let Ok((ticket, pushed_out)) = state.queue.push(place, waiter) else {
            return Err(Unserved::QueueFull(pause));
        };
        if let Some(waiter) = pushed_out {
            // Whoever waits hears it or is about to leave; there is no lease in it.
            let _ = waiter.answer.send(Err(Unserved::QueueFull(pause)));
        }
        self.waiting.store(state.queue.len(), Ordering::SeqCst);
        let fate = if left <= longest {
            Unserved::Expired
        } else {
            Unserved::LongWait(pause)
        };
        Ok(waiting(Some(ticket), fate))
    }

    fn place(
        &self,
        settings: Option<&config::Queue>,
        caller: &Caller<'_>,
        cluster: Option<&Cluster>,
        until: Option<Instant>,
    ) -> Place {
        let header = |name: fn(&config::Queue) -> &Option<String>| {
            let name = name(settings?).as_deref()?;
            caller.headers.get(name).map(|value| value.as_bytes())
        };
        Place {
            urgency: header(|settings| &settings.priority_header)
                .map_or_else(Urgency::default, Urgency::parse),
            lane: self
                .tenants
                .hash_one(cluster.map(|cluster| cluster.lane(caller.bearings))),
            tenant: self
                .tenants
                .hash_one(header(|settings| &settings.tenant_header)),
            route: self.tenants.hash_one(caller.route),
            until,
        }
    }

    /// Gives every free slot to the one whose turn it is. A lease that nobody takes comes back: given up without the lock,
    /// it hands itself out again.
    fn hand_out(&self, state: &mut State, now: Instant) -> SmallVec<[Lease; 1]> {
        let mut returned: SmallVec<[Lease; 1]> = SmallVec::new();
        let cluster = state.cluster.upgrade();
        let Some(cluster) = cluster.filter(|_| state.queue.len() > 0) else {
            return returned;
        };
        let mut blocked = Blocked::new();
        loop {
            let next = state.queue.next(now, &mut blocked, |waiter| {
                let ask = Ask::new(&waiter.tried, now).with(waiter.bearings);
                match cluster.lease_now(&ask) {
                    Some(lease) => Some(Ok(lease)),
                    None if cluster.is_open(&ask) => None,
                    None => Some(Err(Unserved::nobody(waiter.bearings))),
                }
            });
            let (waiter, answer) = match next {
                Next::Served(waiter, answer) => (waiter, answer),
                Next::Expired(waiter) => (waiter, Err(Unserved::Expired)),
                Next::Nobody => break,
            };
            if let Err(Ok(lease)) = waiter.answer.send(answer) {
                returned.push(lease);
            }
        }
        self.waiting.store(state.queue.len(), Ordering::SeqCst);
        returned
    }
}

impl Waiting {
    /// The lease once it is there, and how long that took.
    ///
    /// # Errors
    /// It waited in vain.
    pub async fn turn(mut self) -> Result<(Lease, Duration), Unserved> {
        let turn = &mut self.turn;
        let told = match self.until {
            Some(until) => tokio::time::timeout_at(until.into(), turn).await,
            None => Ok(turn.await),
        };
        let outcome = match told {
            // The room is kept by this very struct, and answers before it drops a waiter.
            Ok(told) => told.unwrap_or(Err(Unserved::NoEndpoint)),
            Err(_) => Err(Unserved::Expired),
        };
        match outcome {
            Ok(lease) => {
                let waited = self.since.elapsed();
                self.room.counts.waited.record(waited);
                Ok((lease, waited))
            }
            Err(unserved) => {
                let unserved = match unserved {
                    Unserved::Expired => self.fate,
                    other => other,
                };
                self.room.counts.refused(unserved);
                Err(unserved)
            }
        }
    }
}

impl Drop for Waiting {
    /// Leaves before the receiver is dropped: whoever is in the queue can be told.
    fn drop(&mut self) {
        let Some(ticket) = &self.ticket else {
            return;
        };
        let mut state = self.room.state.lock();
        let removed = state.queue.remove(ticket);
        self.room.waiting.store(state.queue.len(), Ordering::SeqCst);
        drop(state);
        drop(removed);
    }
}
