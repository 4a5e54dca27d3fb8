//! The requests of one model that wait for an instance.
//!
//! Decides which requests may share a batch (same `Group`), in which order they go and which leave without an
//! answer from the model (expired, cancelled). How many rows make a batch and whether waiting pays is asked of
//! the caller, see `forming`. Reads no clock.
//!
//! Order: the lower priority number first, and of one priority whoever came first. The group goes whose first
//! request is first of all; its batch is filled up with whatever of the group comes next, lower priorities
//! included. Priorities are strict, as Triton's: who is never first waits until its deadline. A full queue refuses
//! whoever comes, whatever the priority, as Triton's does.
//!
//! A batch leaves out whose deadline comes before it is done, if enough others wait to fill it: under more load than
//! can be carried, the first in line are just those that are nearly out of time, and running them would make
//! every answer come too late.
//!
//! Requests go whole, except that a batch takes the first rows of one that is larger than a batch should be,
//! and of one that would leave the batch much too small; the rest keeps its place.
//!
//! Nothing here looks at every waiting request: sums are kept, and entries are found by their place.

mod books;
mod members;

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::time::{Duration, Instant};

pub use self::books::Backlog;
use self::books::Books;
use self::members::{Members, Rank};

/// Groups that are remembered while nobody in them waits, so that steady traffic allocates nothing for them.
const REMEMBERED: usize = 64;

/// What the queue must know of a request.
pub trait Waiting: Sized {
    fn group(&self) -> &Group;
    /// Rows along the batch axis.
    fn rows(&self) -> usize;
    /// Order of arrival: of two requests the later has the higher number.
    fn number(&self) -> u64;
    /// The lowest goes first.
    fn priority(&self) -> u32;
    /// The measure of how long it takes.
    fn weight(&self) -> Weight;
    /// After this moment nobody wants the answer.
    fn deadline(&self) -> Option<Instant>;
    /// The caller is gone.
    fn is_cancelled(&self) -> bool;
    /// Its first `rows` rows, fewer than it has, and the rest; itself if it cannot be cut.
    fn split(self, rows: usize) -> Result<(Self, Self), Self>;
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

/// What makes two requests take about the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// Goes by itself; all its input bytes.
    Alone { bytes: usize },
    /// Goes by rows; input bytes of one.
    Rows { row_bytes: usize },
}

impl Weight {
    /// No weight is greater.
    pub const LAST: Self = Self::Rows {
        row_bytes: usize::MAX,
    };

    /// The smallest weight of the same class: classes are powers of two.
    pub fn class(self) -> Self {
        let floor = |bytes: usize| 1usize << bytes.max(1).ilog2();
        match self {
            Self::Alone { bytes } => Self::Alone {
                bytes: floor(bytes),
            },
            Self::Rows { row_bytes } => Self::Rows {
                row_bytes: floor(row_bytes),
            },
        }
    }
}

/// The state of one group, as asked about before a batch is cut from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing<'a> {
    pub group: &'a Group,
    pub rows: usize,
    /// Of the request that goes first: its weight and rows.
    pub first: (Weight, usize),
    /// When the oldest request came.
    pub oldest: Instant,
    /// The earliest deadline among the requests.
    pub deadline: Option<Instant>,
}

/// The answer about one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Send(Cut),
    /// Company may come; ask again at this moment or when a request arrives.
    Wait {
        until: Instant,
    },
}

/// How a batch is taken from a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Rows of the batch; the first request goes even if it has more.
    pub rows: usize,
    /// A request with more rows than this is cut into parts.
    pub whole: usize,
    /// With fewer rows than this, a batch takes a part of a request that does not fit.
    pub fill: usize,
    /// When the batch is expected to be done, if that is known.
    pub done_at: Option<Instant>,
}

impl Cut {
    /// Only whole requests.
    pub fn whole(rows: usize) -> Self {
        Self {
            rows,
            whole: usize::MAX,
            fill: 0,
            done_at: None,
        }
    }
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
    /// It gave way to others, as its answer would have come too late: so long after it came.
    TooLate(Duration),
}

/// One answer of the queue: what to run, and whom to tell that they were not run.
#[derive(Debug, PartialEq, Eq)]
pub struct Turn<T> {
    pub decision: Decision<T>,
    pub dropped: Vec<(T, Dropped)>,
}

/// Where a waiting request is found again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    slot: usize,
    rank: Rank,
}

impl Place {
    /// The request's own number.
    pub fn number(&self) -> u64 {
        self.rank.number
    }
}

/// What became of a request that wanted in.
#[derive(Debug, PartialEq, Eq)]
pub struct Pushed<T> {
    /// The request itself, if the queue had no room.
    pub place: Result<Place, T>,
    /// Whoever was removed to make room.
    pub dropped: Vec<(T, Dropped)>,
}

#[derive(Debug)]
pub struct Queue<T> {
    /// By slot; a free slot is None.
    groups: Vec<Option<Members<T>>>,
    slots: HashMap<Group, usize>,
    /// The first request of every group in which somebody waits.
    heads: BTreeSet<(Rank, usize)>,
    books: Books,
    limit: usize,
    /// No request expires before this moment.
    quiet_until: Option<Instant>,
}

impl<T: Waiting> Queue<T> {
    /// `limit`: requests that may wait.
    pub fn new(limit: usize) -> Self {
        Self {
            groups: Vec::new(),
            slots: HashMap::new(),
            heads: BTreeSet::new(),
            books: Books::default(),
            limit,
            quiet_until: None,
        }
    }

    pub fn requests(&self) -> usize {
        self.books.requests
    }

    pub fn rows(&self) -> usize {
        self.books.rows
    }

    pub fn is_empty(&self) -> bool {
        self.books.requests == 0
    }

    pub fn backlog(&self) -> &Backlog {
        &self.books.backlog
    }

    /// Takes a request in. When the queue is full, expired ones make room first; if that does not help the
    /// request comes back. Whoever cancels is expected to be removed.
    pub fn push(&mut self, item: T, now: Instant) -> Pushed<T> {
        let mut dropped = Vec::new();
        if self.requests() >= self.limit {
            if self.quiet_until.is_some_and(|quiet| quiet <= now) {
                self.expire(now, &mut dropped);
            }
            if self.requests() >= self.limit {
                return Pushed {
                    place: Err(item),
                    dropped,
                };
            }
        }
        self.quiet_until = earlier(self.quiet_until, item.deadline());
        let slot = self.slot(item.group());
        let rank = Rank::of(&item);
        self.change(slot, |members, books| members.insert(item, now, books));
        Pushed {
            place: Ok(Place { slot, rank }),
            dropped,
        }
    }

    /// Takes a request out, if it is there.
    pub fn remove(&mut self, place: Place) -> Option<T> {
        let members = self.groups.get(place.slot)?.as_ref()?;
        if !members.contains(place.rank) {
            return None;
        }
        self.change(place.slot, |members, books| {
            members.remove(place.rank, books)
        })
    }

    /// What an idle instance shall do now. `call` answers for a group whether a batch goes and how large.
    pub fn next(&mut self, now: Instant, mut call: impl FnMut(Standing<'_>) -> Call) -> Turn<T> {
        let mut dropped = Vec::new();
        if self.quiet_until.is_some_and(|quiet| quiet <= now) {
            self.expire(now, &mut dropped);
        }
        let mut earliest = None;
        let mut passed = Bound::Unbounded;
        // In the order of their first requests; a group that waits for company lets the next one pass.
        while let Some((rank, slot)) = self.heads.range((passed, Bound::Unbounded)).next().copied()
        {
            let members = self.groups.get(slot).and_then(Option::as_ref);
            let standing = members.and_then(Members::standing);
            match call(standing.expect("a head is the first request of its group")) {
                Call::Wait { until } => {
                    earliest = earlier(earliest, Some(until));
                    passed = Bound::Excluded((rank, slot));
                }
                Call::Send(cut) => {
                    let batch =
                        self.change(slot, |members, books| members.cut(cut, books, &mut dropped));
                    if !batch.is_empty() {
                        return Turn {
                            decision: Decision::Run(batch),
                            dropped,
                        };
                    }
                }
            }
        }
        Turn {
            decision: earliest.map_or(Decision::Empty, Decision::WaitUntil),
            dropped,
        }
    }

    /// Removes everybody whose deadline has come.
    fn expire(&mut self, now: Instant, dropped: &mut Vec<(T, Dropped)>) {
        let waiting: Vec<usize> = self.heads.iter().map(|(_, slot)| *slot).collect();
        self.quiet_until = None;
        for slot in waiting {
            let deadline = self.change(slot, |members, books| {
                members.expire(now, books, dropped);
                members.deadline()
            });
            self.quiet_until = earlier(self.quiet_until, deadline);
        }
    }

    /// The slot of a group, a new one if it has none.
    fn slot(&mut self, group: &Group) -> usize {
        if let Some(slot) = self.slots.get(group) {
            return *slot;
        }
        let free = self.groups.iter().position(Option::is_none);
        let slot = free.unwrap_or(self.groups.len());
        if free.is_none() {
            self.groups.push(None);
        }
        self.groups[slot] = Some(Members::new(group.clone()));
        self.slots.insert(group.clone(), slot);
        slot
    }

    /// Changes one group and keeps the order of the groups true.
    fn change<R>(
        &mut self,
        slot: usize,
        change: impl FnOnce(&mut Members<T>, &mut Books) -> R,
    ) -> R {
        let members = self.groups[slot]
            .as_mut()
            .expect("only slots of groups that are there are handed out");
        let before = members.head();
        let result = change(members, &mut self.books);
        let after = members.head();
        if before != after {
            if let Some(rank) = before {
                self.heads.remove(&(rank, slot));
            }
            match after {
                Some(rank) => {
                    self.heads.insert((rank, slot));
                }
                None if self.slots.len() > REMEMBERED => {
                    self.slots.remove(members.group());
                    self.groups[slot] = None;
                }
                None => {}
            }
        }
        result
    }
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests;
