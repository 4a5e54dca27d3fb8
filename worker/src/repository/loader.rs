//! Loads, reloads and unloads: turns a command about one model into what `lifecycle` is told.
//!
//! Everything here blocks and runs on the one loading thread, so commands about a model follow each other. What becomes
//! of a model that is let go is for `retirement`.

mod ensembles;
mod version;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_config::worker::{Ensemble as EnsembleConfig, ModelControl, VersionPolicy, Worker};

use crate::batch::memory::Memory;
use crate::batch::report::BatchObserver;
use crate::engine::onnx::Runtime;
use crate::repository::disk;
use crate::repository::layout::{self, Contents, Plan};
use crate::repository::registry::Registry;
use crate::repository::retirement::Retirement;
use crate::repository::settings::Settings;
use crate::repository::source::{Given, Source};
use crate::repository::watch::{Anew, Change, Watch};
use crate::served::Served;

pub use self::ensembles::Ensembles;

/// Why a model is not what a command wanted it to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// Neither the repository nor the configuration knows the name.
    #[error("failed to load '{0}', failed to poll from model repository: there is no such folder")]
    Unknown(String),
    /// What failed, version by version; everything else of the model is as it should be.
    #[error("load failed for model '{name}': {reasons}")]
    Failed { name: String, reasons: String },
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
    /// It takes no new requests.
    LetGo {
        name: &'a str,
        version: u64,
    },
}

/// What a load has to do.
struct Task {
    name: String,
    plan: Plan,
    /// None: the plan says why.
    settings: Option<Settings>,
    /// Its steps, if it is an ensemble.
    ensemble: Option<EnsembleConfig>,
    source: Source,
    /// What is to be loaded although it is served already.
    anew: Anew,
}

impl Task {
    fn missing(name: String, source: Source) -> Self {
        let reason = "the configuration names it, but the repository has no such folder";
        Self {
            name,
            plan: Plan::broken(reason.to_owned(), BTreeSet::new()),
            settings: None,
            ensemble: None,
            source,
            anew: Anew::All,
        }
    }
}

/// What came of the models that are served from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub ready: usize,
    pub failed: usize,
}

pub struct Loader {
    pub registry: Arc<Registry>,
    pub runtime: Runtime,
    pub config: Worker,
    pub observer: Arc<dyn BatchObserver>,
    pub ensembles: Ensembles,
    pub tell: Box<dyn Fn(LoadEvent<'_>) + Send>,
    /// None: unbounded.
    pub memory: Option<Arc<Memory>>,
    /// What the models were loaded from.
    pub watch: Watch,
    pub retirement: Retirement,
}

impl Loader {
    /// Loads what is to be served from the start, one model after the other.
    ///
    /// # Errors
    /// The repository cannot be listed.
    pub fn start(&mut self) -> Result<Counts, String> {
        let repository = &self.config.repository;
        let mut names = disk::names(repository).map_err(|error| {
            format!(
                "cannot list the model repository '{}': {error}",
                repository.display()
            )
        })?;
        names.extend(self.config.models.keys().cloned());
        names.extend(self.config.ensembles.keys().cloned());
        if let ModelControl::Explicit {
            at_start: Some(at_start),
        } = &self.config.model_control
        {
            names = at_start.clone();
        }
        let source = Source::repository(repository);
        let mut tasks: Vec<Task> = Vec::new();
        for name in names {
            let task = self.task(&name, &source, Anew::All);
            let task = task.unwrap_or_else(|| Task::missing(name, source.clone()));
            self.registry
                .change(&task.name, |life| life.begin(&task.plan));
            tasks.push(task);
        }
        let (ensembles, tasks): (Vec<Task>, Vec<Task>) =
            tasks.into_iter().partition(|task| task.ensemble.is_some());
        let mut counts = Counts::default();
        for task in tasks {
            if self.registry.closed() {
                return Ok(counts);
            }
            match self.carry_out(&task) {
                Ok(()) => counts.ready += 1,
                Err(_) => counts.failed += 1,
            }
        }
        let ready = self.start_ensembles(&ensembles);
        counts.ready += ready;
        counts.failed += ensembles.len() - ready;
        self.registry.complete();
        Ok(counts)
    }

    /// Loads the model, or loads it anew; answers when it is ready or failed.
    ///
    /// # Errors
    /// There is no such model, or a version of it cannot be loaded; what was served before still is.
    pub fn load(&mut self, name: &str, given: Given) -> Result<(), LoadError> {
        if self.is_configured_ensemble(name) && given != Given::default() {
            return Err(LoadError::Failed {
                name: name.to_owned(),
                reasons: "only the worker's configuration says what an ensemble is".to_owned(),
            });
        }
        let source = Source::new(&self.config.repository, name, given);
        let source = source.map_err(|error| LoadError::Failed {
            name: name.to_owned(),
            reasons: format!("its files cannot be written down: {error}"),
        })?;
        let task = self.task(name, &source, Anew::All);
        let task = task.ok_or_else(|| LoadError::Unknown(name.to_owned()))?;
        if let (Some(_), None, Some(reason)) = (&source.config, &task.settings, &task.plan.problem)
        {
            return Err(LoadError::Failed {
                name: name.to_owned(),
                reasons: reason.clone(),
            });
        }
        self.registry.change(name, |life| life.begin(&task.plan));
        let carried_out = self.carry_out(&task);
        self.renew_ensembles();
        carried_out
    }

    /// New requests for the model are refused from now on. A model that is not loaded stays so.
    pub fn unload(&self, name: &str) {
        self.ensembles.forget(name);
        let known = self.is_configured_ensemble(name)
            || disk::folder(&self.config.repository, name).is_some();
        let let_go = self.registry.change(
            name,
            |life| {
                if known { life.unload() } else { life.removed() }
            },
        );
        self.let_go(name, let_go);
    }

    /// Looks at the repository, and acts on what has changed and come to rest.
    pub fn look(&mut self) {
        let repository = &self.config.repository;
        let names = match disk::names(repository) {
            Ok(names) => names,
            Err(error) => {
                let path = repository.display();
                tracing::warn!("cannot list the model repository '{path}': {error}");
                return;
            }
        };
        let source = Source::repository(repository);
        let folders = names
            .iter()
            .filter(|name| !self.is_configured_ensemble(name))
            .filter_map(|name| disk::folder(repository, name));
        for change in self.watch.look(folders.collect()) {
            if self.registry.closed() {
                return;
            }
            match change {
                Change::Gone { name } => self.unload(&name),
                Change::Changed { name, anew } => {
                    let Some(task) = self.task(&name, &source, anew) else {
                        continue;
                    };
                    self.registry.change(&name, |life| life.begin(&task.plan));
                    // Whatever fails was told, and stands in the index.
                    _ = self.carry_out(&task);
                }
            }
        }
        self.renew_ensembles();
    }

    /// None: there is no such folder.
    fn task(&mut self, name: &str, source: &Source, anew: Anew) -> Option<Task> {
        if let Some(config) = self.config.ensembles.get(name) {
            return Some(Task {
                name: name.to_owned(),
                plan: layout::ensemble(&Contents::default(), &VersionPolicy::All),
                settings: None,
                ensemble: Some(config.clone()),
                source: source.clone(),
                anew: Anew::All,
            });
        }
        let folder = disk::folder(&source.repository, name)?;
        let mut ensemble = None;
        let (mut plan, settings) = match folder.contents {
            Ok(contents) => {
                if source.kept.is_none() {
                    self.watch.acted_on(name, &contents);
                }
                match Settings::read(&self.config, source, name) {
                    Ok(settings) => {
                        let versions = &settings.config.versions;
                        ensemble = settings.ensemble();
                        let mut plan = match ensemble {
                            Some(_) => layout::ensemble(&contents, versions),
                            None => layout::plan(&contents, versions, settings.model_file()),
                        };
                        plan.notes = settings.notes().to_vec();
                        (plan, Some(settings))
                    }
                    Err(reason) => {
                        let mut present = contents.versions();
                        present.extend(self.ensembles.version(name));
                        (Plan::broken(reason, present), None)
                    }
                }
            }
            Err(reason) => {
                let served = self.registry.versions(name);
                let served = served.iter().map(|model| model.version());
                let reason = format!("the folder cannot be read: {reason}");
                (Plan::broken(reason, served.collect()), None)
            }
        };
        if source.kept.is_some() {
            // Files of a request are beside what is served, whichever versions they hold.
            let served = self.registry.versions(name);
            plan.present
                .extend(served.iter().map(|model| model.version()));
        }
        for note in &plan.notes {
            tracing::warn!("model '{name}', config.pbtxt: {note}");
        }
        Some(Task {
            name: name.to_owned(),
            plan,
            settings,
            ensemble,
            source: source.clone(),
            anew,
        })
    }

    /// Loads what the plan wants, but for what is served already and not to be loaded anew; then lets go of what
    /// the plan does not want.
    fn carry_out(&self, task: &Task) -> Result<(), LoadError> {
        if let Some(config) = &task.ensemble {
            return self.carry_out_ensemble(task, config);
        }
        let Task {
            name, plan, anew, ..
        } = task;
        if plan.problem.is_none() {
            self.ensembles.forget(name);
        }
        let mut reasons: Vec<String> = Vec::new();
        if let Some(reason) = &plan.problem {
            self.tell_failure(name, None, reason);
            reasons.push(reason.clone());
        }
        for (version, path) in &plan.versions {
            if self.registry.closed() {
                break;
            }
            let (version, start) = (*version, Instant::now());
            if !anew.contains(version) && self.registry.get(name, &version.to_string()).is_ok() {
                continue;
            }
            let loaded = path.clone().and_then(|path| {
                (self.tell)(LoadEvent::Started { name, version });
                self.load_version(task, version, &path)
            });
            match loaded {
                Ok(model) => {
                    (self.tell)(LoadEvent::Ready {
                        name,
                        version,
                        provider: model.provider(),
                        provider_note: model.provider_note(),
                        took: start.elapsed(),
                    });
                    let model = Arc::new(Served::from(model));
                    let former = self
                        .registry
                        .change(name, |life| life.loaded(version, model));
                    self.retire(name, former);
                }
                Err(reason) => {
                    self.tell_failure(name, Some(version), &reason);
                    reasons.push(format!(
                        "version {version} is at UNAVAILABLE state: {reason}"
                    ));
                    self.registry
                        .change(name, |life| life.failed(version, reason));
                }
            }
        }
        let let_go = self.registry.change(name, |life| life.finish());
        self.let_go(name, let_go);
        if self.registry.closed() {
            self.registry.shutdown();
        }
        if reasons.is_empty() {
            return Ok(());
        }
        Err(LoadError::Failed {
            name: name.to_owned(),
            reasons: reasons.join("; "),
        })
    }

    fn tell_failure(&self, name: &str, version: Option<u64>, reason: &str) {
        (self.tell)(LoadEvent::Failed {
            name,
            version,
            reason,
        });
    }

    fn let_go(&self, name: &str, models: Vec<Arc<Served>>) {
        for model in models {
            let version = model.version();
            (self.tell)(LoadEvent::LetGo { name, version });
            self.retire(name, Some(model));
        }
    }

    fn retire(&self, name: &str, model: Option<Arc<Served>>) {
        if let Some(model) = model {
            self.retirement.retire(name, model);
        }
    }
}

impl std::fmt::Debug for Loader {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Loader")
            .field("repository", &self.config.repository)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
