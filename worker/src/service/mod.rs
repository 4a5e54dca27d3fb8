//! What both transports answer from: inference and the documents of the Open Inference Protocol.
//!
//! gRPC (`grpc`) and REST (`crate::http`) only translate; every request goes through `Front`.

mod classification;
mod compress;
mod delivery;
pub mod documents;
mod error;
pub mod frame;
pub mod grpc;
mod guard;
pub mod health;
pub mod infer;
mod load_reports;
pub mod progress;
mod repository;
mod respond;
mod settings;
mod shared;
mod statistics;
mod stream;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub use error::Fault;
use error::{MAX_RETRY_DELAY, MIN_RETRY_DELAY};
use forebay_proto::inference::{ModelInferRequest, ModelInferResponse};
use forebay_proto::tensor;
pub use guard::Guard;
use opentelemetry::trace::SpanContext;
use tokio::sync::watch;

use self::infer::{Target, Tensors};
pub use self::progress::Progress;
use self::progress::Stage;
use self::respond::Answerer;
pub use self::shared::no_cuda;
use self::shared::{Bounds, Shared};
use crate::inference::{InferError, InferRequest, Origin};
use crate::load::Load;
use crate::model::Model;
use crate::repository::{Control, Registry};
use crate::served::Served;
use crate::server::Bodies;
use crate::shared_memory::Regions;
use crate::telemetry::Observer;
use crate::telemetry::logs::Logs;

/// Until the durations of a model are known, a full queue is taken to need this long to become half empty.
const UNKNOWN_RETRY_DELAY: Duration = Duration::from_millis(100);

/// The models, and what every answer needs besides.
#[derive(Debug)]
pub struct Front {
    pub registry: Arc<Registry>,
    pub control: Control,
    pub regions: Regions,
    pub guard: Guard,
    pub logs: Logs,
    pub observer: Observer,
    pub load: Arc<Load>,
    /// Of one message, both ways.
    pub max_message_bytes: usize,
    /// Of all requests together.
    pub bodies: Bodies,
    /// Turns true once, when the process begins to drain.
    pub drain: watch::Receiver<bool>,
}

/// When a request came, and what its transport said about it.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    pub at: Instant,
    /// The caller's patience, counted from `at`.
    pub timeout: Option<Duration>,
}

impl Front {
    /// Whether inference may be sent here: every model that should be served is, and the end is not near.
    pub fn ready(&self) -> bool {
        !self.draining() && self.registry.ready()
    }

    pub fn model_ready(&self, name: &str, version: &str) -> bool {
        !self.draining() && self.registry.get(name, version).is_ok()
    }

    pub fn draining(&self) -> bool {
        *self.drain.borrow()
    }

    pub fn model(&self, name: &str, version: &str) -> Result<Arc<Served>, Fault> {
        Ok(self.registry.get(name, version)?)
    }

    /// One inference, from the message to the message. `progress` says afterwards how far it got.
    pub async fn infer(
        &self,
        message: ModelInferRequest,
        arrival: Arrival,
        progress: &mut Progress,
    ) -> Result<ModelInferResponse, Fault> {
        let model = self
            .model(&message.model_name, &message.model_version)
            .inspect_err(|_| self.load.count(false))?;
        progress.model = Some(Arc::clone(&model));
        let first = message.inputs.first();
        let rows = tensor::rows(first.map_or(&[], |input| &input.shape));
        progress.presence = Some(self.load.enter(rows));
        let trace = progress.span.as_mut().map(|span| {
            span.set("forebay.model.name", model.name().to_owned());
            span.set("forebay.model.version", model.version().to_string());
            span.context()
        });
        let underway = model.requests().begin(arrival.at);
        let answer = async {
            let bounds = Bounds {
                model: model.name(),
                signature: model.signature(),
                limit: self.max_message_bytes,
            };
            let shared = Shared::of(&message, &self.regions, bounds).await?;
            let asked = Asked {
                message,
                shared,
                arrival,
                trace,
                limit: self.max_message_bytes,
            };
            ask(&model, asked, progress).await
        }
        .await;
        let failed = answer.as_ref().is_err_and(Fault::is_ours);
        self.load.count(failed);
        match &answer {
            Ok(_) => underway.answered(Instant::now()),
            Err(fault) => underway.failed(fault.reason()),
        }
        answer
    }
}

/// A request as it came, for a model that is known.
struct Asked {
    message: ModelInferRequest,
    shared: Shared,
    arrival: Arrival,
    trace: Option<SpanContext>,
    /// Bytes of an answer at most.
    limit: usize,
}

async fn ask(
    model: &Arc<Served>,
    asked: Asked,
    progress: &mut Progress,
) -> Result<ModelInferResponse, Fault> {
    let Asked {
        mut message,
        shared,
        arrival,
        trace,
        limit,
    } = asked;
    let target = Target {
        model: model.name(),
        signature: model.signature(),
        max_rows: model.request_limit(),
        shared: &shared,
    };
    let named = infer::timeout(&message.parameters)?;
    let deadline = deadline(&arrival, named, model.default_timeout());
    let priority = infer::priority(&message.parameters)?;
    let Tensors {
        inputs,
        outputs,
        deliveries,
        rows,
    } = infer::tensors(target, &mut message)?;
    let now = Instant::now();
    if deadline.is_some_and(|deadline| deadline <= now) {
        return Err(Fault::DeadlineExceeded(format!(
            "deadline passed before the request for model '{}' was queued",
            model.name()
        )));
    }
    let request = InferRequest {
        inputs,
        outputs,
        rows,
        deadline,
        priority,
        trace,
    };
    let refused = |error: InferError| Fault::from_model(error, || retry_delay(model));
    progress.stage = Stage::Executing;
    let answer = model.infer(request, now);
    let answer = match deadline {
        None => answer.await,
        Some(deadline) => tokio::time::timeout_at(deadline.into(), answer)
            .await
            .map_err(|_| {
                Fault::DeadlineExceeded(format!(
                    "deadline passed before model '{}' answered",
                    model.name()
                ))
            })?,
    };
    let answer = answer.map_err(|error| {
        progress.stage = Stage::from(&error);
        refused(error)
    })?;
    progress.stage = Stage::Done;
    // An answer out of the cache took no time, and an ensemble's is spread over its steps.
    progress.timing = Some(answer.timing).filter(|timing| !timing.compute.is_zero());
    if let Some(span) = &mut progress.span
        && model.cache().is_some()
    {
        span.set("forebay.cache", cache_word(answer.origin));
    }
    let answerer = Answerer {
        version: model.version(),
        signature: model.signature(),
        labels: model.model().map(Model::labels),
        limit,
    };
    respond::respond(
        answerer,
        message,
        answer.outputs.into_iter().zip(deliveries),
    )
    .await
}

/// How a trace calls what the response cache did.
fn cache_word(origin: Origin) -> &'static str {
    match origin {
        Origin::Run => "miss",
        Origin::Joined => "joined",
        Origin::Kept => "hit",
    }
}

/// The earlier of what the transport and the parameter `timeout` (microseconds) say; without either the
/// model's default.
fn deadline(
    arrival: &Arrival,
    parameter: Option<u64>,
    default: Option<Duration>,
) -> Option<Instant> {
    let named = [arrival.timeout, parameter.map(Duration::from_micros)];
    let timeout = named.into_iter().flatten().min().or(default)?;
    arrival.at.checked_add(timeout)
}

/// When a queue that is full now is likely to be half empty.
fn retry_delay(model: &Served) -> Duration {
    let statistics = model.statistics();
    let best = statistics.best_size.max(1);
    let known = statistics.curve.iter().find(|(rows, _)| *rows >= best);
    let Some((rows, duration)) = known.filter(|(rows, _)| *rows > 0) else {
        return UNKNOWN_RETRY_DELAY;
    };
    let batches = statistics.queued_rows.div_ceil(2 * rows);
    let batches = u32::try_from(batches).unwrap_or(u32::MAX);
    duration
        .saturating_mul(batches)
        .clamp(MIN_RETRY_DELAY, MAX_RETRY_DELAY)
}

#[cfg(test)]
mod tests;
