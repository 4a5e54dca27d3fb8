//! A cluster: endpoints that serve the same thing, and the policy that picks one for each attempt.

use std::sync::Arc;
use std::time::Instant;

use forebay_config::gateway as config;
use smallvec::SmallVec;

use super::ask::Ask;
use super::endpoint::{Endpoint, EndpointView};
use super::lease::Lease;
use crate::traffic::balance::{self, Candidate, Draw, Policy};

pub struct Cluster {
    pub config: config::Cluster,
    policy: Box<dyn Policy>,
    members: Vec<Member>,
    draw: Draw,
}

type Candidates = SmallVec<[Candidate; 16]>;

struct Member {
    endpoint: Arc<Endpoint>,
    weight: u32,
}

/// Every endpoint is unhealthy, not yet probed, or held back by its breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoEndpoint;

impl Cluster {
    pub fn new(config: config::Cluster, endpoints: Vec<Arc<Endpoint>>) -> Self {
        let members: Vec<Member> = endpoints
            .into_iter()
            .zip(&config.endpoints)
            .map(|(endpoint, entry)| Member {
                endpoint,
                weight: entry.weight,
            })
            .collect();
        Self {
            policy: balance::build(config.policy),
            config,
            draw: Draw::new(members.iter().map(|member| member.weight)),
            members,
        }
    }

    /// Leases the endpoint that the policy prefers, avoiding those already tried while another one can
    /// take the request.
    pub fn lease(&self, ask: &Ask<'_>) -> Result<Lease, NoEndpoint> {
        let again = || {
            let tried = ask.tried.iter();
            let tried = tried.filter_map(|index| self.candidate(*index, ask.now));
            self.choose(&mut tried.collect(), ask)
        };
        self.lease_other(ask)
            .or_else(again)
            .or_else(|| self.lease_lone(ask))
            .ok_or(NoEndpoint)
    }

    /// A probe before its time, when no endpoint takes the request: each endpoint in turn, as `random` begins.
    fn lease_lone(&self, ask: &Ask<'_>) -> Option<Lease> {
        let count = self.members.len();
        let first = usize::try_from(ask.random).unwrap_or_default() % count.max(1);
        (first..count)
            .chain(0..first)
            .find_map(|index| Lease::take_lone(&self.members.get(index)?.endpoint, index, ask.now))
    }

    /// The same, but never one of those tried. Of a large fleet some members are drawn; all are looked at only
    /// when none of those can take the request.
    pub fn lease_other(&self, ask: &Ask<'_>) -> Option<Lease> {
        if self.members.len() > balance::FULL_SCAN {
            let mut drawn = Candidates::new();
            for index in self.draw.positions(ask.random) {
                let known = drawn.iter().any(|candidate| candidate.index == index);
                if !known && !ask.tried.contains(&index) {
                    drawn.extend(self.candidate(index, ask.now));
                }
            }
            if let Some(lease) = self.choose(&mut drawn, ask) {
                return Some(lease);
            }
        }
        let others = (0..self.members.len()).filter(|index| !ask.tried.contains(index));
        let candidates = others.filter_map(|index| self.candidate(index, ask.now));
        self.choose(&mut candidates.collect(), ask)
    }

    /// The member as a choice; None when it may not take traffic now.
    fn candidate(&self, index: usize, now: Instant) -> Option<Candidate> {
        let member = self.members.get(index)?;
        let policy = self.config.policy;
        member.endpoint.candidate(index, member.weight, policy, now)
    }

    fn choose(&self, candidates: &mut Candidates, ask: &Ask<'_>) -> Option<Lease> {
        while !candidates.is_empty() {
            let position = self.policy.choose(candidates, ask.random)?;
            let index = candidates.get(position)?.index;
            if let Some(lease) = Lease::take(&self.members[index].endpoint, index, ask.now) {
                let lone = lease.is_probe() && !self.is_in_service(ask.now);
                return Some(if lone { lease.lone() } else { lease });
            }
            // Another thread took the breaker's only probe between the look and the lease.
            candidates.swap_remove(position);
        }
        None
    }

    /// Some member takes any request.
    fn is_in_service(&self, now: Instant) -> bool {
        self.members
            .iter()
            .any(|member| member.endpoint.is_in_service(now))
    }

    /// The number of members.
    pub fn size(&self) -> usize {
        self.members.len()
    }

    /// Requests in flight over all endpoints.
    pub fn active(&self) -> usize {
        self.members
            .iter()
            .map(|member| member.endpoint.active() as usize)
            .sum()
    }

    pub fn has_healthy(&self) -> bool {
        self.members
            .iter()
            .any(|member| member.endpoint.is_healthy())
    }

    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.members.iter().map(|member| &member.endpoint)
    }

    pub fn views(&self, now: Instant) -> Vec<EndpointView> {
        self.endpoints()
            .map(|endpoint| endpoint.view(now))
            .collect()
    }
}
