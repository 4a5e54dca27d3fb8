//! Who belongs to which cluster right now: the endpoints that are written, and those that discoveries find.
//!
//! Every change of the running snapshot goes through here, one after the other, so that a reload and a discovery
//! never overwrite each other. A discovery rebuilds its own cluster and shares all others with the snapshot before.
//! What a source named last stays until it names something else, over reloads too while its table is the same.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use forebay_config::gateway as config;
use futures::future::join_all;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::assembly::{Assembly, AssemblyError};
use crate::fleet::discovery::{Patience, Source};
use crate::gateway::{Gateway, Snapshot};
use crate::reload;
use crate::telemetry::discovery::Look;

/// The endpoints that a source names, or why it names none.
type Answer = Result<Vec<config::Endpoint>, String>;

/// How long the first answers may hold up the start.
const FIRST_LOOK: Duration = Duration::from_secs(3);

pub struct Membership {
    gateway: Arc<Gateway>,
    assembly: Assembly,
    state: Mutex<State>,
}

struct State {
    /// As written; the snapshot's has the found endpoints too.
    config: config::Gateway,
    /// By cluster.
    found: BTreeMap<String, Vec<config::Endpoint>>,
    watchers: BTreeMap<String, Watcher>,
}

struct Watcher {
    discovery: config::Discovery,
    task: JoinHandle<()>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Membership {
    /// `config`: what the gateway's snapshot was made from.
    pub fn new(gateway: Arc<Gateway>, config: config::Gateway, assembly: Assembly) -> Arc<Self> {
        Arc::new(Self {
            gateway,
            assembly,
            state: Mutex::new(State {
                config,
                found: BTreeMap::new(),
                watchers: BTreeMap::new(),
            }),
        })
    }

    pub fn control(&self) -> &Handle {
        &self.assembly.runtime
    }

    /// What the running snapshot was made from, without found endpoints.
    pub fn config(&self) -> config::Gateway {
        self.state.lock().config.clone()
    }

    /// Asks every source, then listens on in the background. Returns when all have answered, or after `FIRST_LOOK`:
    /// what answers later comes later.
    pub fn start(self: &Arc<Self>) {
        let clusters = self.state.lock().config.clusters.clone();
        let firsts = clusters.into_iter().filter_map(|cluster| {
            let discovery = cluster.discovery?;
            Some(self.watch(cluster.name, discovery))
        });
        let firsts: Vec<_> = firsts.collect();
        let all = async { tokio::time::timeout(FIRST_LOOK, join_all(firsts)).await };
        if self.control().block_on(all).is_err() {
            log::warn!("not every discovery has answered, starting without it");
        }
    }

    /// Starts to ask; the receiver hears when the first answer, or failure, is there.
    fn watch(
        self: &Arc<Self>,
        cluster: String,
        discovery: config::Discovery,
    ) -> oneshot::Receiver<()> {
        let (first, looked) = oneshot::channel();
        let listening = listen(
            Arc::downgrade(self),
            cluster.clone(),
            discovery.clone(),
            first,
        );
        let task = self.control().spawn(listening);
        let watcher = Watcher { discovery, task };
        self.state.lock().watchers.insert(cluster, watcher);
        looked
    }

    /// What a source came to; whether it is in force now.
    fn take_in(&self, cluster: &str, kind: &'static str, answer: Answer) -> bool {
        let changed = answer
            .map_err(last_stay)
            .and_then(|endpoints| self.found(cluster, endpoints));
        let discoveries = &self.gateway.discoveries;
        match changed {
            Ok(changed) => {
                discoveries.record(cluster, kind, Look::Answered { changed });
                true
            }
            Err(reason) => {
                if discoveries.record(cluster, kind, Look::Failed) {
                    log::warn!("discovery of cluster '{cluster}' failed, {reason}");
                }
                false
            }
        }
    }

    /// Puts the endpoints in place; false if they were there already. Blocks for a probe at most.
    ///
    /// # Errors
    /// None are in place, or only those whose names resolve.
    fn found(&self, cluster: &str, endpoints: Vec<config::Endpoint>) -> Result<bool, String> {
        let mut state = self.state.lock();
        if state.found.get(cluster) == Some(&endpoints) {
            return Ok(false);
        }
        let written = state
            .config
            .clusters
            .iter()
            .find(|written| written.name == cluster);
        let written = written.ok_or_else(|| format!("there is no cluster '{cluster}' any more"))?;
        let members = merged(written, Some(&endpoints));
        let running = self.gateway.snapshot();
        let plan = self.assembly.plan(&running, &members);
        let plan = plan.map_err(last_stay)?;
        let lost = plan.unresolved();
        let mut endpoints = endpoints;
        let told = if lost.is_empty() {
            Ok(true)
        } else {
            let addresses: HashSet<&str> = lost.iter().map(|lost| &*lost.address).collect();
            endpoints.retain(|found| !addresses.contains(&*found.address));
            let lost = lost
                .iter()
                .map(|lost| format!("'{}' does not resolve: {}", lost.address, lost.reason));
            let lost = lost.collect::<Vec<_>>().join("; ");
            Err(format!("all but these are in force: {lost}"))
        };
        if told.is_err() && state.found.get(cluster) == Some(&endpoints) {
            return told;
        }
        let snapshot = self.assembly.with_cluster(&running, plan);
        match endpoints.len() {
            0 => log::warn!("discovery of cluster '{cluster}' names no endpoints"),
            count => log::info!("discovery of cluster '{cluster}': {count} endpoints"),
        }
        // Endpoints that take requests are not given up for others before one of these does.
        let named = |snapshot: &Snapshot| {
            let mut clusters = snapshot.clusters.iter();
            clusters.find(|known| known.config.name == cluster).cloned()
        };
        if !endpoints.is_empty()
            && named(&running).is_some_and(|former| former.has_healthy())
            && let Some(next) = named(&snapshot)
        {
            reload::await_first_probe(&next);
        }
        state.found.insert(cluster.to_owned(), endpoints);
        self.gateway.replace(snapshot);
        told
    }

    /// Puts a new configuration in place, `prepare` being done with its snapshot before.
    ///
    /// # Errors
    /// Every problem of the assembly; the running configuration stays.
    pub fn reload(
        self: &Arc<Self>,
        config: config::Gateway,
        prepare: impl FnOnce(&Snapshot),
    ) -> Result<(), Vec<AssemblyError>> {
        let mut state = self.state.lock();
        let same = |cluster: &&config::Cluster| {
            let watcher = state.watchers.get(&cluster.name);
            watcher.map(|watcher| &watcher.discovery) == cluster.discovery.as_ref()
        };
        let kept: Vec<String> = config
            .clusters
            .iter()
            .filter(same)
            .map(|cluster| cluster.name.clone())
            .collect();
        let mut effective = config.clone();
        for cluster in &mut effective.clusters {
            let found = state.found.get(&cluster.name);
            *cluster = merged(cluster, found.filter(|_| kept.contains(&cluster.name)));
        }
        let running = self.gateway.snapshot();
        let snapshot = self.assembly.assemble(effective, Some(&running))?;
        prepare(&snapshot);
        self.gateway.replace(snapshot);
        state.found.retain(|cluster, _| kept.contains(cluster));
        state.watchers.retain(|cluster, _| kept.contains(cluster));
        self.gateway
            .discoveries
            .retain(|cluster| kept.iter().any(|kept| kept == cluster));
        let unwatched: Vec<_> = config
            .clusters
            .iter()
            .filter(|cluster| !state.watchers.contains_key(&cluster.name))
            .filter_map(|cluster| Some((cluster.name.clone(), cluster.discovery.clone()?)))
            .collect();
        state.config = config;
        drop(state);
        for (cluster, discovery) in unwatched {
            drop(self.watch(cluster, discovery));
        }
        Ok(())
    }
}

/// Takes in what the source of a cluster says, for as long as there is a membership. `first` is dropped after its first
/// answer.
async fn listen(
    membership: Weak<Membership>,
    cluster: String,
    discovery: config::Discovery,
    first: oneshot::Sender<()>,
) {
    let mut first = Some(first);
    let mut source = Source::new(&discovery);
    let mut patience = Patience::new(discovery.interval);
    loop {
        let answer = source.next().await;
        let answered = answer.is_ok();
        let Some(membership) = membership.upgrade() else {
            return;
        };
        let (cluster, kind) = (cluster.clone(), discovery.source.kind());
        let taken_in =
            tokio::task::spawn_blocking(move || membership.take_in(&cluster, kind, answer));
        let in_force = taken_in.await.unwrap_or(false);
        drop(first.take());
        if in_force {
            patience.answered(Instant::now());
            continue;
        }
        tokio::time::sleep(patience.failed(Instant::now(), fastrand::u64(..))).await;
        if answered {
            // It was refused here, and the source would not say it again.
            source = Source::new(&discovery);
        }
    }
}

/// The written endpoints, then the found ones that are not written.
fn merged(written: &config::Cluster, found: Option<&Vec<config::Endpoint>>) -> config::Cluster {
    let mut cluster = written.clone();
    let known: HashSet<&str> = written
        .endpoints
        .iter()
        .map(|endpoint| endpoint.address.as_str())
        .collect();
    let found = found.into_iter().flatten();
    let new = found.filter(|endpoint| !known.contains(endpoint.address.as_str()));
    cluster.endpoints.extend(new.cloned());
    cluster
}

fn last_stay(reason: String) -> String {
    format!("its last endpoints stay: {reason}")
}
