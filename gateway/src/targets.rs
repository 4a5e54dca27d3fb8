//! The clusters of a route that has more than one, in their running form: the sides of a split, and the fallback.

use std::net::IpAddr;
use std::sync::Arc;

use forebay_config::gateway as config;
use http::HeaderMap;
use pingora::protocols::http::ServerSession;

use crate::fleet::Cluster;
use crate::telemetry::targets::{FallbackCounts, TargetMetrics};
use crate::traffic::split::{Order, Split};

pub struct Targets {
    /// The sides in their order, or the route's only cluster; then the fallback, unless it is one of them.
    all: Vec<Target>,
    split: Option<Split>,
    /// Position of the cluster that stands in for the others.
    fallback: Option<usize>,
    /// What the gateway answers when no cluster can.
    pub answer: Option<Arc<config::StaticAnswer>>,
    pub fallbacks: Arc<FallbackCounts>,
}

pub struct Target {
    pub cluster: Arc<Cluster>,
    pub metrics: Arc<TargetMetrics>,
}

impl Targets {
    /// None: the route has but its cluster. `former`: those of the route before a reload, which hand on what they counted.
    pub fn new(
        route: &config::Route,
        clusters: &[Arc<Cluster>],
        former: Option<&Self>,
    ) -> Option<Self> {
        if route.split.is_none() && route.fallback.is_none() {
            return None;
        }
        let fallback = route.fallback.as_ref();
        let spare = fallback.and_then(|fallback| fallback.cluster.as_deref());
        let mut names: Vec<&str> = match &route.split {
            Some(split) => split.sides.iter().map(|side| &*side.cluster).collect(),
            None => vec![&*route.cluster],
        };
        let place = |names: &[&str], wanted: &str| names.iter().position(|name| **name == *wanted);
        let further = spare.filter(|spare| place(&names, spare).is_none());
        names.extend(further);
        let target = |name: &&str| {
            let cluster = clusters
                .iter()
                .find(|cluster| cluster.config.name == **name)?;
            let former = former
                .into_iter()
                .flat_map(Self::all)
                .find(|former| former.cluster.config.name == **name);
            Some(Target {
                cluster: cluster.clone(),
                metrics: former
                    .map(|former| former.metrics.clone())
                    .unwrap_or_default(),
            })
        };
        let all: Vec<Target> = names.iter().filter_map(target).collect();
        assert_eq!(
            all.len(),
            names.len(),
            "a validated route names clusters that exist"
        );
        Some(Self {
            split: route.split.as_ref().map(Split::new),
            fallback: spare.and_then(|spare| place(&names, spare)),
            answer: fallback.and_then(|fallback| fallback.answer.clone().map(Arc::new)),
            fallbacks: former
                .map(|former| former.fallbacks.clone())
                .unwrap_or_default(),
            all,
        })
    }

    pub fn all(&self) -> impl Iterator<Item = &Target> {
        self.all.iter()
    }

    /// At a position that `order` or `fallback` gave.
    pub fn at(&self, position: usize) -> &Target {
        &self.all[position]
    }

    /// Positions of the targets to be asked, the next one when the one before has no healthy endpoint. Never empty.
    pub fn order(&self, headers: &HeaderMap, source: Option<IpAddr>) -> Order {
        match &self.split {
            None => Order::from_elem(0, 1),
            Some(split) => {
                let key = split.key(headers, source);
                split.order(key.unwrap_or_else(|| fastrand::u64(..)))
            }
        }
    }

    /// The address of the client, where a split looks at it.
    pub fn source(&self, session: &ServerSession) -> Option<IpAddr> {
        if !self.looks_at_source() {
            return None;
        }
        Some(session.client_addr()?.as_inet()?.ip())
    }

    /// The client's address decides about the side.
    pub fn looks_at_source(&self) -> bool {
        self.split
            .as_ref()
            .is_some_and(|split| split.looks_at_source())
    }

    /// The target that stands in for the one that failed.
    pub fn fallback(&self, failed: usize) -> Option<usize> {
        self.fallback.filter(|fallback| *fallback != failed)
    }
}
