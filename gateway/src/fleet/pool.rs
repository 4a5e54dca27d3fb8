//! Some members of a cluster, or all of them, prepared for choosing among them.

use forebay_config::gateway as config;

use super::cluster::Member;
use crate::traffic::balance::{Draw, Rendezvous, RingHash};
use crate::traffic::hash;

pub(super) struct Pool {
    pub all: Group,
    /// Those that come first, and the others; None: there are not both.
    pub parts: Option<(Group, Group)>,
}

pub(super) struct Group {
    /// In the cluster, in ascending order.
    pub positions: Vec<usize>,
    draw: Draw,
    /// For requests with a key, where the cluster goes by one.
    pub ring: Option<RingHash>,
}

impl Pool {
    /// `positions` in ascending order.
    pub fn new(positions: Vec<usize>, members: &[Member], config: &config::Cluster) -> Self {
        let parts = config.prefer.as_ref().and_then(|prefer| {
            let preferred = |position: &usize| {
                let labels = &config.endpoints[*position].labels;
                let mut wanted = prefer.labels.iter();
                wanted.all(|(name, value)| labels.get(name) == Some(value))
            };
            let (first, others): (Vec<_>, Vec<_>) = positions.iter().copied().partition(preferred);
            let both = !first.is_empty() && !others.is_empty();
            both.then(|| {
                [first, others]
                    .map(|positions| Group::new(positions, members, config))
                    .into()
            })
        });
        Self {
            all: Group::new(positions, members, config),
            parts,
        }
    }
}

impl Group {
    fn new(positions: Vec<usize>, members: &[Member], config: &config::Cluster) -> Self {
        let weights = positions.iter().map(|position| members[*position].weight);
        let ring = config.affinity.as_ref().map(|affinity| {
            let places = positions.iter().map(|position| {
                let member = &members[*position];
                let identity = hash::of(member.endpoint.blueprint.address.as_bytes());
                (*position, identity, member.weight)
            });
            RingHash::new(affinity.bound, Rendezvous::new(places))
        });
        Self {
            draw: Draw::new(weights),
            ring,
            positions,
        }
    }

    /// Some members of many, drawn by weight, perhaps one of them twice.
    pub fn drawn(&self, random: u64) -> impl Iterator<Item = usize> + Clone {
        let places = self.draw.positions(random);
        places.map(|place| self.positions[place])
    }
}
