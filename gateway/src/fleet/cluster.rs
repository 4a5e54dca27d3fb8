//! A cluster: endpoints that serve the same thing, and the policy that picks one for each attempt (`choice`).

mod choice;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use forebay_config::gateway as config;

use super::ask::{Ask, Bearings};
use super::endpoint::{Endpoint, EndpointView};
use super::pool::Pool;
use super::waiting::WaitingRoom;
use crate::traffic::affinity::{Affinity, Seen};
use crate::traffic::balance::{self, Policy};
use crate::traffic::hash;
use crate::traffic::outlier;
use crate::traffic::subset::{Selector, Wish};

pub struct Cluster {
    pub config: config::Cluster,
    /// What requests belong to; None: it makes no difference.
    pub affinity: Option<Affinity>,
    policy: Box<dyn Policy>,
    members: Vec<Member>,
    /// Those that probes ask about, by a hash of the name.
    models: Vec<u64>,
    /// All members.
    whole: Pool,
    /// Members that requests may ask for, by what they ask with (`traffic::subset`).
    subsets: HashMap<u64, Pool>,
    /// What routes ask for.
    selectors: Vec<Arc<Selector>>,
    /// What routes asked for before a reload, and longer ago while somebody waits.
    former_selectors: Vec<Arc<Selector>>,
    /// With a limit: where requests wait for an endpoint that has room.
    room: Option<Arc<WaitingRoom>>,
    /// The room that is served from here: its own, or that of the cluster before it.
    served: Option<Arc<WaitingRoom>>,
}

pub(super) struct Member {
    pub endpoint: Arc<Endpoint>,
    pub weight: u32,
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
        let models = config.health.iter().flat_map(|health| &health.models);
        Self {
            models: models.map(|model| hash::of(model.as_bytes())).collect(),
            policy: balance::build(config.policy),
            affinity: config.affinity.as_ref().map(Affinity::new),
            whole: Pool::new((0..members.len()).collect(), &members, &config),
            subsets: HashMap::new(),
            selectors: Vec::new(),
            former_selectors: Vec::new(),
            config,
            members,
            room: None,
            served: None,
        }
    }

    /// What the requests of routes may ask for.
    pub fn selected_by(mut self, selectors: Vec<Selector>) -> Self {
        for selector in &selectors {
            self.prepare(selector);
        }
        self.selectors = selectors.into_iter().map(Arc::new).collect();
        self
    }

    fn prepare(&mut self, selector: &Selector) {
        let labels = self.config.endpoints.iter();
        let lists = selector.lists(labels.map(|endpoint| &endpoint.labels));
        for (list, positions) in lists {
            let pool = || Pool::new(positions, &self.members, &self.config);
            self.subsets.entry(list).or_insert_with(pool);
        }
    }

    /// To take the place of the cluster of that name before, once it is in force (`take_over`).
    pub fn succeed(mut self, former: Option<&Self>) -> Arc<Self> {
        let room = former.and_then(|former| former.room.clone());
        let waited = room.as_ref().is_some_and(|room| room.is_waited_in());
        // Of the one before always, as somebody may begin to wait there until this one is in force.
        let served = former.into_iter().filter(|_| room.is_some());
        let asked = served.flat_map(|former| {
            let older = former.former_selectors.iter().filter(|_| waited);
            former.selectors.iter().chain(older)
        });
        for selector in asked {
            if !self.former_selectors.contains(selector) {
                self.former_selectors.push(selector.clone());
            }
        }
        for selector in self.former_selectors.clone() {
            self.prepare(&selector);
        }
        let limit = self.config.limit.as_ref();
        self.served = room.or_else(|| limit.map(|_| Arc::default()));
        self.room = self.served.clone().filter(|_| limit.is_some());
        Arc::new(self)
    }

    /// From now on who waits is served here, and finds what it asked for even if no route asks for that any more.
    pub fn take_over(self: &Arc<Self>, now: Instant) {
        let Some(room) = &self.served else {
            return;
        };
        if room.is_served_from(self) {
            return;
        }
        for endpoint in self.endpoints() {
            endpoint.tell(self.room.clone());
        }
        room.serve_from(self, now);
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
        self.goes_by_rows() && self.config.load_reports != config::LoadReports::Ignore
    }

    /// Leaves out for a while who fails much more often than the others. Where requests go by a key, one caller's
    /// values all meet the same endpoint and would get it ejected, so there it is not done.
    pub fn eject_outliers(&self, now: Instant) {
        let config = self.config.outlier.as_ref();
        let Some(config) = config.filter(|_| self.affinity.is_none()) else {
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

    /// With a limit: where requests wait.
    pub fn room(&self) -> Option<&Arc<WaitingRoom>> {
        self.room.as_ref()
    }

    /// Whether it goes by anything in the messages of gRPC calls.
    pub fn reads_messages(&self) -> bool {
        let affinity = self.affinity.as_ref();
        affinity.is_some_and(Affinity::reads_messages) || self.lists_models()
    }

    pub fn bearings(&self, seen: &Seen<'_>) -> Bearings {
        let affinity = self.affinity.as_ref();
        Bearings {
            key: affinity.and_then(|affinity| affinity.key(seen)),
            model: self.lists_models().then(|| seen.model_key()).flatten(),
            ..Bearings::default()
        }
    }

    /// The question with this cluster's own number for its model.
    fn ask_here<'a>(&self, ask: &Ask<'a>) -> Ask<'a> {
        let place = ask.bearings.model.and_then(|model| {
            let mut models = self.models.iter();
            models.position(|known| *known == model)
        });
        let model = place.map_or(0, |place| 1 << place);
        Ask { model, ..*ask }
    }

    /// Probes ask about models.
    pub fn lists_models(&self) -> bool {
        !self.models.is_empty()
    }

    /// What is equal for requests that the same endpoints take. What is not there is nobody's own.
    pub(super) fn lane(&self, bearings: Bearings) -> (Option<u64>, Option<u64>) {
        let list = match bearings.wish {
            Wish::Only(list) => Some(list).filter(|list| self.subsets.contains_key(list)),
            Wish::Nothing | Wish::First(_) => None,
        };
        let model = bearings.model.filter(|model| self.models.contains(model));
        (list, model)
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
