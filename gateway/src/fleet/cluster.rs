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
            let tried = tried.filter_map(|index| self.candidate(*index, ask));
            self.choose(&mut tried.collect(), ask)
        };
        self.lease_other(ask).or_else(again).ok_or(NoEndpoint)
    }

    /// The same, but never one of those tried. Of a large fleet some members are drawn; all are looked at only
    /// when none of those can take the request.
    pub fn lease_other(&self, ask: &Ask<'_>) -> Option<Lease> {
        if self.members.len() > balance::FULL_SCAN {
            let mut drawn = Candidates::new();
            for index in self.draw.positions(ask.random) {
                let known = drawn.iter().any(|candidate| candidate.index == index);
                if !known && !ask.tried.contains(&index) {
                    drawn.extend(self.candidate(index, ask));
                }
            }
            if let Some(lease) = self.choose(&mut drawn, ask) {
                return Some(lease);
            }
        }
        let others = (0..self.members.len()).filter(|index| !ask.tried.contains(index));
        let candidates = others.filter_map(|index| self.candidate(index, ask));
        self.choose(&mut candidates.collect(), ask)
    }

    /// The member as a choice; None when it may not take traffic now.
    fn candidate(&self, index: usize, ask: &Ask<'_>) -> Option<Candidate> {
        let member = self.members.get(index)?;
        let policy = self.config.policy;
        member.endpoint.candidate(index, member.weight, policy, ask)
    }

    fn choose(&self, candidates: &mut Candidates, ask: &Ask<'_>) -> Option<Lease> {
        while !candidates.is_empty() {
            let position = self.policy.choose(candidates, ask.random)?;
            let index = candidates.get(position)?.index;
            if let Some(lease) = Lease::take(&self.members[index].endpoint, index, ask) {
                return Some(lease);
            }
            // Another thread took the breaker's only probe between the look and the lease.
            candidates.swap_remove(position);
        }
        None
    }

    /// Whether it matters how many rows a request has.
    pub fn goes_by_rows(&self) -> bool {
        self.config.policy == config::Policy::LeastWork
    }

    /// Whether load reports are of use.
    pub fn heeds_reports(&self) -> bool {
        self.goes_by_rows() && self.config.load_reports == config::LoadReports::Answers
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
