//! Answers kept in memory, never more bytes of them than were allowed.
//!
//! What goes first is decided by S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP
//! 2023), as crate `quick_cache` has it: an answer asked for once leaves before one that is asked for again, so a
//! run over many different inputs does not empty the cache.

use std::fmt;
use std::sync::Arc;

use quick_cache::unsync::Cache;
use quick_cache::{Lifecycle, Weighter};

use crate::key::{Digested, Key};

/// What an answer is taken to weigh when the table is made.
const USUAL_ENTRY: u64 = 4 << 10;
const MAX_RESERVED: u64 = 16 << 10;

pub trait Weigh {
    /// Bytes that keeping this takes, with what it takes to administer it; never 0, and never another number later.
    fn weight(&self) -> u64;
}

impl<T: Weigh> Weigh for Arc<T> {
    fn weight(&self) -> u64 {
        T::weight(self)
    }
}

/// Bounded by bytes.
pub struct Store<V> {
    kept: Cache<Key, V, Weight, Digested, Evictions>,
    limit: u64,
    evictions: u64,
}

impl<V: Weigh + Clone> Store<V> {
    /// `limit`: bytes.
    pub fn new(limit: u64) -> Self {
        let entries = (limit / USUAL_ENTRY).clamp(16, MAX_RESERVED);
        let entries = usize::try_from(entries).unwrap_or(usize::MAX);
        Self {
            kept: Cache::with(entries, limit, Weight, Digested::default(), Evictions),
            limit,
            evictions: 0,
        }
    }

    pub fn get(&self, key: &Key) -> Option<&V> {
        self.kept.get(key)
    }

    /// Keeps an answer in the place of one with the same key, and gives back what had to go for it, so that the
    /// caller frees it when no lock is held.
    pub fn insert(&mut self, key: Key, answer: V) -> Vec<V> {
        let replaced = usize::from(self.kept.peek(&key).is_some());
        let mut gone = Vec::new();
        self.kept.insert_with_lifecycle(key, answer, &mut gone);
        self.evictions += gone.len().saturating_sub(replaced) as u64;
        gone
    }

    pub fn remove(&mut self, key: &Key) -> Option<V> {
        self.kept.remove(key).map(|(_, answer)| answer)
    }

    /// Removes what is not to stay; how many that were.
    pub fn retain(&mut self, stays: impl Fn(&V) -> bool) -> usize {
        let before = self.kept.len();
        self.kept.retain(|_, answer| stays(answer));
        before - self.kept.len()
    }

    /// Whether an answer of so many bytes could be kept at all.
    pub fn has_room_for(&self, bytes: u64) -> bool {
        bytes <= self.limit
    }

    pub fn bytes(&self) -> u64 {
        self.kept.weight()
    }

    pub fn entries(&self) -> usize {
        self.kept.len()
    }

    /// Answers that had to go for others.
    pub fn evictions(&self) -> u64 {
        self.evictions
    }
}

impl<V: Weigh + Clone> fmt::Debug for Store<V> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bytes, entries) = (self.bytes(), self.entries());
        write!(
            formatter,
            "Store({entries} in {bytes} of {} bytes)",
            self.limit
        )
    }
}

#[derive(Debug, Clone)]
struct Weight;

impl<V: Weigh> Weighter<Key, V> for Weight {
    fn weight(&self, _: &Key, answer: &V) -> u64 {
        answer.weight()
    }
}

#[derive(Debug, Clone)]
struct Evictions;

impl<V> Lifecycle<Key, V> for Evictions {
    type RequestState = Vec<V>;

    fn on_evict(&self, evicted: &mut Vec<V>, _: Key, answer: V) {
        evicted.push(answer);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::key::Digest;

    #[derive(Debug, Clone, PartialEq)]
    struct Answer(u64);

    impl Weigh for Answer {
        fn weight(&self) -> u64 {
            self.0
        }
    }

    fn key(number: usize) -> Key {
        let mut digest = Digest::new();
        digest.number(number);
        digest.key()
    }

    proptest! {
        #[test]
        fn never_more_bytes_than_allowed(
            limit in 0_u64..20_000,
            answers in prop::collection::vec((0_usize..40, 1_u64..4_000), 0..200)
        ) {
            let mut store = Store::new(limit);
            let mut kept = 0;
            let mut gone = 0;
            for (number, weight) in answers {
                if !store.has_room_for(weight) || store.get(&key(number)).is_some() {
                    continue;
                }
                kept += 1;
                gone += store.insert(key(number), Answer(weight)).len();
                prop_assert!(store.bytes() <= limit, "{} of {limit}", store.bytes());
                prop_assert_eq!(store.entries(), kept - gone);
                prop_assert_eq!(store.evictions(), gone as u64);
            }
        }
    }

    #[test]
    fn what_is_asked_for_again_outlives_a_scan() {
        let mut store = Store::new(20_000);
        for popular in 0..4 {
            store.insert(key(popular), Answer(1_000));
        }
        for stranger in 100..400 {
            for popular in 0..4 {
                assert!(store.get(&key(popular)).is_some(), "gone at {stranger}");
            }
            store.insert(key(stranger), Answer(1_000));
        }
        assert!(store.evictions() > 0);
    }

    #[test]
    fn what_is_replaced_or_removed_weighs_no_more() {
        let mut store = Store::new(10_000);
        store.insert(key(1), Answer(100));
        store.insert(key(1), Answer(300));
        store.insert(key(2), Answer(50));
        assert_eq!((store.bytes(), store.entries()), (350, 2));
        assert_eq!(store.evictions(), 0);
        assert_eq!(store.remove(&key(2)), Some(Answer(50)));
        assert_eq!(store.remove(&key(2)), None);
        assert_eq!(store.retain(|answer| answer.0 < 300), 1);
        assert_eq!((store.bytes(), store.entries()), (0, 0));
    }
}
