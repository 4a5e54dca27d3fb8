//! Requests of one tenant on one route: the earliest deadline first.

use std::collections::BTreeMap;
use std::time::Instant;

use super::Next;
use super::turns::Lengthy;

/// By deadline, those without one last, and then by arrival.
type Key = (bool, Option<Instant>, u64);

#[derive(Debug)]
pub(super) struct Line<T>(BTreeMap<Key, T>);

fn key(until: Option<Instant>, number: u64) -> Key {
    (until.is_none(), until, number)
}

impl<T> Line<T> {
    pub fn push(&mut self, until: Option<Instant>, number: u64, item: T) {
        self.0.insert(key(until, number), item);
    }

    /// How many go before a newcomer with this deadline.
    pub fn before(&self, until: Option<Instant>) -> usize {
        let newcomer = key(until, u64::MAX);
        match self.0.last_key_value() {
            Some((last, _)) if *last > newcomer => self.0.range(..newcomer).count(),
            _ => self.0.len(),
        }
    }

    /// None: there is nothing for the first one, or nobody in the line.
    pub fn next<R>(
        &mut self,
        now: Instant,
        serve: impl FnOnce(&T) -> Option<R>,
    ) -> Option<Next<T, R>> {
        let first = self.0.first_entry()?;
        if first.key().1.is_some_and(|until| until <= now) {
            return Some(Next::Expired(first.remove()));
        }
        let served = serve(first.get())?;
        Some(Next::Served(first.remove(), served))
    }

    pub fn remove(&mut self, until: Option<Instant>, number: u64) -> Option<T> {
        self.0.remove(&key(until, number))
    }

    pub fn pop_last(&mut self) -> Option<T> {
        self.0.pop_last().map(|(_, item)| item)
    }
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Lengthy for Line<T> {
    fn len(&self) -> usize {
        self.0.len()
    }
}
