//! The requests of one model that wait for an instance.
//!
//! Decides which requests may share a batch (same `Group`), in which order they go (the group whose oldest
//! request waited longest first; within a group strictly first come, first served) and which leave without an
//! answer from the model (expired, cancelled). How many rows make a batch and whether waiting pays is asked of
//! the caller, see `forming`. Reads no clock.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

/// What the queue must know of a request.
pub trait Waiting {
    fn group(&self) -> &Group;
    /// Rows along the batch axis.
    fn rows(&self) -> usize;
    /// After this moment nobody wants the answer.
    fn deadline(&self) -> Option<Instant>;
    /// The caller is gone.
    fn is_cancelled(&self) -> bool;
}

/// Requests may share a batch when their groups are equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Group {
    /// Never shares a batch, not even with another `Alone`.
    Alone,
    Shape {
        /// Which inputs are present, and every dimension of theirs but the first.
        dims: Box<[i64]>,
        /// Input bytes of one row, the measure of its weight; follows from `dims` and the model.
        row_bytes: usize,
    },
}

/// The state of one group, as asked about before a batch is cut from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing<'a> {
    pub group: &'a Group,
    pub rows: usize,
    /// When the oldest request came.
    pub oldest: Instant,
    /// The earliest deadline among the requests.
    pub deadline: Option<Instant>,
}

/// The answer about one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Cut a batch of at most so many rows; a single request larger than that goes by itself.
    Send { rows: usize },
    /// Company may come; ask again at this moment or when a request arrives.
    Wait { until: Instant },
}

/// What an idle instance shall do.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision<T> {
    Run(Vec<T>),
    WaitUntil(Instant),
    Empty,
}

/// Why a request left the queue without being run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    Expired,
    Cancelled,
}

/// One answer of the queue: what to run, and whom to tell that they were not run.
#[derive(Debug, PartialEq, Eq)]
pub struct Turn<T> {
    pub decision: Decision<T>,
    pub dropped: Vec<(T, Dropped)>,
}

/// What became of a request that wanted in.
#[derive(Debug, PartialEq, Eq)]
pub struct Pushed<T> {
    /// The request itself, if the queue had no room.
    pub refused: Option<T>,
    /// Whoever was removed to make room.
    pub dropped: Vec<(T, Dropped)>,
}

#[derive(Debug)]
struct Entry<T> {
    item: T,
    /// Arrival number: total order over all groups.
    number: u64,
    arrived: Instant,
}

#[derive(Debug)]
pub struct Queue<T> {
    groups: HashMap<Group, VecDeque<Entry<T>>>,
    limit: usize,
    requests: usize,
    rows: usize,
    next_number: u64,
    /// No request expires before this moment.
    quiet_until: Option<Instant>,
}

impl<T: Waiting> Queue<T> {
    /// `limit`: requests that may wait.
    pub fn new(limit: usize) -> Self {
        Self {
            groups: HashMap::new(),
            limit,
            requests: 0,
            rows: 0,
            next_number: 0,
            quiet_until: None,
        }
    }

    pub fn requests(&self) -> usize {
        self.requests
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn is_empty(&self) -> bool {
        self.requests == 0
    }

    /// Takes a request in. When the queue is full, expired and cancelled ones make room first; if that does
    /// not help the request comes back.
    pub fn push(&mut self, item: T, now: Instant) -> Pushed<T> {
        let mut dropped = Vec::new();
        if self.requests >= self.limit {
            self.sweep(now, &mut dropped);
            if self.requests >= self.limit {
                return Pushed {
                    refused: Some(item),
                    dropped,
                };
            }
        }
        if let Some(deadline) = item.deadline() {
            self.quiet_until = Some(
                self.quiet_until
                    .map_or(deadline, |quiet| quiet.min(deadline)),
            );
        }
        self.requests += 1;
        self.rows += item.rows();
        let entry = Entry {
            number: self.next_number,
            arrived: now,
            item,
        };
        self.next_number += 1;
        match self.groups.get_mut(entry.item.group()) {
            Some(entries) => entries.push_back(entry),
            None => {
                let group = entry.item.group().clone();
                self.groups.insert(group, VecDeque::from([entry]));
            }
        }
        Pushed {
            refused: None,
            dropped,
        }
    }

    /// What an idle instance shall do now. `call` answers for a group whether a batch goes and how large.
    pub fn next(&mut self, now: Instant, mut call: impl FnMut(Standing<'_>) -> Call) -> Turn<T> {
        let mut dropped = Vec::new();
        if self.quiet_until.is_some_and(|quiet| quiet <= now) {
            self.sweep(now, &mut dropped);
        }
        loop {
            let (group, rows) = match self.choose(&mut call) {
                Choice::Nothing => {
                    return Turn {
                        decision: Decision::Empty,
                        dropped,
                    };
                }
                Choice::Wait(until) => {
                    return Turn {
                        decision: Decision::WaitUntil(until),
                        dropped,
                    };
                }
                Choice::Cut { group, rows } => (group, rows),
            };
            let batch = self.cut(&group, rows, &mut dropped);
            if !batch.is_empty() {
                return Turn {
                    decision: Decision::Run(batch),
                    dropped,
                };
            }
        }
    }

    /// The oldest group that may go; else the earliest moment at which one may.
    fn choose(&self, call: &mut impl FnMut(Standing<'_>) -> Call) -> Choice {
        let head =
            |entries: &VecDeque<Entry<T>>| entries.front().map_or(u64::MAX, |entry| entry.number);
        let Some((group, entries)) = self.groups.iter().min_by_key(|(_, entries)| head(entries))
        else {
            return Choice::Nothing;
        };
        let mut earliest = match call(standing(group, entries)) {
            Call::Send { rows } => {
                return Choice::Cut {
                    group: group.clone(),
                    rows,
                };
            }
            Call::Wait { until } => until,
        };
        let mut chosen: Option<(u64, &Group, usize)> = None;
        for (other, entries) in self.groups.iter().filter(|(other, _)| *other != group) {
            match call(standing(other, entries)) {
                Call::Send { rows } => {
                    let number = head(entries);
                    if chosen.is_none_or(|(best, ..)| number < best) {
                        chosen = Some((number, other, rows));
                    }
                }
                Call::Wait { until } => earliest = earliest.min(until),
            }
        }
        match chosen {
            Some((_, group, rows)) => Choice::Cut {
                group: group.clone(),
                rows,
            },
            None => Choice::Wait(earliest),
        }
    }

    /// Takes requests from the head of a group while they fit into `rows`; at least one, unless all are cancelled.
    fn cut(&mut self, group: &Group, rows: usize, dropped: &mut Vec<(T, Dropped)>) -> Vec<T> {
        let mut batch = Vec::new();
        let mut taken = 0;
        let Some(entries) = self.groups.get_mut(group) else {
            return batch;
        };
        while let Some(entry) = entries.front() {
            let size = entry.item.rows();
            let cancelled = entry.item.is_cancelled();
            if !cancelled && !batch.is_empty() && (taken + size > rows || *group == Group::Alone) {
                break;
            }
            let Some(entry) = entries.pop_front() else {
                break;
            };
            self.requests -= 1;
            self.rows -= size;
            if cancelled {
                dropped.push((entry.item, Dropped::Cancelled));
            } else {
                taken += size;
                batch.push(entry.item);
            }
        }
        if entries.is_empty() {
            self.groups.remove(group);
        }
        batch
    }

    /// Removes everybody who expired or left.
    fn sweep(&mut self, now: Instant, dropped: &mut Vec<(T, Dropped)>) {
        let mut quiet_until: Option<Instant> = None;
        self.groups.retain(|_, entries| {
            let mut kept = VecDeque::with_capacity(entries.len());
            for entry in entries.drain(..) {
                let deadline = entry.item.deadline();
                let reason = if entry.item.is_cancelled() {
                    Some(Dropped::Cancelled)
                } else if deadline.is_some_and(|deadline| deadline <= now) {
                    Some(Dropped::Expired)
                } else {
                    None
                };
                match reason {
                    Some(reason) => {
                        self.requests -= 1;
                        self.rows -= entry.item.rows();
                        dropped.push((entry.item, reason));
                    }
                    None => {
                        quiet_until = match (quiet_until, deadline) {
                            (Some(quiet), Some(deadline)) => Some(quiet.min(deadline)),
                            (quiet, deadline) => quiet.or(deadline),
                        };
                        kept.push_back(entry);
                    }
                }
            }
            *entries = kept;
            !entries.is_empty()
        });
        self.quiet_until = quiet_until;
    }
}

enum Choice {
    Nothing,
    Wait(Instant),
    Cut { group: Group, rows: usize },
}

fn standing<'a, T: Waiting>(group: &'a Group, entries: &VecDeque<Entry<T>>) -> Standing<'a> {
    let mut rows = 0;
    let mut deadline: Option<Instant> = None;
    let mut oldest = None;
    for entry in entries {
        oldest.get_or_insert(entry.arrived);
        rows += entry.item.rows();
        deadline = match (deadline, entry.item.deadline()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
    Standing {
        group,
        rows,
        oldest: oldest.expect("a group without entries is removed"),
        deadline,
    }
}

#[cfg(test)]
mod tests;
