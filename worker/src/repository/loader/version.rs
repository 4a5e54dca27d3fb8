//! One version of a model, from its files to a model that is warm and takes requests.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use forebay_config::worker::Model as ModelConfig;

use super::{Loader, Task};
use crate::engine::onnx::{self, SessionOptions};
use crate::model::{Model, ModelSpec};
use crate::repository::disk;
use crate::repository::first_requests;
use crate::repository::labels::Labels;
use crate::repository::settings::Settings;

impl Loader {
    /// Loads and warms one version. Panics of the binding on exotic models are a reason like any other.
    pub(super) fn load_version(
        &self,
        task: &Task,
        version: u64,
        path: &str,
    ) -> Result<Model, String> {
        let Some(Settings { config, said }) = task.settings.clone() else {
            return Err("nobody says how it is to be served".to_owned());
        };
        let Task { name, source, .. } = task;
        let threads = config.threads.or(self.config.threads);
        let threads = threads.unwrap_or_else(|| threads_of_each(&config));
        let options = SessionOptions::new(&config, threads);
        let folder = source.repository.join(name);
        let path = folder.join(path);
        let load = || {
            let mut seats = Vec::new();
            if let Some(memory) = &self.memory {
                let first = memory.seat(path.parent().map_or(0, disk::bytes))?;
                first.claim();
                seats.push(first);
            }
            let mut loaded = onnx::load_model(&self.runtime, Path::new(&path), options)?;
            if let Some(first) = seats.pop() {
                let further = 1..config.all_instances();
                seats.extend(further.map(|_| first.further(loaded.shares_session)));
                seats.insert(0, first);
            }
            if let Some(kept) = source.kept.clone() {
                let factory = loaded.factory;
                loaded.factory = Arc::new(move |number| {
                    let _files_it_reads = &kept;
                    factory(number)
                });
            }
            if let Some(said) = &said {
                said.declared.apply(name, &mut loaded.signature)?;
                first_requests::run(&folder, said, config.all_instances(), &mut loaded)?;
            }
            let labels = Labels::read(&folder, &config.labels, &loaded.signature)?;
            let spec = ModelSpec {
                name: name.clone(),
                version,
                config,
                labels,
                said,
                seats,
                max_answer_bytes: usize::try_from(self.config.max_message_bytes)
                    .unwrap_or(usize::MAX),
                observer: Arc::clone(&self.observer),
            };
            Model::start(loaded, spec)
        };
        let loaded = catch_unwind(AssertUnwindSafe(load));
        loaded.unwrap_or_else(|_| Err("loading it panicked".to_owned()))
    }
}

/// The cores shared out among the instances.
fn threads_of_each(config: &ModelConfig) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores / config.all_instances()).max(1)
}
