//! Which member gets an attempt: those that the request may go to, of them the preferred ones, of them whoever may take
//! traffic now, of them the policy's choice.
//!
//! When nobody takes it that way, in this order: one that was tried before, one that was ejected, any if none is ready
//! for the model, and last a probe of an open breaker before its time. With a panic threshold, those that fail their
//! checks count as well once too few of all that the request may go to take traffic.

use std::sync::Arc;
use std::time::Instant;

use smallvec::SmallVec;

use super::{Cluster, Member, NoLease};
use crate::fleet::ask::Ask;
use crate::fleet::lease::Lease;
use crate::fleet::pool::{Group, Pool};
use crate::traffic::balance::{self, Candidate, RingHash};
use crate::traffic::slow_start::{self, Level};
use crate::traffic::spill;
use crate::traffic::subset::Wish;

type Candidates = SmallVec<[Candidate; 16]>;

/// Which members may take a request.
#[derive(Clone, Copy)]
struct Scope<'a> {
    /// These are asked before the others.
    first: Option<&'a Pool>,
    /// No others at all; None: nobody may.
    within: Option<&'a Pool>,
}

/// What is looked for among members.
#[derive(Clone, Copy)]
struct Search<'a> {
    ask: &'a Ask<'a>,
    /// Those that fail their checks are used too.
    panic: bool,
}

impl Cluster {
    /// Leases the endpoint that the policy prefers, avoiding those already tried while another one can
    /// take the request. Who comes while others wait has to wait behind them.
    pub fn lease(&self, ask: &Ask<'_>) -> Result<Lease, NoLease<'_>> {
        match &self.room {
            None => self.lease_now(ask).ok_or(NoLease::NoEndpoint),
            Some(room) if room.is_waited_in() => Err(NoLease::Busy(room)),
            Some(room) => self.lease_now(ask).ok_or_else(|| match self.is_open(ask) {
                true => NoLease::Busy(room),
                false => NoLease::NoEndpoint,
            }),
        }
    }

    /// The same, but never one of those tried, and never while others wait.
    pub fn lease_other(&self, ask: &Ask<'_>) -> Option<Lease> {
        let waited = self.room.as_ref().is_some_and(|room| room.is_waited_in());
        if waited {
            return None;
        }
        let ask = &self.ask_here(ask);
        self.other_now(self.scope(ask), ask)
    }

    /// Without regard to those who wait: for the one whose turn it is.
    pub(in crate::fleet) fn lease_now(&self, ask: &Ask<'_>) -> Option<Lease> {
        let ask = &self.ask_here(ask);
        let scope = self.scope(ask);
        let within = scope.within?;
        let again = || {
            let tried = ask.tried.iter();
            let tried = tried.filter(|index| within.all.positions.binary_search(index).is_ok());
            let calm = Search { ask, panic: false };
            let tried = tried.filter_map(|index| self.candidate(*index, calm));
            self.choose(&mut tried.collect(), None, calm)
        };
        self.other_now(scope, ask)
            .or_else(again)
            .or_else(|| self.lease_ejected(within, ask))
            .or_else(|| self.lease_unready(scope, ask))
            .or_else(|| self.lease_lone(within, ask))
    }

    /// Whether some endpoint that the request may go to may take traffic, room there or not.
    pub(in crate::fleet) fn is_open(&self, ask: &Ask<'_>) -> bool {
        // With a threshold, who fails its checks is used when all do.
        let panic = self.config.panic_below > 0.0;
        self.scope(ask).within.is_some_and(|within| {
            let mut members = self.members_of(within);
            members.any(|(_, member)| self.look_at(0, member, Search { ask, panic }).is_some())
        })
    }

    fn scope(&self, ask: &Ask<'_>) -> Scope<'_> {
        let (first, within) = match ask.bearings.wish {
            Wish::Nothing => (None, Some(&self.whole)),
            Wish::Only(list) => (None, self.subsets.get(&list)),
            Wish::First(list) => (self.subsets.get(&list), Some(&self.whole)),
        };
        Scope { first, within }
    }

    fn members_of<'a>(&'a self, pool: &'a Pool) -> impl Iterator<Item = (usize, &'a Member)> {
        let positions = pool.all.positions.iter();
        positions.map(|position| (*position, &self.members[*position]))
    }

    /// Where nobody is ready for the model, its absence is for an endpoint to tell.
    fn lease_unready(&self, scope: Scope<'_>, ask: &Ask<'_>) -> Option<Lease> {
        let ready = |(_, member): (usize, &Member)| {
            member.endpoint.is_ready_for(ask.model) && self.takes_traffic(member, ask)
        };
        if ask.model == 0 || self.members_of(scope.within?).any(ready) {
            return None;
        }
        self.other_now(scope, &Ask { model: 0, ..*ask })
    }

    /// A probe before its time, when no endpoint takes the request: each endpoint in turn, as `random` begins.
    fn lease_lone(&self, within: &Pool, ask: &Ask<'_>) -> Option<Lease> {
        let positions = &within.all.positions;
        let count = positions.len();
        let first = usize::try_from(ask.random).unwrap_or_default() % count.max(1);
        (first..count).chain(0..first).find_map(|place| {
            let index = positions[place];
            Lease::take_lone(&self.members[index].endpoint, index, ask, self.most())
        })
    }

    /// One that was left out for doing worse than the others, which is better than none.
    fn lease_ejected(&self, within: &Pool, ask: &Ask<'_>) -> Option<Lease> {
        let calm = Search { ask, panic: false };
        let ready = self.members_of(within);
        let ready = ready.filter(|(_, member)| member.endpoint.is_ready_for(ask.model));
        let (ejected, others): (Vec<_>, Vec<_>) =
            ready.partition(|(_, member)| member.endpoint.is_ejected(ask.now));
        // Others that merely have no room are waited for.
        if ejected.is_empty()
            || others
                .iter()
                .any(|(_, member)| self.takes_traffic(member, ask))
        {
            return None;
        }
        let roomy = ejected
            .into_iter()
            .filter(|(_, member)| member.endpoint.active() < self.most());
        let candidates = roomy.filter_map(|(index, member)| self.look_at(index, member, calm));
        self.choose(&mut candidates.collect(), None, calm)
    }

    /// None of those tried.
    fn other_now(&self, scope: Scope<'_>, ask: &Ask<'_>) -> Option<Lease> {
        let search = Search {
            ask,
            panic: self.panics(scope, ask),
        };
        let first = scope.first.and_then(|pool| self.lease_of(pool, search));
        first.or_else(|| self.lease_of(scope.within?, search))
    }

    /// Too few of those that may take the request take traffic, whether or not they can take this request now.
    fn panics(&self, scope: Scope<'_>, ask: &Ask<'_>) -> bool {
        let (true, Some(within)) = (self.config.panic_below > 0.0, scope.within) else {
            return false;
        };
        let well = |index: usize| self.takes_traffic(&self.members[index], ask);
        self.share_of(&within.all, ask, well) < self.config.panic_below
    }

    /// By weight; of a large group an estimate, by those that are drawn.
    fn share_of(&self, group: &Group, ask: &Ask<'_>, counts: impl Fn(usize) -> bool) -> f64 {
        let (mut all, mut part) = (0_u64, 0_u64);
        let mut add = |index: usize, weight: u32| {
            let weight = u64::from(weight);
            all += weight;
            part += if counts(index) { weight } else { 0 };
        };
        if group.positions.len() > balance::FULL_SCAN {
            // By weight already.
            group.drawn(ask.random).for_each(|index| add(index, 1));
        } else {
            let positions = group.positions.iter();
            positions.for_each(|index| add(*index, self.members[*index].weight));
        }
        part as f64 / all.max(1) as f64
    }

    /// Preferred members before the others, as far as there are enough of them.
    fn lease_of(&self, pool: &Pool, search: Search<'_>) -> Option<Lease> {
        let (Some((first, others)), Some(prefer)) = (&pool.parts, &self.config.prefer) else {
            return self.lease_in(&pool.all, search);
        };
        let ask = search.ask;
        let can =
            |index: usize| !ask.tried.contains(&index) && self.candidate(index, search).is_some();
        let able = self.share_of(first, ask, can);
        let ticket = ask.bearings.key.unwrap_or(ask.random);
        let order = match spill::stays(able, prefer.spill_below, ticket) {
            true => [first, others],
            false => [others, first],
        };
        order
            .into_iter()
            .find_map(|group| self.lease_in(group, search))
    }

    /// Of a large group some members are drawn; all are looked at only when none of those can take the request.
    fn lease_in(&self, group: &Group, search: Search<'_>) -> Option<Lease> {
        let ring = group.ring.as_ref();
        let tried = search.ask.tried;
        if group.positions.len() > balance::FULL_SCAN {
            let mut drawn = Candidates::new();
            for index in group.drawn(search.ask.random) {
                let known = drawn.iter().any(|candidate| candidate.index == index);
                if !known && !tried.contains(&index) {
                    drawn.extend(self.candidate(index, search));
                }
            }
            if let Some(lease) = self.choose(&mut drawn, ring, search) {
                return Some(lease);
            }
        }
        let others = group.positions.iter().copied();
        let others = others.filter(|index| !tried.contains(index));
        let candidates = others.filter_map(|index| self.candidate(index, search));
        self.choose(&mut candidates.collect(), ring, search)
    }

    /// The member as a choice; None when it may not take the request now.
    fn candidate(&self, index: usize, search: Search<'_>) -> Option<Candidate> {
        let member = &self.members[index];
        let endpoint = &member.endpoint;
        if endpoint.is_ejected(search.ask.now)
            || endpoint.active() >= self.most()
            || !endpoint.is_ready_for(search.ask.model)
        {
            return None;
        }
        self.look_at(index, member, search)
    }

    /// The same, be it ejected, full or not ready.
    fn look_at(&self, index: usize, member: &Member, search: Search<'_>) -> Option<Candidate> {
        let (endpoint, policy) = (&member.endpoint, self.placing());
        endpoint.candidate(index, member.weight, policy, search.panic, search.ask)
    }

    fn takes_traffic(&self, member: &Member, ask: &Ask<'_>) -> bool {
        self.look_at(0, member, Search { ask, panic: false })
            .is_some()
    }

    /// What each endpoint may have in flight.
    fn most(&self) -> u32 {
        let limit = self.config.limit.as_ref();
        limit.map_or(u32::MAX, |limit| limit.max_requests)
    }

    fn choose(
        &self,
        candidates: &mut Candidates,
        ring: Option<&RingHash>,
        search: Search<'_>,
    ) -> Option<Lease> {
        let ask = search.ask;
        let level = self.spare_newcomers(candidates, ask.now);
        if let (Some(ring), Some(key)) = (ring, ask.bearings.key)
            && let Some(lease) = self.choose_by_key((ring, key), candidates, level, search)
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
        let endpoint: &Arc<_> = &self.members.get(index)?.endpoint;
        let lease = Lease::take(endpoint, index, ask, self.most())?;
        let lone = lease.is_probe() && !self.is_in_service(ask);
        Some(if lone { lease.lone() } else { lease })
    }

    /// Some member that the request may go to takes any request.
    fn is_in_service(&self, ask: &Ask<'_>) -> bool {
        self.scope(ask).within.is_some_and(|within| {
            let mut members = self.members_of(within);
            members.any(|(_, member)| member.endpoint.is_in_service(ask.now))
        })
    }

    /// `known` may be some of many: the key's own places are looked at too, if they were not tried.
    fn choose_by_key(
        &self,
        (ring, key): (&RingHash, u64),
        known: &mut Candidates,
        level: Option<Level>,
        search: Search<'_>,
    ) -> Option<Lease> {
        let ask = search.ask;
        let mut lost = SmallVec::<[usize; 4]>::new();
        loop {
            let look = |index| {
                let out = ask.tried.contains(&index) || lost.contains(&index);
                let candidate = (!out).then(|| self.candidate(index, search)).flatten()?;
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
}
