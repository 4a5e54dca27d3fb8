//! Ensembles of the configuration: put together when their models are there, and anew when those change.
//!
//! An ensemble whose models are not there is not ready; it keeps what it read from files and is tried again
//! after every change. One that is served goes on until its successor is ready, like any model.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::Mutex;

use super::{LoadError, LoadEvent, Loader};
use crate::pipeline::{Cpu, Ensemble, Models, Parts, Surroundings, VERSION};
use crate::repository::layout::Plan;
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
}

impl Loader {
    pub(super) fn is_ensemble(&self, name: &str) -> bool {
        self.config.ensembles.contains_key(name)
    }

    /// Reads the files of these ensembles, then puts together what can be; how many are ready.
    pub(super) fn start_ensembles(&self, names: &[String]) -> usize {
        for name in names {
            self.begin_ensemble(name);
            if let Err(reason) = self.read_ensemble(name) {
                self.ensemble_failed(name, &reason);
            }
        }
        self.renew_ensembles();
        let failed = |name: &&String| match self.put_together_if_stale(name) {
            Ok(()) => false,
            Err(reason) => {
                self.ensemble_failed(name, &reason);
                true
            }
        };
        let known = |name: &&String| self.ensembles.parts.lock().contains_key(*name);
        let failed = names.iter().filter(known).filter(failed).count();
        names.iter().filter(known).count() - failed
    }

    pub(super) fn load_ensemble(&self, name: &str) -> Result<(), LoadError> {
        self.begin_ensemble(name);
        let made = self
            .read_ensemble(name)
            .and_then(|()| self.put_together(name));
        made.map_err(|reason| {
            self.ensemble_failed(name, &reason);
            LoadError::Failed {
                name: name.to_owned(),
                reasons: reason,
            }
        })?;
        self.renew_ensembles();
        Ok(())
    }

    pub(super) fn unload_ensemble(&self, name: &str) {
        self.ensembles.parts.lock().remove(name);
        let let_go = self.registry.change(name, |life| life.unload());
        self.let_go(name, let_go);
    }

    /// Puts together every ensemble that is not what its models are now. An ensemble may be a step of another,
    /// so once is not enough.
    pub(super) fn renew_ensembles(&self) {
        let names: Vec<String> = self.ensembles.parts.lock().keys().cloned().collect();
        for _ in 0..names.len() {
            for name in &names {
                let served = !self.registry.versions(name).is_empty();
                if let (Err(reason), false) = (self.put_together_if_stale(name), served) {
                    self.registry
                        .change(name, |life| life.failed(VERSION, reason));
                }
            }
        }
    }

    fn put_together_if_stale(&self, name: &str) -> Result<(), String> {
        let served = self.registry.versions(name);
        let ensemble = served.first().and_then(|served| served.ensemble());
        match ensemble.is_some_and(Ensemble::up_to_date) {
            true => Ok(()),
            false => self.put_together(name),
        }
    }

    fn begin_ensemble(&self, name: &str) {
        let plan = Plan {
            versions: BTreeMap::from([(VERSION, Ok(String::new()))]),
            present: [VERSION].into(),
            problem: None,
            notes: Vec::new(),
        };
        self.registry.change(name, |life| life.begin(&plan));
    }

    fn read_ensemble(&self, name: &str) -> Result<(), String> {
        let config = self.config.ensembles.get(name);
        let config = config
            .ok_or("the configuration has no such ensemble")?
            .clone();
        let parts = Parts::load(config, &self.config.repository)?;
        self.ensembles.parts.lock().insert(name.to_owned(), parts);
        Ok(())
    }

    fn put_together(&self, name: &str) -> Result<(), String> {
        let parts = self.ensembles.parts.lock().get(name).cloned();
        let parts = parts.ok_or("it is not to be served")?;
        let start = Instant::now();
        let ensemble = Ensemble::new(name, parts, &self.ensembles.around)?;
        let ensemble = Arc::new(Served::Ensemble(ensemble));
        let former = self
            .registry
            .change(name, |life| life.loaded(VERSION, ensemble));
        self.retire(name, former);
        (self.tell)(LoadEvent::Ready {
            name,
            version: VERSION,
            provider: "ensemble",
            provider_note: None,
            took: start.elapsed(),
        });
        Ok(())
    }

    fn ensemble_failed(&self, name: &str, reason: &str) {
        self.tell_failure(name, Some(VERSION), reason);
        self.registry
            .change(name, |life| life.failed(VERSION, reason.to_owned()));
    }
}
