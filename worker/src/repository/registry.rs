//! What is served, by name and version: the door between those who ask and those who load.
//!
//! Starts empty, so that a server can answer while models load. Lookups are cheap and never wait for a load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dashmap::DashMap;
use tokio::sync::watch;

use crate::pipeline::Models;
use crate::repository::layout;
use crate::repository::lifecycle::{Absent, Lifecycle, ModelState};
use crate::served::Served;

/// Why a name and version lead to no model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    #[error("unknown model '{0}'")]
    UnknownModel(String),
    #[error("model '{name}' has no version '{version}'")]
    UnknownVersion { name: String, version: String },
    /// It was unloaded.
    #[error("model '{0}' has no available versions")]
    NoVersions(String),
    #[error("model '{name}' is not ready: {reason}")]
    NotReady { name: String, reason: String },
}

/// One line of the repository's index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    pub name: String,
    /// `None` if the folder has no version.
    pub version: Option<u64>,
    pub state: ModelState,
    /// Why it is not ready, or what went wrong although it is.
    pub reason: String,
}

/// The models by name.
#[derive(Debug, Default)]
pub struct Registry {
    models: DashMap<String, Lifecycle<Arc<Served>>>,
    /// The repository was listed and every model of it tried.
    complete: AtomicBool,
    closed: AtomicBool,
    /// Counts changes in what is served.
    changes: watch::Sender<u64>,
}

impl Registry {
    pub fn new() -> Self {
        Self::default()
    }

    /// The model to run. An empty version means the highest that is ready.
    ///
    /// # Errors
    /// No such model or version, or it is not ready.
    pub fn get(&self, name: &str, version: &str) -> Result<Arc<Served>, LookupError> {
        let Some(life) = self.models.get(name) else {
            return Err(self.missing(name));
        };
        let number = layout::version_number(version);
        let served = match (version, number) {
            ("", _) => life.serving(None),
            (_, Some(number)) => life.serving(Some(number)),
            (_, None) => Err(Absent::UnknownVersion),
        };
        let served = served.map(Arc::clone);
        // What an ensemble is made of is looked up here, too.
        drop(life);
        if let Some(reason) = served.as_ref().ok().and_then(|served| served.obstacle()) {
            return Err(LookupError::NotReady {
                name: name.to_owned(),
                reason,
            });
        }
        served.map_err(|absent| match absent {
            Absent::Unloaded => LookupError::NoVersions(name.to_owned()),
            Absent::UnknownVersion => LookupError::UnknownVersion {
                name: name.to_owned(),
                version: version.to_owned(),
            },
            Absent::NotReady(reason) => LookupError::NotReady {
                name: name.to_owned(),
                reason,
            },
        })
    }

    /// Every version of a model that takes requests, ascending.
    pub fn versions(&self, name: &str) -> Vec<Arc<Served>> {
        let life = self.models.get(name);
        life.map_or_else(Vec::new, |life| {
            life.served().map(|(_, model)| Arc::clone(model)).collect()
        })
    }

    /// Every version that was ever tried, by name and version.
    pub fn index(&self) -> Vec<IndexEntry> {
        let mut entries: Vec<IndexEntry> = Vec::new();
        for life in &self.models {
            entries.extend(life.status().into_iter().map(|line| IndexEntry {
                name: life.key().clone(),
                version: line.version,
                state: line.state,
                reason: line.reason,
            }));
        }
        for model in self.models() {
            let Some(reason) = model.obstacle() else {
                continue;
            };
            let same = |entry: &&mut IndexEntry| {
                entry.name == model.name() && entry.version == Some(model.version())
            };
            if let Some(entry) = entries.iter_mut().find(same) {
                entry.state = ModelState::Unavailable;
                entry.reason = reason;
            }
        }
        entries.sort_by(|a, b| (&a.name, a.version).cmp(&(&b.name, b.version)));
        entries
    }

    /// The models that take requests, by name and version.
    pub fn models(&self) -> Vec<Arc<Served>> {
        let mut models: Vec<Arc<Served>> = Vec::new();
        for life in &self.models {
            models.extend(life.served().map(|(_, model)| Arc::clone(model)));
        }
        models.sort_by(|a, b| (a.name(), a.version()).cmp(&(b.name(), b.version())));
        models
    }

    /// Loading is over and the models are warm. Broken models do not count, unless all are broken; nor do
    /// unloaded ones.
    pub fn ready(&self) -> bool {
        if !self.complete.load(Ordering::SeqCst) || self.closed() {
            return false;
        }
        let mut any_in_use = false;
        for life in &self.models {
            if life.serving(None).is_ok() {
                return true;
            }
            any_in_use |= life.in_use();
        }
        !any_in_use
    }

    /// Refuses new requests everywhere, answers those that wait, and returns when every instance is gone. Blocks.
    pub fn shutdown(&self) {
        self.closed.store(true, Ordering::SeqCst);
        for model in self.models() {
            model.shutdown();
        }
    }

    /// Counts up whenever something changed in what is served.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Shut down, or about to be.
    pub(super) fn closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Every model that is to be served from the start was tried.
    pub(super) fn complete(&self) {
        self.complete.store(true, Ordering::SeqCst);
        if self.closed() {
            self.shutdown();
        }
        self.changed();
    }

    /// Tells the life of a model what happened, and those who watch that something did.
    pub(super) fn change<T>(
        &self,
        name: &str,
        event: impl FnOnce(&mut Lifecycle<Arc<Served>>) -> T,
    ) -> T {
        let told = event(&mut self.models.entry(name.to_owned()).or_default());
        self.models.remove_if(name, |_, life| life.is_over());
        self.changed();
        told
    }

    fn changed(&self) {
        self.changes
            .send_modify(|changes| *changes = changes.wrapping_add(1));
    }

    fn missing(&self, name: &str) -> LookupError {
        let listed = self.complete.load(Ordering::SeqCst) || !self.models.is_empty();
        if listed {
            return LookupError::UnknownModel(name.to_owned());
        }
        LookupError::NotReady {
            name: name.to_owned(),
            reason: "the repository is being read".to_owned(),
        }
    }
}

impl Models for Registry {
    fn find(&self, name: &str, version: Option<u64>) -> Result<Arc<Served>, String> {
        let version = version.map_or_else(String::new, |version| version.to_string());
        self.get(name, &version).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
impl Registry {
    /// A repository whose models are loaded already.
    pub fn of(models: impl IntoIterator<Item = impl Into<Served>>) -> Self {
        let registry = Self::new();
        for model in models {
            let model: Served = model.into();
            let (name, version) = (model.name().to_owned(), model.version());
            registry.change(&name, |life| life.loaded(version, Arc::new(model)));
        }
        registry.complete();
        registry
    }
}
