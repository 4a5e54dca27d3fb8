//! Which engines may be in memory at once: a budget in bytes, and a seat in it for each instance.
//!
//! An engine that is not running is let go when another one needs the room, the one that is idle longest first;
//! its instance claims room again when it has something to run. Claims are granted in the order they came, and
//! while one waits, every engine that falls idle goes: so each is granted in the end, however busy the others
//! are. What is let go is handed out, for the caller to drop. Pure: `E` is whatever stands for an engine.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

/// Stands for one instance.
pub type SeatId = u64;

#[derive(Debug)]
pub struct Ledger<E> {
    limit: u64,
    /// By engines that are in memory or about to be.
    taken: u64,
    seats: BTreeMap<SeatId, Seat<E>>,
    waiting: VecDeque<SeatId>,
    next: SeatId,
}

#[derive(Debug)]
struct Seat<E> {
    bytes: u64,
    holding: Holding<E>,
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
            seats: BTreeMap::new(),
            waiting: VecDeque::new(),
            next: 0,
        }
    }

    pub fn limit(&self) -> u64 {
        self.limit
    }

    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// A seat for an instance whose engine takes so many bytes, at most the limit. It holds nothing yet.
    pub fn add(&mut self, bytes: u64) -> SeatId {
        self.next += 1;
        let seat = Seat {
            bytes: bytes.min(self.limit),
            holding: Holding::Nothing,
        };
        self.seats.insert(self.next, seat);
        self.next
    }

    /// The instance is gone, with its engine if that was with it.
    pub fn remove(&mut self, id: SeatId) -> Vec<E> {
        self.waiting.retain(|waiting| *waiting != id);
        let mut let_go = Vec::new();
        if let Some(seat) = self.seats.remove(&id) {
            match seat.holding {
                Holding::Nothing => {}
                Holding::InUse => self.taken -= seat.bytes,
                Holding::Idle { engine, .. } => {
                    self.taken -= seat.bytes;
                    let_go.push(engine);
                }
            }
        }
        let_go.extend(self.grant());
        let_go
    }

    /// Room for an engine that is to be made. `holds` tells when it is granted, at once or after others' doings.
    pub fn claim(&mut self, id: SeatId) -> Vec<E> {
        if !self.holds(id) && !self.waiting.contains(&id) {
            self.waiting.push_back(id);
        }
        self.grant()
    }

    /// Room if there is some that nobody has or wants.
    pub fn claim_if_free(&mut self, id: SeatId) -> bool {
        let Some(seat) = self.seats.get_mut(&id) else {
            return false;
        };
        let free = self.waiting.is_empty() && self.taken + seat.bytes <= self.limit;
        if free && matches!(seat.holding, Holding::Nothing) {
            self.taken += seat.bytes;
            seat.holding = Holding::InUse;
        }
        matches!(seat.holding, Holding::InUse)
    }

    /// The seat has room for its engine.
    pub fn holds(&self, id: SeatId) -> bool {
        let seat = self.seats.get(&id);
        seat.is_some_and(|seat| !matches!(seat.holding, Holding::Nothing))
    }

    /// The instance has nothing to run; `engine`: None if it has lost it.
    pub fn park(&mut self, id: SeatId, engine: Option<E>, now: Instant) -> Vec<E> {
        let Some(seat) = self.seats.get_mut(&id) else {
            return engine.into_iter().collect();
        };
        if matches!(seat.holding, Holding::InUse) {
            seat.holding = match engine {
                Some(engine) => Holding::Idle { engine, since: now },
                None => {
                    self.taken -= seat.bytes;
                    Holding::Nothing
                }
            };
        }
        self.grant()
    }

    /// The instance has something to run. None: its engine was let go.
    pub fn take(&mut self, id: SeatId) -> Option<E> {
        let seat = self.seats.get_mut(&id)?;
        if !matches!(seat.holding, Holding::Idle { .. }) {
            return None;
        }
        match std::mem::replace(&mut seat.holding, Holding::InUse) {
            Holding::Idle { engine, .. } => Some(engine),
            Holding::Nothing | Holding::InUse => None,
        }
    }

    /// Gives room to those who wait, in their order, as far as it goes.
    fn grant(&mut self) -> Vec<E> {
        let mut let_go = Vec::new();
        while let Some(first) = self.waiting.front().copied() {
            let needed = self.seats.get(&first).map_or(0, |seat| seat.bytes);
            while self.taken + needed > self.limit {
                let Some(engine) = self.evict() else {
                    return let_go;
                };
                let_go.push(engine);
            }
            self.waiting.pop_front();
            if let Some(seat) = self.seats.get_mut(&first) {
                self.taken += needed;
                seat.holding = Holding::InUse;
            }
        }
        let_go
    }

    /// Takes the engine that is idle longest.
    fn evict(&mut self) -> Option<E> {
        let idle = self.seats.values_mut().filter_map(|seat| {
            let Holding::Idle { since, .. } = seat.holding else {
                return None;
            };
            Some((since, seat))
        });
        let (_, seat) = idle.min_by_key(|(since, _)| *since)?;
        self.taken -= seat.bytes;
        match std::mem::replace(&mut seat.holding, Holding::Nothing) {
            Holding::Idle { engine, .. } => Some(engine),
            Holding::Nothing | Holding::InUse => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> Instant {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        *START.get_or_init(Instant::now) + Duration::from_secs(seconds)
    }

    /// A ledger with engines of 4 bytes each, idle since their number of seconds.
    fn idle(limit: u64, engines: &[&'static str]) -> (Ledger<&'static str>, Vec<SeatId>) {
        let mut ledger = Ledger::new(limit);
        let seats = engines.iter().enumerate().map(|(number, engine)| {
            let seat = ledger.add(4);
            assert!(ledger.claim(seat).is_empty());
            assert!(ledger.holds(seat));
            ledger.park(seat, Some(*engine), at(number as u64));
            seat
        });
        let seats = seats.collect();
        (ledger, seats)
    }

    #[test]
    fn within_the_budget_nothing_goes() {
        let (mut ledger, seats) = idle(8, &["a", "b"]);
        assert_eq!(ledger.taken(), 8);
        assert_eq!(ledger.take(seats[0]), Some("a"));
        assert!(ledger.park(seats[0], Some("a"), at(9)).is_empty());
    }

    #[test]
    fn the_one_that_is_idle_longest_goes_first() {
        let (mut ledger, seats) = idle(12, &["a", "b", "c"]);
        let new = ledger.add(6);
        assert_eq!(ledger.claim(new), ["a", "b"]);
        assert!(ledger.holds(new) && !ledger.holds(seats[0]));
        assert_eq!(ledger.taken(), 10);
        assert_eq!(ledger.take(seats[0]), None);
        assert_eq!(ledger.take(seats[2]), Some("c"));
    }

    #[test]
    fn what_runs_stays_and_the_claim_waits_for_it() {
        let (mut ledger, seats) = idle(4, &["a"]);
        ledger.take(seats[0]);
        let new = ledger.add(4);
        assert!(ledger.claim(new).is_empty());
        assert!(!ledger.holds(new));
        assert_eq!(ledger.park(seats[0], Some("a"), at(1)), ["a"]);
        assert!(ledger.holds(new) && !ledger.holds(seats[0]));
    }

    #[test]
    fn a_large_claim_is_not_overtaken_by_small_ones() {
        let (mut ledger, seats) = idle(8, &["a", "b"]);
        ledger.take(seats[0]);
        ledger.take(seats[1]);
        let large = ledger.add(8);
        ledger.claim(large);
        assert_eq!(ledger.park(seats[0], Some("a"), at(1)), ["a"]);
        assert!(!ledger.holds(large));
        assert!(ledger.claim(seats[0]).is_empty(), "behind the large one");
        assert!(!ledger.claim_if_free(seats[0]));
        assert_eq!(ledger.park(seats[1], Some("b"), at(2)), ["b"]);
        assert!(ledger.holds(large) && !ledger.holds(seats[0]));
        assert_eq!(ledger.park(large, Some("l"), at(3)), ["l"]);
        assert!(ledger.holds(seats[0]));
    }

    #[test]
    fn lost_engines_and_gone_instances_leave_their_room() {
        let (mut ledger, seats) = idle(8, &["a", "b"]);
        ledger.take(seats[0]);
        ledger.park(seats[0], None, at(1));
        assert_eq!(ledger.taken(), 4);
        assert!(ledger.claim_if_free(seats[0]));
        let new = ledger.add(8);
        ledger.claim(new);
        assert!(ledger.remove(seats[0]).contains(&"b") || !ledger.holds(seats[1]));
        assert!(ledger.holds(new));
        assert!(ledger.remove(new).is_empty());
        assert_eq!(ledger.taken(), 0);
    }

    #[test]
    fn parking_twice_is_parking_once() {
        let (mut ledger, seats) = idle(8, &["a"]);
        assert!(ledger.park(seats[0], None, at(5)).is_empty());
        assert_eq!(ledger.take(seats[0]), Some("a"));
    }

    proptest! {
        /// Instances run in any order: the budget is never exceeded, and when all have stopped, whoever waits
        /// has been granted.
        #[test]
        fn the_budget_holds_and_nobody_starves(
            sizes in proptest::collection::vec(1..6u64, 1..6),
            steps in proptest::collection::vec((0..6usize, any::<bool>()), 0..60),
        ) {
            let mut ledger: Ledger<usize> = Ledger::new(6);
            let seats: Vec<SeatId> = sizes.iter().map(|bytes| ledger.add(*bytes)).collect();
            let mut running = vec![false; seats.len()];
            for (step, (which, run)) in steps.into_iter().enumerate() {
                let which = which % seats.len();
                let seat = seats[which];
                if run && !running[which] {
                    if ledger.take(seat).is_none() {
                        ledger.claim(seat);
                    }
                    running[which] = ledger.holds(seat);
                } else if !run && running[which] {
                    ledger.park(seat, Some(which), at(step as u64));
                    running[which] = false;
                }
                for (which, seat) in seats.iter().enumerate() {
                    running[which] |= matches!(
                        ledger.seats[seat].holding,
                        Holding::InUse
                    );
                }
                prop_assert!(ledger.taken() <= 6);
                let held: u64 = ledger.seats.values()
                    .filter(|seat| !matches!(seat.holding, Holding::Nothing))
                    .map(|seat| seat.bytes).sum();
                prop_assert_eq!(held, ledger.taken());
            }
            for _ in 0..=seats.len() {
                for (which, seat) in seats.iter().enumerate() {
                    ledger.park(*seat, Some(which), at(1000));
                }
            }
            prop_assert!(ledger.waiting.is_empty());
        }
    }
}
