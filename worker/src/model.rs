//! One loaded version of a model: its queue, its instances, and the door that requests come through.

pub mod farewell;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use forebay_config::worker::Model as ModelConfig;

use crate::batch::curve::Learned;
use crate::batch::forming::{Forming, Rules};
use crate::batch::instance::Instance;
use crate::batch::job::{self, Job, Reply};
use crate::batch::lane::{Errand, Lane, Refusal};
use crate::batch::memory::{Seat, Watch};
use crate::batch::padding::{Extent, Padding};
use crate::batch::report::BatchObserver;
use crate::batch::shared::Common;
use crate::batch::ticket::Ticket;
use crate::batch::warmup::{self, WarmUp};
use crate::cache::Cache;
use crate::engine::{Engine, LoadedModel, NodeShare, content};
use crate::inference::{InferError, InferRequest, Signature};
use crate::measure::{Batches, Requests};
use crate::model::farewell::{Farewell, Word, join};
use crate::repository::labels::Labels;
use crate::repository::pbtxt::{Reshapes, Understood};

pub use crate::batch::statistics::{BatchSize, Statistics, Total};

/// All instances of a model are warmed up within this time, give or take one run.
const WARM_UP: Duration = Duration::from_secs(2);

/// A model that takes requests until it is shut down. Dropping it shuts it down, and waits for its threads unless
/// somebody else is to (`at_end`).
pub struct Model {
    common: Arc<Common>,
    /// As clients see it.
    signature: Signature,
    engine_signature: Signature,
    reshapes: Reshapes,
    said: Option<Understood>,
    config: ModelConfig,
    labels: Labels,
    provider: &'static str,
    provider_note: Option<String>,
    cache: Option<Arc<Cache>>,
    nodes: Vec<NodeShare>,
    memory_bytes: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Of its instances, where memory is bounded.
    watches: Vec<Watch>,
    requests: Requests,
    /// By number.
    instances: Vec<Arc<Mutex<Instance>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    farewell: Farewell,
}

/// What a model is called and how it is to behave.
pub struct ModelSpec {
    pub name: String,
    pub version: u64,
    pub config: ModelConfig,
    /// Of the classes of its outputs.
    pub labels: Labels,
    /// What the `config.pbtxt` of a Triton repository says; the signature of `loaded` is as it wants it.
    pub said: Option<Understood>,
    /// In the memory budget, if there is one: of each instance, that of the first claimed.
    pub seats: Vec<Seat>,
    /// Bytes of the answer to a request that is run in parts.
    pub max_answer_bytes: usize,
    pub observer: Arc<dyn BatchObserver>,
}

impl Model {
    /// Makes the remaining instances, warms all of them up and starts their threads. Blocks.
    ///
    /// # Errors
    /// An instance or a thread cannot be made, or the model cannot be padded as configured.
    pub fn start(loaded: LoadedModel, spec: ModelSpec) -> Result<Self, String> {
        let config = spec.config;
        let max_rows = if loaded.signature.batched {
            config.max_batch_size.max(1) as usize
        } else {
            1
        };
        let padding = padding(&config, &loaded)?;
        let mut engines = vec![Some(loaded.first)];
        for number in 1..config.all_instances() {
            // For want of memory it is made when it is needed.
            let room = spec.seats.get(number).is_none_or(Seat::claim_if_free);
            let engine = room.then(|| (loaded.factory)(number)).transpose()?;
            engines.push(engine);
        }
        let mut forming = Forming::new(rules(&config, max_rows));
        if config.warm_up {
            warm_up(
                &loaded.signature,
                &mut engines,
                padding.as_ref(),
                &mut forming,
            );
        }
        if !config.dynamic_batching {
            forming.stop_stacking();
        }

        let limit = usize::try_from(config.max_queue_size).unwrap_or(usize::MAX);
        let common = Arc::new(Common {
            model: Arc::from(spec.name),
            version: spec.version,
            lane: Lane::new(limit, forming, Instant::now()),
            statistics: Mutex::default(),
            observer: spec.observer,
            factory: loaded.factory,
            padding,
            batches: Batches::default(),
            lends: loaded.provider == "cpu" && loaded.predictable,
            max_answer_bytes: spec.max_answer_bytes,
        });
        let (reshapes, signature) = match &spec.said {
            Some(said) => Reshapes::new(&said.declared, &loaded.signature),
            None => (Reshapes::default(), loaded.signature.clone()),
        };
        let cache = config.response_cache_bytes;
        let mut model = Self {
            cache: (cache > 0).then(|| Arc::new(Cache::new(cache))),
            common,
            signature,
            engine_signature: loaded.signature,
            reshapes,
            said: spec.said,
            config,
            labels: spec.labels,
            provider: loaded.provider,
            provider_note: loaded.provider_note,
            nodes: loaded.nodes,
            memory_bytes: loaded.memory_bytes,
            watches: spec.seats.iter().map(Seat::watch).collect(),
            requests: Requests::default(),
            instances: Vec::new(),
            threads: Mutex::default(),
            farewell: Farewell::default(),
        };
        let mut seats = spec.seats.into_iter();
        for (number, engine) in engines.into_iter().enumerate() {
            let instance = Instance::new(Arc::clone(&model.common), engine, seats.next());
            let instance = Arc::new(Mutex::new(instance));
            model.instances.push(Arc::clone(&instance));
            let thread = std::thread::Builder::new().name(format!("{}-{number}", model.name()));
            let started = thread.spawn(move || Instance::work(&instance));
            let handle = started.map_err(|error| {
                format!("cannot start the thread of instance {number}: {error}")
            })?;
            model.threads.lock().push(handle);
        }
        Ok(model)
    }

    pub fn name(&self) -> &str {
        &self.common.model
    }

    pub fn version(&self) -> u64 {
        self.common.version
    }

    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// What the `config.pbtxt` of a Triton repository says of it, if it has one.
    pub fn said(&self) -> Option<&Understood> {
        self.said.as_ref()
    }

    /// Between the shapes that clients see and the engine's.
    pub fn reshapes(&self) -> &Reshapes {
        &self.reshapes
    }

    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// In front of the queue, where the configuration asks for one.
    pub fn cache(&self) -> Option<&Arc<Cache>> {
        self.cache.as_ref()
    }

    /// Where it really runs: "cpu", "cuda", "tensorrt" or "openvino".
    pub fn provider(&self) -> &str {
        self.provider
    }

    /// Why it does not run where the configuration would rather have it.
    pub fn provider_note(&self) -> Option<&str> {
        self.provider_note.as_deref()
    }

    /// Who has the nodes of its graph, as far as the engine can tell.
    pub fn nodes(&self) -> &[NodeShare] {
        &self.nodes
    }

    /// Queues a request that was checked against the signature. The ticket resolves to the answer; dropping it
    /// takes the request back. What is done in a moment may be run here, before this returns.
    ///
    /// A deadline is honoured while the request waits, and noticed when an instance looks at the queue: who
    /// must answer in time also watches the clock.
    ///
    /// # Errors
    /// `InvalidInput` (content that no engine takes), `QueueFull`, `DeadlineInQueue` (already over),
    /// `CannotMeetDeadline`, `Unavailable`.
    pub fn submit(&self, request: InferRequest, now: Instant) -> Result<Ticket, InferError> {
        let admitted = self.admit(request, now);
        let mut statistics = self.common.statistics.lock();
        statistics.submitted += 1;
        if let Err(error) = &admitted {
            statistics.refused.count(error);
            statistics.fail.add(Duration::ZERO);
        }
        drop(statistics);
        admitted
    }

    fn admit(&self, mut request: InferRequest, now: Instant) -> Result<Ticket, InferError> {
        for (index, tensor) in &mut request.inputs {
            let spec = self.engine_signature.inputs.get(*index);
            let spec = spec.ok_or_else(|| {
                InferError::InvalidInput(format!("the model has no input {index}"))
            })?;
            content::check(&spec.name, tensor).map_err(InferError::InvalidInput)?;
            self.reshapes.input(*index, tensor);
        }
        if request.deadline.is_some_and(|deadline| deadline <= now) {
            return Err(InferError::DeadlineInQueue(self.name().to_owned()));
        }
        let group = job::group(
            &self.engine_signature,
            self.common.padding.as_ref(),
            &request,
        );
        let (caller, answer) = oneshot::channel();
        let job = Job {
            number: self.common.lane.number(),
            priority: self.priority(request.priority),
            group,
            request,
            enqueued: now,
            reply: Reply::Caller(caller),
        };
        let pushed = self.common.lane.push(job, now);
        if let Some(Errand { instance, batch }) = pushed.errand
            && let Some(instance) = self.instances.get(instance)
        {
            instance.lock().run_errand(batch);
        }
        self.common.answer_dropped(pushed.dropped);
        match pushed.place {
            Ok(place) => Ok(Ticket::new(answer, Arc::clone(&self.common), place)),
            Err(Refusal::Full) => Err(InferError::QueueFull {
                model: self.name().to_owned(),
                limit: self.config.max_queue_size,
            }),
            Err(Refusal::Draining) => Err(InferError::Unavailable(self.name().to_owned())),
            Err(Refusal::TooLate(expected_wait)) => Err(InferError::CannotMeetDeadline {
                model: self.name().to_owned(),
                expected_wait,
            }),
        }
    }

    /// What a request means by its priority: none, and one that is not among the levels, is the default, as in
    /// Triton.
    fn priority(&self, named: u32) -> u32 {
        if (1..=self.config.priority_levels).contains(&named) {
            named
        } else {
            self.config.default_priority
        }
    }

    /// What became of the requests, as their callers see it.
    pub fn requests(&self) -> &Requests {
        &self.requests
    }

    /// Memory of the machine that its instances take now, in bytes. An estimate.
    pub fn memory_bytes(&self) -> u64 {
        (self.memory_bytes)()
    }

    /// Instances that are not in memory for want of room, and come back when they have something to run.
    pub fn unloaded_instances(&self) -> usize {
        let watches = self.watches.iter();
        watches.filter(|watch| !watch.in_memory()).count()
    }

    pub fn batches(&self) -> &Batches {
        &self.common.batches
    }

    /// Expected durations by weight of a row, those measured most first.
    pub fn learned(&self) -> Vec<Learned> {
        self.common.lane.learned()
    }

    /// Rows that wait, by priority.
    pub fn queued_by_priority(&self) -> BTreeMap<u32, usize> {
        self.common.lane.queued_by_priority()
    }

    pub fn statistics(&self) -> Statistics {
        let glance = self.common.lane.glance();
        let counted = self.common.statistics.lock().clone();
        Statistics {
            queued_requests: glance.requests,
            queued_rows: glance.rows,
            curve: glance.curve,
            best_size: glance.best_size,
            ..counted
        }
    }

    /// Refuses new requests, answers those that wait, and returns when all instances are gone. Blocks.
    pub fn shutdown(&self) {
        self.common.lane.drain();
        let threads = std::mem::take(&mut *self.threads.lock());
        join(self.name(), threads);
    }

    /// Dropping it calls this with its threads, and does not wait for them.
    pub fn at_end(&self, word: Word) {
        self.farewell.set(word);
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        self.common.lane.drain();
        let threads = std::mem::take(self.threads.get_mut());
        let threads = self.farewell.say(threads);
        join(self.name(), threads);
    }
}

impl std::fmt::Debug for Model {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Model")
            .field("name", &self.common.model)
            .field("version", &self.common.version)
            .field("provider", &self.provider)
            .finish_non_exhaustive()
    }
}

/// The padding that the configuration asks for. TensorRT pays for every new shape.
fn padding(config: &ModelConfig, loaded: &LoadedModel) -> Result<Option<Padding>, String> {
    let Some(padding) = &config.padding else {
        return Ok(None);
    };
    let extent = match loaded.provider {
        "tensorrt" => Extent::Bucket,
        _ => Extent::Longest,
    };
    Padding::new(padding, &loaded.signature, extent).map(Some)
}

/// The rules by which batches are formed.
fn rules(config: &ModelConfig, max_rows: usize) -> Rules {
    let preferred = config.preferred_batch_sizes.iter();
    Rules {
        max_rows,
        preferred: preferred.map(|size| *size as usize).collect(),
        max_delay: config.max_queue_delay,
        latency_target: config.latency_target,
        learn: config.learn_batch_size,
    }
}

/// Lets every engine run once per size and length, and the first one teach the durations.
fn warm_up(
    signature: &Signature,
    engines: &mut [Option<Box<dyn Engine>>],
    padding: Option<&Padding>,
    forming: &mut Forming,
) {
    let max_rows = forming.max_rows();
    let requests = warmup::synthetic_requests(signature, padding);
    let runs = u32::try_from(engines.len() * requests.len()).unwrap_or(u32::MAX);
    let share = WARM_UP / runs.max(1);
    for (number, engine) in engines.iter_mut().flatten().enumerate() {
        let mut deadline = Instant::now();
        for request in &requests {
            // Time that shorter ones did not need is for the longer ones.
            deadline += share;
            let WarmUp { samples, stackable } =
                warmup::warm_up(&mut **engine, request, max_rows, deadline);
            if !stackable {
                forming.stop_stacking();
            }
            let weight = job::weight(&job::group(signature, padding, request), request);
            for sample in samples.iter().filter(|_| number == 0) {
                // Twice, because a single sample is not trusted.
                forming.record(weight, sample.rows, sample.took);
                forming.record(weight, sample.rows, sample.took);
            }
        }
    }
}

#[cfg(test)]
mod tests;
