//! A cluster: endpoints that serve the same thing, and the policy that picks one for each attempt.

use std::sync::Arc;
use std::time::Instant;

use forebay_config::gateway as config;
use smallvec::SmallVec;

use super::ask::{Ask, Bearings};
use super::endpoint::{Endpoint, EndpointView};
use super::lease::Lease;
use super::waiting::WaitingRoom;
use crate::traffic::affinity::{Affinity, Seen};
use crate::traffic::balance::{self, Candidate, Draw, Policy, Rendezvous, RingHash};
use crate::traffic::slow_start::{self, Level};
use crate::traffic::{hash, outlier};

pub struct Cluster {
    pub config: config::Cluster,
    /// What requests belong to; None: it makes no difference.
    pub affinity: Option<Affinity>,
    policy: Box<dyn Policy>,
    /// For requests with a key.
    ring: Option<RingHash>,
    members: Vec<Member>,
    draw: Draw,
    /// With a limit: where requests wait for an endpoint that has room.
    room: Option<Arc<WaitingRoom>>,
}

type Candidates = SmallVec<[Candidate; 16]>;

struct Member {
    endpoint: Arc<Endpoint>,
    weight: u32,
}

/// Why there is no lease now.
pub enum NoLease<'a> {
    /// Every endpoint is unhealthy, not yet probed, or held back by its breaker.
    NoEndpoint,
    /// Endpoints could take requests, but have as many as they may have, or others wait already.
    Busy(&'a Arc<WaitingRoom>),
}

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
        let ring = |affinity: &config::Affinity| {
            let identity = |member: &Member| hash::of(member.endpoint.blueprint.address.as_bytes());
            let places = members.iter().enumerate();
            let places = places.map(|(index, member)| (index, identity(member), member.weight));
            RingHash::new(affinity.bound, Rendezvous::new(places))
        };
        Self {
            policy: balance::build(config.policy),
            affinity: config.affinity.as_ref().map(Affinity::new),
            ring: config.affinity.as_ref().map(ring),
            config,
            draw: Draw::new(members.iter().map(|member| member.weight)),
            members,
            room: None,
        }
    }

    /// Takes the place of the cluster of that name before: whoever waits there is served here.
    pub fn succeed(mut self, former: Option<&Self>) -> Arc<Self> {
        let limit = self.config.limit.as_ref();
        let room = former
            .and_then(|former| former.room.clone())
            .or_else(|| limit.map(|_| Arc::default()));
        self.room = room.clone().filter(|_| limit.is_some());
        let cluster = Arc::new(self);
        if let Some(room) = room {
            for endpoint in cluster.endpoints() {
                endpoint.tell(cluster.room.clone());
            }
            room.serve_from(&cluster, Instant::now());
        }
        cluster
    }

    /// Leases the endpoint that the policy prefers, avoiding those already tried while another one can
    /// take the request. Who comes while others wait has to wait behind them.
    pub fn lease(&self, ask: &Ask<'_>) -> Result<Lease, NoLease<'_>> {
        match &self.room {
            None => self.lease_now(ask).ok_or(NoLease::NoEndpoint),
            Some(room) if room.is_waited_in() => Err(NoLease::Busy(room)),
            Some(room) => self
                .lease_now(ask)
                .ok_or_else(|| match self.is_open(ask.now) {
                    true => NoLease::Busy(room),
                    false => NoLease::NoEndpoint,
                }),
        }
    }

    /// The same, but never one of those tried, and never while others wait.
    pub fn lease_other(&self, ask: &Ask<'_>) -> Option<Lease> {
        let waited = self.room.as_ref().is_some_and(|room| room.is_waited_in());
        if waited { None } else { self.other_now(ask) }
    }

    /// Without regard to those who wait: for the one whose turn it is.
    pub(super) fn lease_now(&self, ask: &Ask<'_>) -> Option<Lease> {
        let again = || {
            let tried = ask.tried.iter();
            let tried = tried.filter_map(|index| self.candidate(*index, ask));
            self.choose(&mut tried.collect(), ask)
        };
        self.other_now(ask)
            .or_else(again)
            .or_else(|| self.lease_ejected(ask))
            .or_else(|| self.lease_unready(ask))
            .or_else(|| self.lease_lone(ask))
    }

    /// Where nobody is ready for the model, its absence is for an endpoint to tell.
    fn lease_unready(&self, ask: &Ask<'_>) -> Option<Lease> {
        let model = ask.bearings.model;
        let ready = |member: &Member| {
            member.endpoint.is_ready_for(model) && self.look(0, member, ask).is_some()
        };
        if model == 0 || self.members.iter().any(ready) {
            return None;
        }
        self.other_now(&ask.with(Bearings {
            model: 0,
            ..ask.bearings
        }))
    }

    /// A probe before its time, when no endpoint takes the request: each endpoint in turn, as `random` begins.
    fn lease_lone(&self, ask: &Ask<'_>) -> Option<Lease> {
        let count = self.members.len();
        let first = usize::try_from(ask.random).unwrap_or_default() % count.max(1);
        (first..count).chain(0..first).find_map(|index| {
            let endpoint = &self.members.get(index)?.endpoint;
            Lease::take_lone(endpoint, index, ask, self.most())
        })
    }

    /// One that was left out for doing worse than the others, which is better than none.
    fn lease_ejected(&self, ask: &Ask<'_>) -> Option<Lease> {
        let candidate = |(index, member): (usize, &Member)| self.look(index, member, ask);
        let members = || self.members.iter().enumerate();
        let (ejected, others): (Vec<_>, Vec<_>) =
            members().partition(|(_, member)| member.endpoint.is_ejected(ask.now));
        // Others that merely have no room are waited for.
        if ejected.is_empty() || others.into_iter().any(|other| candidate(other).is_some()) {
            return None;
        }
        let model = ask.bearings.model;
        let roomy = |(_, member): &(usize, &Member)| {
            member.endpoint.active() < self.most() && member.endpoint.is_ready_for(model)
        };
        let candidates = ejected.into_iter().filter(roomy).filter_map(candidate);
        self.choose(&mut candidates.collect(), ask)
    }

    /// Whether some endpoint may take traffic, room there or not.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        let ask = Ask::new(&[], now);
        self.members
            .iter()
            .any(|member| self.look(0, member, &ask).is_some())
    }

    /// None of those tried. Of a large fleet some members are drawn; all are looked at only when none of those can
    /// take the request.
    fn other_now(&self, ask: &Ask<'_>) -> Option<Lease> {
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
        let endpoint = &member.endpoint;
        if endpoint.is_ejected(ask.now)
            || endpoint.active() >= self.most()
            || !endpoint.is_ready_for(ask.bearings.model)
        {
            return None;
        }
        self.look(index, member, ask)
    }

    /// The same, be it ejected or full.
    fn look(&self, index: usize, member: &Member, ask: &Ask<'_>) -> Option<Candidate> {
        let policy = self.placing();
        member.endpoint.candidate(index, member.weight, policy, ask)
    }

    /// What requests are placed by that have no key.
    fn placing(&self) -> config::Policy {
        match self.config.policy {
            config::Policy::RingHash => config::Policy::LeastWork,
            policy => policy,
        }
    }

    /// Whether it matters how many rows a request has.
    pub fn goes_by_rows(&self) -> bool {
        self.placing() == config::Policy::LeastWork
    }

    /// Whether load reports are of use.
    pub fn heeds_reports(&self) -> bool {
        self.goes_by_rows() && self.config.load_reports == config::LoadReports::Answers
    }

    /// Leaves out for a while who fails much more often than the others. Where requests go by a key, one caller's
    /// values all meet the same endpoint and would get it ejected, so there it is not done.
    pub fn eject_outliers(&self, now: Instant) {
        let Some(config) = self.config.outlier.as_ref().filter(|_| self.ring.is_none()) else {
            return;
        };
        let readings = self
            .members
            .iter()
            .map(|member| member.endpoint.conduct(now));
        let readings: Vec<_> = readings.map(Option::unwrap_or_default).collect();
        for position in outlier::judge(config, &readings) {
            self.members[position].endpoint.eject(now);
        }
    }

    /// What each endpoint may have in flight.
    fn most(&self) -> u32 {
        let limit = self.config.limit.as_ref();
        limit.map_or(u32::MAX, |limit| limit.max_requests)
    }

    fn choose(&self, candidates: &mut Candidates, ask: &Ask<'_>) -> Option<Lease> {
        let level = self.spare_newcomers(candidates, ask.now);
        if let (Some(ring), Some(key)) = (&self.ring, ask.bearings.key)
            && let Some(lease) = self.choose_by_key(ring, key, candidates, level, ask)
        {
            return Some(lease);
        }
        while !candidates.is_empty() {
            let position = self.policy.choose(candidates, ask.random)?;
            let index = candidates.get(position)?.index;
            if let Some(lease) = self.take(index, ask) {
                return Some(lease);
            }
            // Another thread took the breaker's only probe, or the last room, between the look and the lease.
            candidates.swap_remove(position);
        }
        None
    }

    fn take(&self, index: usize, ask: &Ask<'_>) -> Option<Lease> {
        let endpoint = &self.members.get(index)?.endpoint;
        let lease = Lease::take(endpoint, index, ask, self.most())?;
        let lone = lease.is_probe() && !self.is_in_service(ask.now);
        Some(if lone { lease.lone() } else { lease })
    }

    /// With a limit: where requests wait.
    pub fn room(&self) -> Option<&Arc<WaitingRoom>> {
        self.room.as_ref()
    }

    /// Some member takes any request.
    fn is_in_service(&self, now: Instant) -> bool {
        self.members
            .iter()
            .any(|member| member.endpoint.is_in_service(now))
    }

    /// `known` may be some of many: the key's own places are looked at too, if they were not tried.
    fn choose_by_key(
        &self,
        ring: &RingHash,
        key: u64,
        known: &mut Candidates,
        level: Option<Level>,
        ask: &Ask<'_>,
    ) -> Option<Lease> {
        let mut lost = SmallVec::<[usize; 4]>::new();
        loop {
            let look = |index| {
                let out = ask.tried.contains(&index) || lost.contains(&index);
                let candidate = (!out).then(|| self.candidate(index, ask)).flatten()?;
                let share = || self.share(index, ask.now);
                let fits = level.is_none_or(|level| level.admits(&candidate, share()));
                fits.then_some(candidate)
            };
            let index = ring.choose(key, ask.random, known, look)?;
            if let Some(lease) = self.take(index, ask) {
                return Some(lease);
            }
            lost.push(index);
            known.retain(|candidate| candidate.index != index);
        }
    }

    /// Leaves out those that have just begun and have as much as they may have by now.
    fn spare_newcomers(&self, candidates: &mut Candidates, now: Instant) -> Option<Level> {
        self.config.slow_start?;
        let share = |index| self.share(index, now);
        let level = Level::of(candidates, share)?;
        candidates.retain(|candidate| level.admits(candidate, share(candidate.index)));
        Some(level)
    }

    /// What a member may have of its fair share.
    fn share(&self, index: usize, now: Instant) -> f64 {
        let slow_start = self.config.slow_start.as_ref();
        slow_start.map_or(1.0, |config| {
            slow_start::share(config, self.members[index].endpoint.well_for(now))
        })
    }

    /// Whether it goes by anything in the messages of gRPC calls.
    pub fn reads_messages(&self) -> bool {
        let affinity = self.affinity.as_ref();
        affinity.is_some_and(Affinity::reads_messages) || !self.models().is_empty()
    }

    pub fn bearings(&self, seen: &Seen<'_>) -> Bearings {
        let affinity = self.affinity.as_ref();
        Bearings {
            key: affinity.and_then(|affinity| affinity.key(seen)),
            model: self.model_bit(seen),
            ..Bearings::default()
        }
    }

    fn model_bit(&self, seen: &Seen<'_>) -> u64 {
        if self.models().is_empty() {
            return 0;
        }
        let place = seen.model().and_then(|model| {
            let mut models = self.models().iter();
            models.position(|known| known == model)
        });
        place.map_or(0, |place| 1 << place)
    }

    /// Those that probes ask about.
    fn models(&self) -> &[String] {
        let health = self.config.health.as_ref();
        health.map_or(&[], |health| &health.models)
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

#[cfg(test)]
mod tests;
