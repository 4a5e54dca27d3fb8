//! How much of something optional may be under way: a number of things, and the bytes that they hold. What does not fit
//! is turned away at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Default)]
pub struct Room {
    things: AtomicU64,
    bytes: AtomicU64,
}

/// A place in the room, given back when dropped.
#[derive(Debug)]
pub struct Place {
    room: Arc<Room>,
    bytes: u64,
}

impl Room {
    /// None: it is full.
    pub fn enter(self: &Arc<Self>, bytes: u64, most: u64, most_bytes: u64) -> Option<Place> {
        take(&self.things, 1, most)?;
        if take(&self.bytes, bytes, most_bytes).is_none() {
            self.things.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Place {
            room: self.clone(),
            bytes,
        })
    }

    /// Things under way.
    pub fn things(&self) -> u64 {
        self.things.load(Ordering::Relaxed)
    }
}

fn take(counter: &AtomicU64, amount: u64, most: u64) -> Option<()> {
    let add = |now: u64| now.checked_add(amount).filter(|sum| *sum <= most);
    counter
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
        .ok()
        .map(drop)
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.things.fetch_sub(1, Ordering::Relaxed);
        self.room.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn neither_bound_is_passed_and_everything_comes_back(
            steps in prop::collection::vec((any::<bool>(), 0_u64..60), 0..100),
        ) {
            let room = Arc::new(Room::default());
            let mut inside = Vec::new();
            for (enters, bytes) in steps {
                if enters {
                    let held: u64 = inside.iter().map(|place: &Place| place.bytes).sum();
                    let place = room.enter(bytes, 4, 100);
                    prop_assert_eq!(place.is_some(), inside.len() < 4 && held + bytes <= 100);
                    inside.extend(place);
                } else {
                    inside.pop();
                }
                prop_assert_eq!(room.things(), inside.len() as u64);
            }
            drop(inside);
            prop_assert_eq!((room.things(), room.bytes.load(Ordering::Relaxed)), (0, 0));
        }
    }
}
