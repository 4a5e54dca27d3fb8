//! Which member a key belongs to: weighted rendezvous hashing in two levels.
//!
//! Each member draws an exponential number from its own and the key's hash, divided by its weight, and the least one
//! wins (highest random weight: Thaler, Ravishankar, 1998; with weights: Schindelhauer, Schomaker, 2005). Shares follow
//! the weights exactly, nothing is kept but the members themselves, and a member that goes takes only its own keys
//! along. A ring of points needs a hundred points for each unit of weight, a million for ten thousand members, to
//! come within a tenth of the same shares, and Maglev's table (2016) a hundred entries each; both must be built anew
//! at every change of the fleet, which here is one pass.
//!
//! Looking at ten thousand members for each request would take too long, so members stand in `GROUPS` groups by their
//! own hash: first a group wins, with the weight of all its members, then one of them. When a member goes, its group
//! gives up that weight too, hence about twice as many keys move as must.
//!
//! What comes after a key's first place is not the runner-up but the winner for the key hashed once more ("random
//! jumps": Chen, Coleman, Shrivastava, "Revisiting Consistent Hashing with Bounded Loads", 2021): of a member that is
//! away or full the keys then spread over all others, not over a neighbour or two.

use std::ops::Range;

use crate::traffic::hash;

/// The square root of the largest fleets; of small ones most groups are empty, and are left out.
const GROUPS: u64 = 128;

#[derive(Debug)]
pub struct Rendezvous {
    groups: Vec<Group>,
    /// Group after group.
    members: Vec<Member>,
}

#[derive(Debug)]
struct Group {
    bidder: Bidder,
    members: Range<usize>,
}

#[derive(Debug)]
struct Member {
    bidder: Bidder,
    /// Position in the fleet.
    index: usize,
}

#[derive(Debug, Clone, Copy)]
struct Bidder {
    seed: u64,
    weight: f64,
}

impl Rendezvous {
    /// Of each member its place in the fleet, a hash of what it is, the same for all gateways, and its weight.
    pub fn new(members: impl Iterator<Item = (usize, u64, u32)>) -> Self {
        let mut members: Vec<Member> = members
            .map(|(index, seed, weight)| Member {
                bidder: Bidder {
                    seed,
                    weight: f64::from(weight.max(1)),
                },
                index,
            })
            .collect();
        let group_of = |member: &Member| member.bidder.seed % GROUPS;
        members.sort_by_key(group_of);
        let mut groups = Vec::new();
        let mut start = 0;
        for chunk in members.chunk_by(|a, b| group_of(a) == group_of(b)) {
            let end = start + chunk.len();
            groups.push(Group {
                bidder: Bidder {
                    seed: hash::mix(group_of(&chunk[0])),
                    weight: chunk.iter().map(|member| member.bidder.weight).sum(),
                },
                members: start..end,
            });
            start = end;
        }
        Self { groups, members }
    }

    /// The key's places in the order in which they are to be tried, some perhaps more than once, without end; none of
    /// an empty fleet.
    pub fn places(&self, key: u64) -> impl Iterator<Item = usize> {
        let keys = std::iter::successors(Some(hash::mix(key)), |key| Some(hash::mix(*key)));
        keys.map_while(|key| self.place(key))
    }

    fn place(&self, key: u64) -> Option<usize> {
        let group = winner(&self.groups, |group| &group.bidder, key)?;
        let members = &self.members[group.members.clone()];
        winner(members, |member| &member.bidder, key).map(|member| member.index)
    }
}

fn winner<T>(all: &[T], bidder: impl Fn(&T) -> &Bidder, key: u64) -> Option<&T> {
    let mut best = None;
    let mut least = f64::INFINITY;
    for one in all {
        let bid = bidder(one).bid(key);
        if bid < least {
            (best, least) = (Some(one), bid);
        }
    }
    best
}

impl Bidder {
    /// Exponentially distributed over the keys, with the weight as its rate.
    fn bid(&self, key: u64) -> f64 {
        const STEP: f64 = 1.0 / (1_u64 << 53) as f64;
        let uniform = ((hash::mix(key ^ self.seed) >> 11) as f64 + 0.5) * STEP;
        -uniform.ln() / self.weight
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: u64 = 40_000;

    fn fleet(members: &[(u64, u32)]) -> Rendezvous {
        let members = members.iter().enumerate();
        Rendezvous::new(
            members.map(|(index, (name, weight))| (index, hash::of(&name.to_le_bytes()), *weight)),
        )
    }

    fn names(range: Range<u64>) -> Vec<(u64, u32)> {
        range.map(|name| (name, 1)).collect()
    }

    /// The name of each key's first place.
    fn homes(members: &[(u64, u32)]) -> Vec<u64> {
        let fleet = fleet(members);
        (0..KEYS)
            .map(|key| members[fleet.places(key).next().unwrap()].0)
            .collect()
    }

    #[test]
    fn an_empty_fleet_has_no_places() {
        assert_eq!(fleet(&[]).places(7).next(), None);
    }

    #[test]
    fn shares_follow_the_weights() {
        for members in [
            vec![(1, 1), (2, 2), (3, 3), (4, 10)],
            names(0..100),
            names(0..1_000),
        ] {
            let total: u32 = members.iter().map(|(_, weight)| weight).sum();
            let homes = homes(&members);
            for (name, weight) in members {
                let count = homes.iter().filter(|home| **home == name).count() as f64;
                let expected = KEYS as f64 * f64::from(weight) / f64::from(total);
                let allowed = 6.0 * expected.sqrt();
                assert!(
                    (count - expected).abs() < allowed,
                    "{name}: {count} of {expected}"
                );
            }
        }
    }

    #[test]
    fn a_change_moves_little_more_than_it_must() {
        for size in [4, 50, 1_000] {
            let all = homes(&names(0..size));
            let without = homes(&names(1..size));
            let moved = all.iter().zip(&without).filter(|(a, b)| a != b).count() as f64;
            let must = KEYS as f64 / size as f64;
            assert!(moved < 2.4 * must + 6.0 * must.sqrt(), "{moved} of {size}");
            let gone = all.iter().filter(|home| **home == 0).count();
            assert!(moved >= gone as f64);
        }
    }

    #[test]
    fn the_keys_of_one_that_is_away_spread_over_all_others() {
        let members = names(0..10);
        let fleet = fleet(&members);
        let mut seconds = [0_u32; 10];
        for key in 0..KEYS {
            let mut places = fleet.places(key);
            if places.next() == Some(3) {
                seconds[places.find(|place| *place != 3).unwrap()] += 1;
            }
        }
        for (name, count) in seconds.iter().enumerate().filter(|(name, _)| *name != 3) {
            assert!((300..=600).contains(count), "{name}: {seconds:?}");
        }
    }

    #[test]
    fn the_order_of_the_members_does_not_matter() {
        let mut members = names(0..300);
        let before = homes(&members);
        members.reverse();
        assert_eq!(before, homes(&members));
    }
}
