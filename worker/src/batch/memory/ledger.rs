//! Which sessions may be in memory at once: a budget in bytes, and a seat in it for each instance.
//!
//! A session is what takes memory. One or several instances run it, each with an engine of its own, and while any
//! of them has its engine the session counts, once. A session that nobody runs is let go when another one needs
//! the room, the one that is idle longest first; an instance that has lost its engine so claims room again when
//! it has something to run.
//!
//! Claims are granted in the order they came. While one waits, or the sessions have outgrown the budget, every
//! engine that falls idle goes, also that of a session which others still run, and its instance claims behind
//! those who wait: so every session comes to rest and each claim is granted in the end, however busy the others
//! are. What is let go is handed out, for the caller to drop. Pure: `E` is whatever stands for an engine.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

/// Stands for one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SeatId {
    session: u64,
    member: u64,
}

#[derive(Debug)]
pub struct Ledger<E> {
    limit: u64,
    /// By sessions that are in memory or about to be.
    taken: u64,
    sessions: BTreeMap<u64, Session<E>>,
    waiting: VecDeque<SeatId>,
    next: u64,
}

#[derive(Debug)]
struct Session<E> {
    bytes: u64,
    /// It never counts for less.
    least: u64,
    members: BTreeMap<u64, Holding<E>>,
}

#[derive(Debug)]
enum Holding<E> {
    Nothing,
    /// The engine is with its instance, which runs it or makes it.
    InUse,
    Idle {
        engine: E,
        since: Instant,
    },
}

impl<E> Ledger<E> {
    pub fn new(limit: u64) -> Self {
        Self {
            limit,
            taken: 0,
            sessions: BTreeMap::new(),
            waiting: VecDeque::new(),
            next: 0,
        }
    }

    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// More than the limit only while sessions that are in use have outgrown it.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// A seat for an instance with a session of its own, which takes at least so many bytes. It holds nothing
    /// yet. What is larger than the limit counts as the limit.
    pub fn add(&mut self, least: u64) -> SeatId {
        self.next += 1;
        let bytes = least.min(self.limit);
        let session = Session {
            bytes,
            least: bytes,
            members: BTreeMap::from([(self.next, Holding::Nothing)]),
        };
        self.sessions.insert(self.next, session);
        SeatId {
            session: self.next,
            member: self.next,
        }
    }

    /// A seat for one more instance that runs the same session.
    pub fn join(&mut self, other: SeatId) -> SeatId {
        self.next += 1;
        let id = SeatId {
            member: self.next,
            ..other
        };
        if let Some(session) = self.sessions.get_mut(&other.session) {
            session.members.insert(id.member, Holding::Nothing);
        }
        id
    }

    /// The instance is gone, with its engine if that was with it.
    pub fn remove(&mut self, id: SeatId) -> Vec<E> {
        self.waiting.retain(|waiting| *waiting != id);
        let former = self.set(id, Holding::Nothing);
        if let Some(session) = self.sessions.get_mut(&id.session) {
            session.members.remove(&id.member);
            if session.members.is_empty() {
                self.sessions.remove(&id.session);
            }
        }
        let mut let_go = Vec::from_iter(former.and_then(Holding::engine));
        let_go.extend(self.settle());
        let_go
    }

    /// Room for an engine that is to be made. `holds` tells when it is granted, at once or after others' doings.
    pub fn claim(&mut self, id: SeatId) -> Vec<E> {
        if !self.holds(id) && !self.waiting.contains(&id) {
            self.waiting.push_back(id);
        }
        self.settle()
    }

    /// Room if there is some that nobody has or wants.
    pub fn claim_if_free(&mut self, id: SeatId) -> bool {
        let free = self.waiting.is_empty() && self.taken + self.needed(id) <= self.limit;
        if free && !self.holds(id) {
            self.set(id, Holding::InUse);
        }
        matches!(self.holding(id), Some(Holding::InUse))
    }

    /// The seat has room for its engine.
    pub fn holds(&self, id: SeatId) -> bool {
        self.holding(id).is_some_and(Holding::counts)
    }

    /// What the session takes has become known, or has changed.
    pub fn resize(&mut self, id: SeatId, bytes: u64) {
        if let Some(session) = self.sessions.get_mut(&id.session) {
            let bytes = bytes.clamp(session.least, self.limit);
            if session.counts() {
                self.taken = self.taken - session.bytes + bytes;
            }
            session.bytes = bytes;
        }
    }

    /// The instance has nothing to run; `engine`: None if it has lost it.
    pub fn park(&mut self, id: SeatId, engine: Option<E>, now: Instant) -> Vec<E> {
        if !matches!(self.holding(id), Some(Holding::InUse)) {
            return Vec::from_iter(engine);
        }
        let holding = match engine {
            Some(engine) => Holding::Idle { engine, since: now },
            None => Holding::Nothing,
        };
        self.set(id, holding);
        self.settle()
    }

    /// The instance has something to run. None: its engine was let go.
    pub fn take(&mut self, id: SeatId) -> Option<E> {
        if !matches!(self.holding(id), Some(Holding::Idle { .. })) {
            return None;
        }
        self.set(id, Holding::InUse).and_then(Holding::engine)
    }

    fn holding(&self, id: SeatId) -> Option<&Holding<E>> {
        self.sessions.get(&id.session)?.members.get(&id.member)
    }

    /// Puts it in place of what is there, and counts.
    fn set(&mut self, id: SeatId, holding: Holding<E>) -> Option<Holding<E>> {
        let session = self.sessions.get_mut(&id.session)?;
        let before = session.counted();
        let member = session.members.get_mut(&id.member)?;
        let former = std::mem::replace(member, holding);
        self.taken = self.taken - before + session.counted();
        Some(former)
    }

    /// Bytes that the seat's session would add.
    fn needed(&self, id: SeatId) -> u64 {
        let session = self.sessions.get(&id.session);
        session.map_or(0, |session| session.bytes - session.counted())
    }

    /// Lets idle engines go as far as others need the room, and gives it to those who wait, in their order.
    fn settle(&mut self) -> Vec<E> {
        let mut let_go = Vec::new();
        loop {
            let needed = self.waiting.front().map_or(0, |first| self.needed(*first));
            if self.taken + needed > self.limit {
                if let Some(session) = self.longest_idle() {
                    let_go.extend(self.dismiss(session));
                    continue;
                }
                let sessions: Vec<u64> = self.sessions.keys().copied().collect();
                for session in sessions {
                    let_go.extend(self.dismiss(session));
                }
                return let_go;
            }
            let Some(first) = self.waiting.pop_front() else {
                return let_go;
            };
            self.set(first, Holding::InUse);
        }
    }

    /// Of the sessions that nobody runs.
    fn longest_idle(&self) -> Option<u64> {
        let idle = self.sessions.iter();
        let idle = idle.filter_map(|(id, session)| Some((session.idle_since()?, *id)));
        idle.min().map(|(_, id)| id)
    }

    /// Takes the session's idle engines.
    fn dismiss(&mut self, session: u64) -> Vec<E> {
        let Some(session) = self.sessions.get_mut(&session) else {
            return Vec::new();
        };
        let before = session.counted();
        let idle = session
            .members
            .values_mut()
            .filter(|member| matches!(member, Holding::Idle { .. }));
        let engines = idle
            .filter_map(|member| std::mem::replace(member, Holding::Nothing).engine())
            .collect();
        self.taken = self.taken - before + session.counted();
        engines
    }
}

impl<E> Session<E> {
    fn counts(&self) -> bool {
        self.members.values().any(Holding::counts)
    }

    /// Bytes that it takes of the budget now.
    fn counted(&self) -> u64 {
        if self.counts() { self.bytes } else { 0 }
    }

    /// When the last member fell idle; None if one is in use, or none has its engine.
    fn idle_since(&self) -> Option<Instant> {
        let mut last = None;
        for member in self.members.values() {
            match member {
                Holding::Nothing => {}
                Holding::InUse => return None,
                Holding::Idle { since, .. } => last = last.max(Some(*since)),
            }
        }
        last
    }
}

impl<E> Holding<E> {
    fn counts(&self) -> bool {
        !matches!(self, Self::Nothing)
    }

    fn engine(self) -> Option<E> {
        match self {
            Self::Idle { engine, .. } => Some(engine),
            Self::Nothing | Self::InUse => None,
        }
    }
}

#[cfg(test)]
mod tests;
