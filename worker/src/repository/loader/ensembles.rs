//! Ensembles, of the worker's configuration or of a `config.pbtxt`: put together when their models are there, and
//! anew when those change.
//!
//! An ensemble whose models are not there is not ready; it keeps what it read from files and is tried again
//! after every change. One that is served goes on until its successor is ready, like any model.
//!
//! What is served never goes round in a circle: none is put together whose steps lead back to itself, by what is
//! served or by what is about to be. So whoever follows steps comes to an end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Instant;

use forebay_config::worker::Ensemble as Config;
use parking_lot::Mutex;

use super::{LoadError, LoadEvent, Loader, Task};
use crate::pipeline::{Cpu, Ensemble, Models, Parts, Surroundings, VERSION};
use crate::repository::circle;
use crate::repository::registry::Registry;
use crate::served::Served;
use crate::telemetry::spans::Tracing;

/// Those that are to be served, by name, with what was read for them.
pub struct Ensembles {
    parts: Mutex<BTreeMap<String, Parts>>,
    around: Surroundings,
}

impl Ensembles {
    pub fn new(registry: &Arc<Registry>, tracing: Tracing) -> Self {
        let models: Weak<Registry> = Arc::downgrade(registry);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            parts: Mutex::default(),
            around: Surroundings {
                models: models as Weak<dyn Models>,
                cpu: Cpu::new(cores),
                tracing,
            },
        }
    }

    /// It is not to be served any more, or no ensemble any more.
    pub(super) fn forget(&self, name: &str) {
        self.parts.lock().remove(name);
    }

    /// Of an ensemble that is to be served.
    pub(super) fn version(&self, name: &str) -> Option<u64> {
        self.parts.lock().get(name).map(Parts::version)
    }

    fn parts(&self, name: &str) -> Option<Parts> {
        self.parts.lock().get(name).cloned()
    }

    /// The models of an ensemble that is to be served; none of any other model.
    fn models(&self, name: &str) -> BTreeSet<String> {
        let parts = self.parts(name);
        let models = parts.iter().flat_map(|parts| parts.config().models());
        models.map(str::to_owned).collect()
    }

    /// An ensemble that is to be served is made of this model.
    fn use_of(&self, model: &str) -> bool {
        let parts = self.parts.lock();
        let mut models = parts.values().flat_map(|parts| parts.config().models());
        models.any(|name| name == model)
    }

    fn names(&self) -> Vec<String> {
        self.parts.lock().keys().cloned().collect()
    }
}

impl Loader {
    /// The worker's configuration has its steps.
    pub(super) fn is_configured_ensemble(&self, name: &str) -> bool {
        self.config.ensembles.contains_key(name)
    }

    /// Reads the files of these ensembles, then puts together what can be; how many are ready.
    pub(super) fn start_ensembles(&self, tasks: &[Task]) -> usize {
        for task in tasks {
            if let Some(Err(reason)) = task
                .ensemble
                .as_ref()
                .map(|it| self.read_ensemble(task, it))
            {
                self.ensemble_failed(&task.name, &reason);
            }
        }
        self.renew_ensembles();
        let ready = |task: &&Task| {
            if self.ensembles.version(&task.name).is_none() {
                return false;
            }
            let made = self.put_together_if_stale(&task.name);
            let told = |reason: &String| self.ensemble_failed(&task.name, reason);
            made.inspect_err(told).is_ok()
        };
        tasks.iter().filter(ready).count()
    }

    pub(super) fn carry_out_ensemble(&self, task: &Task, config: &Config) -> Result<(), LoadError> {
        let name = &task.name;
        let made = self
            .read_ensemble(task, config)
            .and_then(|()| self.put_together(name));
        made.map_err(|reason| {
            self.ensemble_failed(name, &reason);
            LoadError::Failed {
                name: name.to_owned(),
                reasons: reason,
            }
        })
    }

    /// Unloads an ensemble, and of its models those that no other ensemble is made of; those of them that are
    /// ensembles in the same way. Another model is unloaded alone.
    pub fn unload_with_models(&self, name: &str) {
        let mut left = vec![name.to_owned()];
        while let Some(name) = left.pop() {
            let models = self.ensembles.models(&name);
            self.unload(&name);
            left.extend(
                models
                    .into_iter()
                    .filter(|model| !self.ensembles.use_of(model)),
            );
        }
    }

    /// Puts together every ensemble that is not what its models are now. An ensemble may be a step of another,
    /// so once is not enough.
    pub(super) fn renew_ensembles(&self) {
        let names = self.ensembles.names();
        for _ in 0..names.len() {
            for name in &names {
                let served = !self.registry.versions(name).is_empty();
                if let (Err(reason), false) = (self.put_together_if_stale(name), served) {
                    let version = self.ensembles.version(name).unwrap_or(VERSION);
                    self.registry
                        .change(name, |life| life.failed(version, reason));
                }
            }
        }
    }

    fn put_together_if_stale(&self, name: &str) -> Result<(), String> {
        let served = self.registry.versions(name);
        let ensemble = served.last().and_then(|served| served.ensemble());
        let parts = self.ensembles.parts(name);
        match ensemble.zip(parts) {
            Some((ensemble, parts)) if ensemble.is_of(&parts) && ensemble.up_to_date() => Ok(()),
            _ => self.put_together(name),
        }
    }

    fn read_ensemble(&self, task: &Task, config: &Config) -> Result<(), String> {
        let parts = Parts::load(config.clone(), &self.config.repository)?;
        let version = task.plan.versions.keys().last();
        let parts = parts.versioned(version.copied().unwrap_or(VERSION));
        let mut all = self.ensembles.parts.lock();
        all.insert(task.name.clone(), parts);
        Ok(())
    }

    fn put_together(&self, name: &str) -> Result<(), String> {
        let parts = self.ensembles.parts(name).ok_or("it is not to be served")?;
        let version = parts.version();
        let steps = |of: &str| self.steps(of, (of != name).then(|| self.registry.versions(of)));
        if let Some(circle) = circle::through(name, steps) {
            return Err(format!("it is made of itself: {}", circle.join(" → ")));
        }
        let start = Instant::now();
        let ensemble = Ensemble::new(name, parts, &self.ensembles.around)?;
        let ensemble = Arc::new(Served::Ensemble(ensemble));
        let (former, beyond) = self
            .registry
            .change(name, |life| (life.loaded(version, ensemble), life.finish()));
        self.retire(name, former);
        self.let_go(name, beyond);
        (self.tell)(LoadEvent::Ready {
            name,
            version,
            provider: "ensemble",
            provider_note: None,
            took: start.elapsed(),
        });
        Ok(())
    }

    /// The models that an ensemble is to be made of, and those that its `served` forms are made of; none for a
    /// model that is no ensemble.
    fn steps(&self, name: &str, served: Option<Vec<Arc<Served>>>) -> BTreeSet<String> {
        let parts = self.ensembles.parts(name);
        let served = served.unwrap_or_default();
        let served = served.iter().filter_map(|served| served.ensemble());
        let made_of = served
            .map(Ensemble::config)
            .chain(parts.as_ref().map(Parts::config));
        made_of
            .flat_map(Config::models)
            .map(str::to_owned)
            .collect()
    }

    fn ensemble_failed(&self, name: &str, reason: &str) {
        let version = self.ensembles.version(name).unwrap_or(VERSION);
        self.tell_failure(name, Some(version), reason);
        self.registry
            .change(name, |life| life.failed(version, reason.to_owned()));
    }
}
