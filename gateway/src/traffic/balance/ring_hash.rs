//! The same endpoint for the same key, as long as it has room: consistent hashing with bounded loads (Mirrokni, Thorup,
//! Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2016) over the places of `rendezvous`.
//!
//! An endpoint has room while it has less in flight than `bound` times its fair share of what is in flight, by weight
//! and with the request to be placed. The paper's bins are filled by nothing else than the keys; here requests without
//! a key count too, since they take up the same room.
//!
//! The bound is for crowds: where next to nothing is in flight a fair share is less than one request, and a second one
//! of the same session would be sent away from a cluster that idles. So `LEAST_ROOM` is always there.

use super::rendezvous::Rendezvous;
use super::{Candidate, sample};

/// Requests in flight for which every endpoint has room.
pub const LEAST_ROOM: u32 = 4;
/// So many places of a key are looked at. They are all away or full only when few endpoints of many are left; then it
/// matters less which one it is than that it has room.
const PLACES: usize = 32;

pub struct RingHash {
    bound: f64,
    places: Rendezvous,
}

/// What an endpoint may have in flight for each unit of its weight.
struct Room(f64);

impl RingHash {
    pub fn new(bound: f64, places: Rendezvous) -> Self {
        Self { bound, places }
    }

    /// The index of the endpoint that gets the request. `known` is what the fair share is measured by: all candidates,
    /// or some of many, drawn at random. `look` says what an endpoint is as a candidate; None: it is none now.
    pub fn choose(
        &self,
        key: u64,
        random: u64,
        known: &[Candidate],
        look: impl Fn(usize) -> Option<Candidate>,
    ) -> Option<usize> {
        let room = Room::of(known, self.bound);
        let home = self.places.places(key).take(PLACES).find(|index| {
            let candidate = look(*index);
            candidate.is_some_and(|candidate| room.takes(&candidate))
        });
        home.or_else(|| {
            let spare = sample::least(known, random, |a, b| {
                let load = |one: &Candidate| (f64::from(one.active) + 1.0) / one.share() as f64;
                load(a).total_cmp(&load(b))
            });
            spare.map(|position| known[position].index)
        })
    }
}

impl Room {
    fn of(known: &[Candidate], bound: f64) -> Self {
        let active: f64 = known.iter().map(|one| f64::from(one.active)).sum();
        let weight = sample::total_weight(known).max(1) as f64;
        Self(bound * (active + 1.0) / weight)
    }

    fn takes(&self, candidate: &Candidate) -> bool {
        let most = (self.0 * candidate.share() as f64).ceil();
        candidate.active < LEAST_ROOM || f64::from(candidate.active) < most
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::traffic::balance::Policy;
    use crate::traffic::hash;

    /// Every request with a key of its own: so it can be held to what every policy must do.
    impl Policy for RingHash {
        fn choose(&self, candidates: &[Candidate], random: u64) -> Option<usize> {
            let look = |index| candidates.iter().find(|one| one.index == index).copied();
            let index = self.choose(random, random, candidates, look)?;
            candidates.iter().position(|one| one.index == index)
        }
    }

    /// Over members of this weight at these positions.
    pub(in crate::traffic::balance) fn ring(weights: &[u32], bound: f64) -> RingHash {
        let members = weights.iter().enumerate();
        let members = members.map(|(index, weight)| {
            (
                index,
                hash::of(format!("10.0.0.{index}:8001").as_bytes()),
                *weight,
            )
        });
        RingHash::new(bound, Rendezvous::new(members))
    }

    fn fleet(active: &[u32]) -> Vec<Candidate> {
        let candidate = |(index, &active)| Candidate {
            index,
            weight: 1,
            active,
            cost: 0.0,
            expectation: None,
        };
        active.iter().enumerate().map(candidate).collect()
    }

    fn choose(ring: &RingHash, fleet: &[Candidate], key: u64) -> Option<usize> {
        ring.choose(key, 7, fleet, |index| {
            fleet.iter().find(|one| one.index == index).copied()
        })
    }

    #[test]
    fn a_key_stays_where_it_is_while_there_is_room() {
        let ring = ring(&[1; 8], 1.25);
        for key in 0..100 {
            let home = choose(&ring, &fleet(&[0; 8]), key).unwrap();
            let mut busy = [10; 8];
            assert_eq!(choose(&ring, &fleet(&busy), key), Some(home));
            // 1.25 · (10 · 7 + 14 + 1) / 8 = 13.3, so a fifteenth request has no room.
            busy[home] = 13;
            assert_eq!(choose(&ring, &fleet(&busy), key), Some(home));
            busy[home] = 14;
            let second = choose(&ring, &fleet(&busy), key).unwrap();
            assert_ne!(second, home);
            // It is where the key goes too when its home is away.
            let others: Vec<_> = fleet(&[10; 8])
                .into_iter()
                .filter(|one| one.index != home)
                .collect();
            assert_eq!(choose(&ring, &others, key), Some(second));
        }
    }

    #[test]
    fn a_cluster_that_idles_keeps_a_session_together() {
        let ring = ring(&[1; 8], 1.0);
        let home = choose(&ring, &fleet(&[0; 8]), 5).unwrap();
        let mut active = [0; 8];
        for _ in 0..LEAST_ROOM {
            assert_eq!(choose(&ring, &fleet(&active), 5), Some(home));
            active[home] += 1;
        }
        assert_ne!(choose(&ring, &fleet(&active), 5), Some(home));
    }

    #[test]
    fn one_key_alone_loads_nobody_beyond_the_bound() {
        let ring = ring(&[1; 20], 1.25);
        let mut active = [0; 20];
        for _ in 0..2_000 {
            active[choose(&ring, &fleet(&active), 42).unwrap()] += 1;
        }
        assert!(active.iter().all(|active| *active <= 126), "{active:?}");
    }

    #[test]
    fn the_last_one_of_many_is_found() {
        let ring = ring(&[1; 400], 1.25);
        let last: Vec<_> = fleet(&[9; 400]).split_off(399);
        for key in 0..50 {
            assert_eq!(choose(&ring, &last, key), Some(399));
        }
        assert_eq!(choose(&ring, &[], 1), None);
    }
}
