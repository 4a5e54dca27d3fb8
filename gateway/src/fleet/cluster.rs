//! A cluster: endpoints that serve the same thing, and the policy that picks one for each attempt.

use std::sync::Arc;
use std::time::Instant;

use forebay_config::gateway as config;
use smallvec::SmallVec;

use super::endpoint::{Endpoint, EndpointView};
use super::lease::Lease;
use crate::traffic::balance::{self, Candidate, Policy};

pub struct Cluster {
    pub config: config::Cluster,
    policy: Box<dyn Policy>,
    members: Vec<Member>,
}

struct Member {
    endpoint: Arc<Endpoint>,
    weight: u32,
}

/// Every endpoint is unhealthy, not yet probed, or held back by its breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoEndpoint;

impl Cluster {
    pub fn new(config: config::Cluster, endpoints: Vec<Arc<Endpoint>>) -> Self {
        let members = endpoints
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
            members,
        }
    }

    /// Leases the endpoint that the policy prefers, avoiding those already `tried` while another one can
    /// take the request.
    pub fn lease(&self, tried: &[usize], random: u64, now: Instant) -> Result<Lease, NoEndpoint> {
        let mut fresh: SmallVec<[Candidate; 16]> = SmallVec::new();
        let mut again: SmallVec<[Candidate; 4]> = SmallVec::new();
        for (index, member) in self.members.iter().enumerate() {
            if let Some(candidate) =
                member
                    .endpoint
                    .candidate(index, member.weight, self.config.policy, now)
            {
                if tried.contains(&index) {
                    again.push(candidate);
                } else {
                    fresh.push(candidate);
                }
            }
        }
        self.choose(&mut fresh, random, now)
            .or_else(|| self.choose(&mut again, random, now))
            .ok_or(NoEndpoint)
    }

    fn choose<const N: usize>(
        &self,
        candidates: &mut SmallVec<[Candidate; N]>,
        random: u64,
        now: Instant,
    ) -> Option<Lease> {
        while !candidates.is_empty() {
            let position = self.policy.choose(candidates, random)?;
            let index = candidates.get(position)?.index;
            if let Some(lease) = Lease::take(&self.members[index].endpoint, index, now) {
                return Some(lease);
            }
            // Another thread took the breaker's only probe between the look and the lease.
            candidates.swap_remove(position);
        }
        None
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
