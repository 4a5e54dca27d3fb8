//! The response cache of one route: what becomes of a call, given what is kept and what runs already.
//!
//! A call finds an answer that is kept, or an identical call under way, for whose answer it waits, or nothing: then
//! its own run is the one that later calls wait for. What waits is the shell's business (`W` is where it waits); here
//! is who leads. A run that ends, however it ends, leaves the table before anybody hears of it, so that one of those
//! who waited can lead on.
//!
//! After a purge nothing that was asked for before it is kept or joined: runs that were under way leave the table, and
//! what they bring is theirs alone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use forebay_cache::{Digested, Key, Store, Weigh};
use http::HeaderValue;

use crate::protocol::cache_control::Wish;

/// Bytes that an entry takes besides its answer, roughly.
const ENTRY: usize = 256;

/// An answer that may be given again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The message without frame and id (`protocol::kept`).
    pub message: Bytes,
    /// Of the request, for purges.
    pub model: Box<str>,
    /// Who gave it.
    pub endpoint: HeaderValue,
    pub made: Instant,
    pub until: Instant,
}

impl Kept {
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.made)
    }
}

impl Weigh for Kept {
    fn weight(&self) -> u64 {
        (ENTRY + self.message.len() + self.model.len() + self.endpoint.len()) as u64
    }
}

#[derive(Debug)]
pub struct Shelf<W> {
    store: Store<Arc<Kept>>,
    underway: HashMap<Key, Underway<W>, Digested>,
    begun: u64,
    purges: u64,
}

#[derive(Debug)]
struct Underway<W> {
    number: u64,
    wait: W,
}

/// One run, to be given back when it ends.
#[derive(Debug)]
pub struct Run {
    key: Key,
    /// None: nobody can join it.
    number: Option<u64>,
    purges: u64,
}

#[derive(Debug)]
pub enum Found<W> {
    Kept(Arc<Kept>),
    Underway(W),
    Nothing(Run),
}

/// What is there, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Contents {
    pub bytes: u64,
    pub entries: usize,
    pub evictions: u64,
    pub underway: usize,
}

impl<W: Clone> Shelf<W> {
    /// `limit`: bytes that kept answers may take.
    pub fn new(limit: u64) -> Self {
        Self {
            store: Store::new(limit),
            underway: HashMap::default(),
            begun: 0,
            purges: 0,
        }
    }

    /// `wait` is where later calls wait, should this one lead.
    pub fn look(
        &mut self,
        key: Key,
        wish: Wish,
        now: Instant,
        wait: impl FnOnce() -> W,
    ) -> Found<W> {
        if let Some(kept) = self.store.get(&key) {
            if kept.until <= now {
                self.store.remove(&key);
            } else if wish.takes(kept.age(now)) {
                return Found::Kept(kept.clone());
            }
        }
        let underway = self.underway.get(&key);
        if let Some(underway) = underway.filter(|_| wish.takes(Duration::ZERO)) {
            return Found::Underway(underway.wait.clone());
        }
        if underway.is_some() {
            return Found::Nothing(self.alone(key));
        }
        self.begun += 1;
        let number = self.begun;
        let wait = wait();
        self.underway.insert(key, Underway { number, wait });
        Found::Nothing(Run {
            number: Some(number),
            ..self.alone(key)
        })
    }

    /// A run that nobody joins; its answer may be kept.
    pub fn alone(&self, key: Key) -> Run {
        Run {
            key,
            number: None,
            purges: self.purges,
        }
    }

    /// The run has ended, with an answer to be kept or without. Gives back what had to go for it, to be freed when no
    /// lock is held.
    pub fn end(&mut self, run: &Run, kept: Option<Arc<Kept>>) -> Vec<Arc<Kept>> {
        let Run {
            key,
            number,
            purges,
        } = *run;
        let in_table = self.underway.get(&key).map(|underway| underway.number);
        if number.is_some() && in_table == number {
            self.underway.remove(&key);
        }
        let kept =
            kept.filter(|kept| purges == self.purges && self.store.has_room_for(kept.weight()));
        kept.map_or_else(Vec::new, |kept| self.store.insert(key, kept))
    }

    /// No purge since the run began.
    pub fn is_current(&self, run: &Run) -> bool {
        run.purges == self.purges
    }

    /// Forgets the answers of a model, or all; how many that were.
    pub fn purge(&mut self, model: Option<&str>) -> usize {
        self.purges += 1;
        self.underway.clear();
        self.store
            .retain(|kept| model.is_some_and(|model| *kept.model != *model))
    }

    pub fn contents(&self) -> Contents {
        Contents {
            bytes: self.store.bytes(),
            entries: self.store.entries(),
            evictions: self.store.evictions(),
            underway: self.underway.len(),
        }
    }
}

#[cfg(test)]
mod tests;
