//! Ensembles: several models and built-in steps that answer as one model.
//!
//! What fits together is decided beforehand: names in the configuration, datatypes and shapes in `plan`. A
//! request then flows through the steps (`run`). Models are looked up for each request, so that a step
//! always has the version that is served at the moment.

mod apart;
mod ask;
mod cpu;
pub mod plan;
mod run;
mod step;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use forebay_config::worker::{Ensemble as Config, StepKind};
use futures::future::{BoxFuture, FutureExt};
use parking_lot::Mutex;

use self::plan::{Declarations, Labelled, Typed};
use self::step::Transform;
use crate::batch::job::Answer;
use crate::batch::statistics::Statistics;
use crate::cache::Cache;
use crate::inference::{InferError, InferRequest, InferResponse, Origin, Signature, Timing};
use crate::measure::Requests;
use crate::model::farewell::{Farewell, Word};
use crate::served::Served;
use crate::telemetry::spans::Tracing;

pub use self::cpu::Cpu;

/// Of an ensemble whose folder, if it has one, says no other.
pub const VERSION: u64 = 1;

/// Where ensembles find their models.
pub trait Models: Send + Sync {
    /// `version`: `None` for the one that is served. The error says why there is none.
    fn find(&self, name: &str, version: Option<u64>) -> Result<Arc<Served>, String>;
}

/// What ensembles share.
#[derive(Clone)]
pub struct Surroundings {
    /// Weak, as whoever has the models has the ensembles, too.
    pub models: Weak<dyn Models>,
    pub cpu: Cpu,
    pub tracing: Tracing,
}

/// An ensemble that takes requests until it is shut down.
pub struct Ensemble {
    name: Arc<str>,
    version: u64,
    config: Config,
    signature: Signature,
    steps: Vec<Step>,
    /// The models that it was put together with; it must be put together anew when they change.
    made_with: Vec<Weak<Served>>,
    row_limit: Option<usize>,
    request_limit: Option<usize>,
    models: Weak<dyn Models>,
    cpu: Cpu,
    tracing: Tracing,
    cache: Option<Arc<Cache>>,
    /// These two outlive the ensemble when it is put together anew.
    statistics: Arc<Mutex<Statistics>>,
    requests: Arc<Requests>,
    closed: AtomicBool,
    farewell: Farewell,
}

struct Step {
    /// In messages: "step 2 (model 'minilm')".
    label: String,
    /// In traces: "minilm".
    span: String,
    /// Of the model, if it is one.
    model: String,
    version: Option<u64>,
    transform: Option<Arc<dyn Transform>>,
}

/// The parts of an ensemble that come from files and are kept when it is put together anew.
#[derive(Clone)]
pub struct Parts {
    config: Config,
    version: u64,
    transforms: Vec<Option<Arc<dyn Transform>>>,
    statistics: Arc<Mutex<Statistics>>,
    requests: Arc<Requests>,
}

impl Parts {
    /// Reads the files of built-in steps. Blocks.
    ///
    /// # Errors
    /// A file that cannot be read or understood, with the step that needs it.
    pub fn load(config: Config, repository: &Path) -> Result<Self, String> {
        let load = |(number, step): (usize, &forebay_config::worker::Step)| {
            step::make(&step.kind, repository)
                .map_err(|error| format!("{}: {error}", label(number, &step.kind)))
        };
        let transforms = config.steps.iter().enumerate().map(load);
        Ok(Self {
            transforms: transforms.collect::<Result<_, _>>()?,
            config,
            version: VERSION,
            statistics: Arc::default(),
            requests: Arc::default(),
        })
    }

    /// To be served as this version.
    pub fn versioned(self, version: u64) -> Self {
        Self { version, ..self }
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn version(&self) -> u64 {
        self.version
    }
}

impl Ensemble {
    /// Puts an ensemble together with the models that are there now.
    ///
    /// # Errors
    /// A model that is not there, or steps whose tensors do not fit.
    pub fn new(name: &str, parts: Parts, around: &Surroundings) -> Result<Self, String> {
        let Parts {
            config,
            version,
            transforms,
            statistics,
            requests,
        } = parts;
        let models = around.models.upgrade().ok_or("the worker ends")?;
        let mut steps = Vec::with_capacity(transforms.len());
        let mut found: Vec<Option<Arc<Served>>> = Vec::with_capacity(transforms.len());
        for (number, (step, transform)) in config.steps.iter().zip(transforms).enumerate() {
            let label = label(number, &step.kind);
            let (model, version) = match &step.kind {
                StepKind::Model { name, version } => (name.clone(), *version),
                _ => (String::new(), None),
            };
            found.push(match transform {
                Some(_) => None,
                None => {
                    let served = models.find(&model, version);
                    Some(served.map_err(|reason| format!("{label}: {reason}"))?)
                }
            });
            let span = step
                .kind
                .built_in()
                .map_or(model.clone(), |step| step.name.to_owned());
            steps.push(Step {
                label,
                span,
                model,
                version,
                transform,
            });
        }
        let typed = |(step, served): (&Step, &Option<Arc<Served>>)| -> Option<TypedStep> {
            match (&step.transform, served) {
                (Some(transform), _) => Some(TypedStep::BuiltIn(Arc::clone(transform))),
                (None, Some(served)) => Some(TypedStep::Model(Arc::clone(served))),
                (None, None) => None,
            }
        };
        let typed: Vec<TypedStep> = steps.iter().zip(&found).filter_map(typed).collect();
        let labelled: Vec<Labelled<'_>> = steps
            .iter()
            .zip(&typed)
            .map(|(step, typed)| Labelled {
                label: &step.label,
                step: typed.typed(),
            })
            .collect();
        let declared = Declarations {
            inputs: &config.inputs,
            outputs: &config.outputs,
        };
        let signature = plan::signature(&config.flow, declared, &labelled)?;
        let served = || found.iter().flatten();
        let least = |limits: Vec<Option<usize>>| {
            limits
                .into_iter()
                .flatten()
                .min()
                .filter(|_| signature.batched)
        };
        let built_in = steps.iter().any(|step| step.transform.is_some());
        let mut request_limits: Vec<_> = served().map(|served| served.request_limit()).collect();
        request_limits.push(built_in.then_some(step::MAX_ROWS));
        let cache = config.response_cache_bytes;
        Ok(Self {
            name: Arc::from(name),
            version,
            row_limit: least(served().map(|served| served.row_limit()).collect()),
            request_limit: least(request_limits),
            signature,
            made_with: served().map(Arc::downgrade).collect(),
            steps,
            models: Weak::clone(&around.models),
            cpu: around.cpu.clone(),
            tracing: around.tracing.clone(),
            cache: (cache > 0).then(|| Arc::new(Cache::new(cache))),
            statistics,
            requests,
            closed: AtomicBool::new(false),
            farewell: Farewell::default(),
            config,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn cache(&self) -> Option<&Arc<Cache>> {
        self.cache.as_ref()
    }

    /// Rows of one batch of its models: the least of them. `None` where its rows are not those of its models.
    pub fn row_limit(&self) -> Option<usize> {
        self.row_limit
    }

    /// Rows of one request at most: the least of its models and built-in steps.
    pub fn request_limit(&self) -> Option<usize> {
        self.request_limit
    }

    pub fn statistics(&self) -> Statistics {
        self.statistics.lock().clone()
    }

    /// The step that cannot be taken now, and why.
    pub fn obstacle(&self) -> Option<String> {
        let models = self.models.upgrade()?;
        let mut steps = self.steps.iter().filter(|step| step.transform.is_none());
        steps.find_map(|step| {
            let reason = models.find(&step.model, step.version).err()?;
            Some(format!("{}: {reason}", step.label))
        })
    }

    /// Whether it says what these parts say.
    pub fn is_of(&self, parts: &Parts) -> bool {
        self.version == parts.version && self.config == parts.config
    }

    /// Whether the models that it was put together with are those that are served now.
    pub fn up_to_date(&self) -> bool {
        let Some(models) = self.models.upgrade() else {
            return true;
        };
        let steps = self.steps.iter().filter(|step| step.transform.is_none());
        steps.zip(&self.made_with).all(|(step, made_with)| {
            let served = models.find(&step.model, step.version);
            served.is_ok_and(|served| std::ptr::eq(Arc::as_ptr(&served), made_with.as_ptr()))
        })
    }

    /// What became of the requests, as their callers see it.
    pub fn requests(&self) -> &Requests {
        &self.requests
    }

    /// Answers a request that was checked against the signature. Dropping the future takes back what was not
    /// started yet.
    ///
    /// # Errors
    /// Those of the models and steps, with the step where they happened.
    pub fn infer(&self, request: InferRequest, now: Instant) -> BoxFuture<'_, Answer> {
        // Boxed, as a step may be an ensemble itself.
        self.answer(request, now).boxed()
    }

    async fn answer(&self, request: InferRequest, now: Instant) -> Answer {
        let rows = request.rows;
        let counted = Counted::start(&self.statistics, now);
        if self.closed.load(Ordering::SeqCst) {
            counted.end(None);
            return Err(InferError::Unavailable(self.name.to_string()));
        }
        let outputs = self.run(request).await;
        counted.end(outputs.is_ok().then_some(rows));
        Ok(InferResponse {
            outputs: outputs?,
            timing: Timing::default(),
            origin: Origin::Run,
        })
    }

    /// Refuses new requests. Those that are under way end with their models.
    pub fn shutdown(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Dropping it calls this; it has no threads.
    pub fn at_end(&self, word: Word) {
        self.farewell.set(word);
    }
}

impl Drop for Ensemble {
    fn drop(&mut self) {
        self.farewell.say(Vec::new());
    }
}

impl std::fmt::Debug for Ensemble {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Ensemble")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

enum TypedStep {
    Model(Arc<Served>),
    BuiltIn(Arc<dyn Transform>),
}

impl TypedStep {
    fn typed(&self) -> &dyn Typed {
        match self {
            Self::Model(served) => served.signature(),
            Self::BuiltIn(transform) => &**transform,
        }
    }
}

/// A request that is under way; counted as cancelled when dropped before its end.
struct Counted<'a> {
    statistics: &'a Mutex<Statistics>,
    since: Instant,
    over: bool,
}

impl<'a> Counted<'a> {
    fn start(statistics: &'a Mutex<Statistics>, now: Instant) -> Self {
        statistics.lock().submitted += 1;
        Self {
            statistics,
            since: now,
            over: false,
        }
    }

    /// `rows`: of a request that was answered with tensors.
    fn end(mut self, rows: Option<usize>) {
        self.over = true;
        let took: Duration = self.since.elapsed();
        let mut statistics = self.statistics.lock();
        match rows {
            Some(rows) => {
                statistics.success.add(took);
                statistics.inference_count += rows as u64;
                statistics.execution_count += 1;
            }
            None => statistics.fail.add(took),
        }
        statistics.answered_at(SystemTime::now());
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.statistics.lock().cancelled += 1;
        }
    }
}

fn label(number: usize, kind: &StepKind) -> String {
    let number = number + 1;
    match (kind, kind.built_in()) {
        (StepKind::Model { name, .. }, _) => format!("step {number} (model '{name}')"),
        (_, Some(built_in)) => format!("step {number} ({})", built_in.name),
        (_, None) => format!("step {number}"),
    }
}

#[cfg(test)]
mod tests;
