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

use crate::assembly::{Assembly, AssemblyError, Unresolved};
use crate::fleet::discovery::{Patience, Source};
use crate::gateway::{Gateway, Snapshot};
use crate::reload;
use crate::telemetry::discovery::Look;

/// The endpoints that a source names, or why it names none.
type Answer = Result<Vec<config::Endpoint>, String>;

/// What became of an answer.
enum Taken {
    Whole {
        changed: bool,
    },
    /// Some endpoints are not in force: which, and why.
    Part {
        lost: String,
        changed: bool,
    },
    /// A reload has put another source in the place of the one that answered.
    Superseded,
}

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
        // Its first answer waits for the lock, and then finds the watcher there.
        let mut state = self.state.lock();
        let task = self.control().spawn(listening);
        let watcher = Watcher { discovery, task };
        state.watchers.insert(cluster, watcher);
        drop(state);
        looked
    }

    /// What a source came to; whether it is in force now.
    fn take_in(&self, cluster: &str, discovery: &config::Discovery, answer: Answer) -> bool {
        let (discoveries, kind) = (&self.gateway.discoveries, discovery.source.kind());
        let taken = answer.and_then(|endpoints| self.found(cluster, discovery, endpoints));
        match taken {
            Ok(Taken::Whole { changed }) => {
                discoveries.record(cluster, kind, Look::Answered { changed });
                true
            }
            Ok(Taken::Part { lost, changed }) => {
                let look = Look::Partial {
                    why: &lost,
                    changed,
                };
                if discoveries.record(cluster, kind, look) {
                    log::warn!(
                        "discovery of cluster '{cluster}' failed, all but these are in force: {lost}"
                    );
                }
                false
            }
            Ok(Taken::Superseded) => true,
            Err(reason) => {
                if discoveries.record(cluster, kind, Look::Failed) {
                    log::warn!(
                        "discovery of cluster '{cluster}' failed, its last endpoints stay: {reason}"
                    );
                }
                false
            }
        }
    }

    /// Puts the endpoints in place. Blocks until their names are resolved, and for a probe at most; others wait for the
    /// latter alone.
    fn found(
        &self,
        cluster: &str,
        discovery: &config::Discovery,
        found: Vec<config::Endpoint>,
    ) -> Result<Taken, String> {
        let named = |snapshot: &Snapshot| {
            let mut clusters = snapshot.clusters.iter();
            clusters.find(|known| known.config.name == cluster).cloned()
        };
        loop {
            let state = self.state.lock();
            let watcher = state.watchers.get(cluster);
            if watcher.is_none_or(|watcher| watcher.discovery != *discovery) {
                return Ok(Taken::Superseded);
            }
            if state.found.get(cluster) == Some(&found) {
                return Ok(Taken::Whole { changed: false });
            }
            let mut written = state.config.clusters.iter();
            let written = written.find(|written| written.name == cluster);
            let written = written.ok_or("there is no such cluster any more")?;
            let members = merged(written, Some(&found));
            let running = self.gateway.snapshot();
            drop(state);
            let plan = self.assembly.plan(&running, &members)?;

            let mut state = self.state.lock();
            let now = self.gateway.snapshot();
            let (before, same) = (named(&running), named(&now));
            let (Some(before), Some(same)) = (before, same) else {
                continue;
            };
            if !Arc::ptr_eq(&before, &same) {
                // A reload came in between.
                continue;
            }
            let (endpoints, lost) = without(plan.unresolved(), found);
            let changed = state.found.get(cluster) != Some(&endpoints);
            let taken = match lost {
                None => Taken::Whole { changed },
                Some(lost) => Taken::Part { lost, changed },
            };
            if !changed {
                return Ok(taken);
            }
            let snapshot = self.assembly.with_cluster(&now, plan);
            match endpoints.len() {
                0 => log::warn!("discovery of cluster '{cluster}' names no endpoints"),
                count => log::info!("discovery of cluster '{cluster}': {count} endpoints"),
            }
            // Endpoints that take requests are not given up for others before one of these does.
            if !endpoints.is_empty()
                && before.has_healthy()
                && let Some(next) = named(&snapshot)
            {
                reload::await_first_probe(&next);
            }
            state.found.insert(cluster.to_owned(), endpoints);
            self.gateway.replace(snapshot);
            return Ok(taken);
        }
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
        let is_written = |cluster: &str, address: &str| {
            let mut written = config.clusters.iter().filter(|known| known.name == cluster);
            written.any(|known| known.endpoints.iter().any(|one| one.address == address))
        };
        let snapshot = self
            .assembly
            .assemble(effective, Some(&running), is_written)?;
        prepare(&snapshot);
        state.found.retain(|cluster, _| kept.contains(cluster));
        for cluster in &snapshot.config.clusters {
            if let Some(found) = state.found.get_mut(&cluster.name) {
                let known: HashSet<&str> =
                    cluster.endpoints.iter().map(|one| &*one.address).collect();
                found.retain(|one| known.contains(&*one.address));
            }
        }
        self.gateway.replace(snapshot);
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
        let (cluster, asked) = (cluster.clone(), discovery.clone());
        let taken_in =
            tokio::task::spawn_blocking(move || membership.take_in(&cluster, &asked, answer));
        let in_force = taken_in.await.unwrap_or(false);
        drop(first.take());
        if in_force {
            patience.answered(Instant::now());
            continue;
        }
        let pause = patience.failed(Instant::now(), fastrand::u64(..));
        // Whether it ends early or not, the source is asked then.
        let _ = tokio::time::timeout(pause, source.changed()).await;
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

/// The endpoints that are not lost, and what is said of those that are.
fn without(
    unresolved: &[Unresolved],
    mut endpoints: Vec<config::Endpoint>,
) -> (Vec<config::Endpoint>, Option<String>) {
    if unresolved.is_empty() {
        return (endpoints, None);
    }
    let addresses: HashSet<&str> = unresolved.iter().map(|lost| &*lost.address).collect();
    endpoints.retain(|found| !addresses.contains(&*found.address));
    let lost: Vec<String> = unresolved.iter().map(ToString::to_string).collect();
    (endpoints, Some(lost.join("; ")))
}
