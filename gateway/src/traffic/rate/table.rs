//! Buckets by key, in a room of fixed size.
//!
//! A flood of keys must not grow memory, nor cost more than a look at a few places: each key has eight places where
//! its bucket may stand, as in a set-associative cache. Where all are taken, the one that is full soonest gives way;
//! a full one loses nothing by that, another one is as good as full again. So what a flood can do is to let somebody
//! through too often, never to shut somebody out.

use std::time::Duration;

use parking_lot::Mutex;

use super::Rate;

const WAYS: usize = 8;
/// A mebibyte of buckets.
const SETS: usize = 8192;

#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    key: u64,
    /// When it is full; in the past: it is.
    full: u64,
}

#[derive(Debug)]
pub struct Table(Box<[Mutex<[Entry; WAYS]>]>);

impl Table {
    /// Takes a token out of the bucket of `key`, which must be spread evenly. Err: in how long there is one.
    pub fn take(&self, key: u64, rate: &Rate, now: u64) -> Result<(), Duration> {
        let mut set = self.set(key).lock();
        let entry = entry(&mut set, key);
        entry.full = rate.take(entry.full, now)?;
        Ok(())
    }

    /// Somebody who knows better says that the bucket of `key` is full no sooner than this.
    pub fn drain(&self, key: u64, full: u64) {
        let mut set = self.set(key).lock();
        let entry = entry(&mut set, key);
        entry.full = entry.full.max(full);
    }

    /// The request of a token was refused for another reason.
    pub fn give_back(&self, key: u64, rate: &Rate) {
        let mut set = self.set(key).lock();
        if let Some(entry) = set.iter_mut().find(|entry| entry.key == key) {
            entry.full = entry.full.saturating_sub(rate.interval);
        }
    }

    fn set(&self, key: u64) -> &Mutex<[Entry; WAYS]> {
        &self.0[(key % SETS as u64) as usize]
    }
}

/// That of `key`, in the place of the one that is full soonest if there is none.
fn entry(set: &mut [Entry; WAYS], key: u64) -> &mut Entry {
    let place = match set.iter().position(|entry| entry.key == key) {
        Some(place) => place,
        None => {
            let soonest = (0..WAYS).min_by_key(|place| set[*place].full);
            let place = soonest.unwrap_or_default();
            set[place] = Entry { key, full: 0 };
            place
        }
    };
    &mut set[place]
}

impl Default for Table {
    fn default() -> Self {
        Self((0..SETS).map(|_| Mutex::default()).collect())
    }
}

#[cfg(test)]
mod tests {
    use forebay_config::gateway::{RateKey, RateLimit};

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn one_a_second() -> Rate {
        Rate::new(&RateLimit {
            requests: 1,
            per: Duration::from_secs(1),
            burst: 1,
            shared: false,
            by: RateKey::Client,
        })
    }

    #[test]
    fn keys_have_buckets_of_their_own() {
        let (table, rate) = (Table::default(), one_a_second());
        for key in 0..1_000 {
            assert_eq!(table.take(key, &rate, SECOND), Ok(()));
            assert_eq!(table.take(key, &rate, SECOND), Err(Duration::from_secs(1)));
        }
        table.give_back(7, &rate);
        assert_eq!(table.take(7, &rate, SECOND), Ok(()));
        assert!(table.take(8, &rate, SECOND).is_err());
    }

    #[test]
    fn a_flood_of_keys_shuts_nobody_out() {
        let (table, rate) = (Table::default(), one_a_second());
        let mut random = fastrand::Rng::with_seed(7);
        for number in 0..1_000_000_u64 {
            let now = SECOND + number * 1_000;
            assert_eq!(table.take(random.u64(..), &rate, now), Ok(()));
        }
    }

    #[test]
    fn an_idle_bucket_gives_way_before_one_in_use() {
        let (table, rate) = (Table::default(), one_a_second());
        // All in one set; the first has been full for long when the last one comes.
        let keys: Vec<u64> = (0..=WAYS as u64).map(|key| key * SETS as u64).collect();
        for (key, second) in keys[..WAYS].iter().zip([1, 5, 5, 5, 5, 5, 5, 5]) {
            assert_eq!(table.take(*key, &rate, second * SECOND), Ok(()));
        }
        assert_eq!(table.take(keys[WAYS], &rate, 5 * SECOND), Ok(()));
        for key in &keys[1..] {
            assert!(table.take(*key, &rate, 5 * SECOND).is_err(), "{key}");
        }
    }
}
