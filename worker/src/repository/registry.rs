//! Every model of the repository by name, with what became of it.
//!
//! Starts empty, so that a server can answer while models load. A model that cannot be loaded is listed with
//! its reason and changes nothing for the others.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use forebay_config::worker::{Model as ModelConfig, Worker};

use crate::batch::report::BatchObserver;
use crate::engine::onnx::{self, Runtime, SessionOptions};
use crate::model::{Model, ModelSpec};
use crate::repository::disk;
use crate::repository::labels::Labels;
use crate::repository::layout::{self, FoundModel, MODEL_FILE};
use crate::served::Served;

/// Why a name and version lead to no model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    #[error("unknown model '{0}'")]
    UnknownModel(String),
    #[error("model '{name}' has no version '{version}'")]
    UnknownVersion { name: String, version: String },
    #[error("model '{name}' is not ready: {reason}")]
    NotReady { name: String, reason: String },
}

/// What became of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelState {
    Loading,
    Ready,
    Unavailable,
}

/// One line of the repository's index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    pub name: String,
    /// `None` if the folder has no version.
    pub version: Option<u64>,
    pub state: ModelState,
    /// Why it is not ready; empty when it is.
    pub reason: String,
}

/// How loading goes, told as it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadEvent<'a> {
    Started {
        name: &'a str,
        version: u64,
    },
    Ready {
        name: &'a str,
        version: u64,
        provider: &'a str,
        provider_note: Option<&'a str>,
        took: Duration,
    },
    Failed {
        name: &'a str,
        version: Option<u64>,
        reason: &'a str,
    },
}

#[derive(Debug, Clone)]
enum Slot {
    Loading(u64),
    Ready(Arc<Served>),
    Failed {
        version: Option<u64>,
        reason: String,
    },
}

/// The models by name. Lookups are cheap and never wait for a load.
#[derive(Debug, Default)]
pub struct Registry {
    slots: DashMap<String, Slot>,
    /// The repository was listed and every model of it tried.
    complete: AtomicBool,
    closed: AtomicBool,
}

impl Registry {
    pub fn new() -> Self {
        Self::default()
    }

    /// Loads every model of the repository, one after the other, telling `progress`. Blocks.
    ///
    /// # Errors
    /// The repository cannot be listed.
    pub fn load_all(
        &self,
        runtime: &Runtime,
        config: &Worker,
        observer: &Arc<dyn BatchObserver>,
        progress: &dyn Fn(LoadEvent<'_>),
    ) -> Result<(), String> {
        let folders = disk::list(&config.repository);
        let folders = folders.map_err(|error| {
            format!(
                "cannot list the model repository '{}': {error}",
                config.repository.display()
            )
        })?;
        let models = layout::models(&folders, config.models.keys().map(String::as_str));
        for model in &models {
            self.slots.insert(model.name.clone(), planned(model));
        }
        for FoundModel { name, version } in models {
            if self.closed.load(Ordering::SeqCst) {
                return Ok(());
            }
            let loaded = version.as_ref().map_err(String::clone).and_then(|version| {
                progress(LoadEvent::Started {
                    name: &name,
                    version: *version,
                });
                let start = Instant::now();
                let model = load_one(runtime, config, observer, &name, *version)?;
                Ok((model, start.elapsed()))
            });
            match loaded {
                Ok((model, took)) => {
                    progress(LoadEvent::Ready {
                        name: &name,
                        version: model.version(),
                        provider: model.provider(),
                        provider_note: model.provider_note(),
                        took,
                    });
                    self.slots.insert(name, Slot::Ready(Arc::new(model.into())));
                }
                Err(reason) => {
                    let version = version.ok();
                    progress(LoadEvent::Failed {
                        name: &name,
                        version,
                        reason: &reason,
                    });
                    self.slots.insert(name, Slot::Failed { version, reason });
                }
            }
        }
        self.complete.store(true, Ordering::SeqCst);
        if self.closed.load(Ordering::SeqCst) {
            self.shutdown();
        }
        Ok(())
    }

    /// The model to run. An empty version means the one that is served.
    ///
    /// # Errors
    /// No such model or version, or it is not ready.
    pub fn get(&self, name: &str, version: &str) -> Result<Arc<Served>, LookupError> {
        let Some(slot) = self.slots.get(name) else {
            return Err(self.missing(name));
        };
        let served = match &*slot {
            Slot::Loading(version) => Some(*version),
            Slot::Ready(model) => Some(model.version()),
            Slot::Failed { version, .. } => *version,
        };
        if !version.is_empty()
            && layout::version_number(version).is_none_or(|wanted| served != Some(wanted))
        {
            return Err(LookupError::UnknownVersion {
                name: name.to_owned(),
                version: version.to_owned(),
            });
        }
        let not_ready = |reason: &str| LookupError::NotReady {
            name: name.to_owned(),
            reason: reason.to_owned(),
        };
        match &*slot {
            Slot::Ready(model) => Ok(Arc::clone(model)),
            Slot::Loading(_) => Err(not_ready("it is loading")),
            Slot::Failed { reason, .. } => Err(not_ready(reason)),
        }
    }

    /// Every model of the repository, by name.
    pub fn index(&self) -> Vec<IndexEntry> {
        let mut entries: Vec<IndexEntry> = self
            .slots
            .iter()
            .map(|slot| entry(slot.key(), slot.value()))
            .collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        entries
    }

    /// The models that take requests, by name.
    pub fn models(&self) -> Vec<Arc<Served>> {
        let ready = self.slots.iter().filter_map(|slot| match slot.value() {
            Slot::Ready(model) => Some(Arc::clone(model)),
            Slot::Loading(_) | Slot::Failed { .. } => None,
        });
        let mut models: Vec<Arc<Served>> = ready.collect();
        models.sort_by(|a, b| a.name().cmp(b.name()));
        models
    }

    /// Loading is over and the models are warm. Broken models do not count, unless all are broken.
    pub fn ready(&self) -> bool {
        let loaded = self.complete.load(Ordering::SeqCst) && !self.closed.load(Ordering::SeqCst);
        let works = |slot: &Slot| matches!(slot, Slot::Ready(_));
        loaded && (self.slots.is_empty() || self.slots.iter().any(|slot| works(slot.value())))
    }

    /// Refuses new requests everywhere, answers those that wait, and returns when every instance is gone. Blocks.
    pub fn shutdown(&self) {
        self.closed.store(true, Ordering::SeqCst);
        for model in self.models() {
            model.shutdown();
        }
    }

    fn missing(&self, name: &str) -> LookupError {
        let listed = self.complete.load(Ordering::SeqCst) || !self.slots.is_empty();
        if listed {
            return LookupError::UnknownModel(name.to_owned());
        }
        LookupError::NotReady {
            name: name.to_owned(),
            reason: "the repository is being read".to_owned(),
        }
    }
}

#[cfg(test)]
impl Registry {
    /// A repository whose models are loaded already.
    pub fn of(models: impl IntoIterator<Item = Model>) -> Self {
        let slots = models
            .into_iter()
            .map(|model| (model.name().to_owned(), Slot::Ready(Arc::new(model.into()))));
        Self {
            slots: slots.collect(),
            complete: AtomicBool::new(true),
            closed: AtomicBool::new(false),
        }
    }
}

fn planned(model: &FoundModel) -> Slot {
    match &model.version {
        Ok(version) => Slot::Loading(*version),
        Err(reason) => Slot::Failed {
            version: None,
            reason: reason.clone(),
        },
    }
}

fn entry(name: &str, slot: &Slot) -> IndexEntry {
    let (version, state, reason) = match slot {
        Slot::Loading(version) => (Some(*version), ModelState::Loading, "it is loading"),
        Slot::Ready(model) => (Some(model.version()), ModelState::Ready, ""),
        Slot::Failed { version, reason } => (*version, ModelState::Unavailable, reason.as_str()),
    };
    IndexEntry {
        name: name.to_owned(),
        version,
        state,
        reason: reason.to_owned(),
    }
}

/// Loads and warms one model. Panics of the binding on exotic models are a reason like any other.
fn load_one(
    runtime: &Runtime,
    worker: &Worker,
    observer: &Arc<dyn BatchObserver>,
    name: &str,
    version: u64,
) -> Result<Model, String> {
    let config = worker.model(name);
    let options = SessionOptions {
        threads: config
            .threads
            .or(worker.threads)
            .unwrap_or_else(|| threads_of_each(&config)),
        provider: config.provider,
    };
    let path = worker
        .repository
        .join(name)
        .join(version.to_string())
        .join(MODEL_FILE);
    let load = || {
        let loaded = onnx::load_model(runtime, Path::new(&path), options)?;
        let folder = worker.repository.join(name);
        let labels = Labels::read(&folder, &config.labels, &loaded.signature)?;
        let spec = ModelSpec {
            name: name.to_owned(),
            version,
            config,
            labels,
            observer: Arc::clone(observer),
        };
        Model::start(loaded, spec)
    };
    catch_unwind(AssertUnwindSafe(load)).unwrap_or_else(|_| Err("loading it panicked".to_owned()))
}

/// The cores shared out among the instances.
fn threads_of_each(config: &ModelConfig) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores / usize::try_from(config.instances).unwrap_or(1).max(1)).max(1)
}

#[cfg(test)]
mod tests;
