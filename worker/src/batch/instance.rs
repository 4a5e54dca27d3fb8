//! One instance of a model: an OS thread that owns an engine, takes batches and answers them.
//!
//! No async runtime here: a run blocks the thread for as long as it takes. Whatever the engine does, every
//! request is answered: a failing batch is split until the request at fault is alone with its error, and a
//! panic costs the engine, which is made anew, but not the thread.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use parking_lot::Mutex;

use crate::batch::gather::{Fill, Gather};
use crate::batch::job::Job;
use crate::batch::lane::{DroppedJobs, Lane, Work};
use crate::batch::padding::Padding;
use crate::batch::queue::{Dropped, Group};
use crate::batch::report::{BatchObserver, BatchReport, RequestReport, Span};
use crate::batch::scatter::{scatter, shorten};
use crate::batch::statistics::{Phases, Statistics};
use crate::engine::{Engine, EngineError, EngineFactory};
use crate::inference::{InferError, InferRequest, InferResponse, Origin, Tensor, Timing};
use crate::measure::Batches;

/// What the instances of one model share.
pub struct Common {
    pub model: Arc<str>,
    pub version: u64,
    pub lane: Lane,
    pub statistics: Mutex<Statistics>,
    pub observer: Arc<dyn BatchObserver>,
    pub factory: EngineFactory,
    pub padding: Option<Padding>,
    pub batches: Batches,
}

impl Common {
    /// Answers requests that left the queue without being run.
    pub fn answer_dropped(&self, dropped: DroppedJobs) {
        if dropped.is_empty() {
            return;
        }
        let mut statistics = self.statistics.lock();
        for (job, reason) in &dropped {
            match reason {
                Dropped::Cancelled => statistics.cancelled += 1,
                Dropped::Expired => statistics.fail.add(job.enqueued.elapsed()),
            }
        }
        drop(statistics);
        for (job, reason) in dropped {
            if reason == Dropped::Expired {
                send(
                    job,
                    Err(InferError::DeadlineInQueue(self.model.to_string())),
                );
            }
        }
    }
}

pub struct Instance {
    common: Arc<Common>,
    number: usize,
    /// None after a panic, until the next batch.
    engine: Option<Box<dyn Engine>>,
    gather: Gather,
    reports: Vec<RequestReport>,
}

/// Why a batch has no outputs.
enum Failure {
    Engine(EngineError),
    /// The engine is gone.
    Lost(String),
    /// Rows must not be stacked.
    NotByRow(String),
    /// An output to be cut to length does not have the length of the inputs.
    NotByLength(String),
}

impl Instance {
    pub fn new(common: Arc<Common>, number: usize, engine: Box<dyn Engine>) -> Self {
        Self {
            common,
            number,
            engine: Some(engine),
            gather: Gather::default(),
            reports: Vec::new(),
        }
    }

    /// Works until the model shuts down and its queue is empty.
    pub fn work(mut self) {
        loop {
            let (work, dropped) = self.common.lane.take();
            let started = Instant::now();
            // Beyond the engine's own panics, which are answered, this keeps the thread alive.
            let survived = catch_unwind(AssertUnwindSafe(|| {
                self.common.answer_dropped(dropped);
                match work {
                    Work::Batch(jobs) => self.process(jobs, started),
                    Work::Nothing => {}
                    Work::Closed => return false,
                }
                true
            }));
            if matches!(survived, Ok(false)) {
                return;
            }
        }
    }

    /// Runs the batch and answers everybody in it.
    fn process(&mut self, jobs: Vec<Job>, started: Instant) {
        let rows = jobs.iter().map(|job| job.request.rows).sum();
        let (result, phases) = self.execute(&jobs, rows);
        self.prepare_reports(&jobs, started);
        match result {
            Ok(answers) => {
                self.succeed(jobs, answers, rows, started, &phases);
                self.report(rows, &phases, None);
            }
            Err(failure) => {
                let error = match &failure {
                    Failure::Engine(error) => error.to_string(),
                    Failure::Lost(reason)
                    | Failure::NotByRow(reason)
                    | Failure::NotByLength(reason) => reason.clone(),
                };
                self.report(rows, &phases, Some(&error));
                self.recover(jobs, failure, started);
            }
        }
    }

    /// Gather, run, scatter. On failure the phases that were not reached are empty.
    fn execute(
        &mut self,
        jobs: &[Job],
        rows: usize,
    ) -> (Result<Vec<Vec<Tensor>>, Failure>, Phases) {
        let outputs = wanted_outputs(jobs);
        let common = Arc::clone(&self.common);
        let fill = common.padding.as_ref().and_then(|padding| {
            let length = padding.extent(jobs.iter().map(|job| &job.request))?;
            Some(Fill { padding, length })
        });
        let gather_start = Instant::now();
        let mut run_start = gather_start;
        let mut run_end = None;
        let result = self.engine().and_then(|()| {
            let (engine, gather) = (&mut self.engine, &mut self.gather);
            let guarded = catch_unwind(AssertUnwindSafe(|| {
                let Some(engine) = engine else {
                    return Err(EngineError::Failed("the instance has no engine".to_owned()));
                };
                let requests: Vec<&InferRequest> = jobs.iter().map(|job| &job.request).collect();
                let inputs = gather.gather(&requests, rows, fill);
                run_start = Instant::now();
                let results = engine.run(&inputs, &outputs);
                run_end = Some(Instant::now());
                results
            }));
            match guarded {
                Ok(results) => results.map_err(Failure::Engine),
                Err(panic) => Err(Failure::Lost(format!(
                    "the engine panicked: {}",
                    panic_text(&*panic)
                ))),
            }
        });
        let run_end = run_end.unwrap_or_else(Instant::now);
        let result = result.and_then(|results| distribute(jobs, &outputs, results, fill));
        let phases = Phases {
            gather: Span {
                start: gather_start,
                end: run_start,
            },
            run: Span {
                start: run_start,
                end: run_end,
            },
            scatter: Span {
                start: run_end,
                end: Instant::now(),
            },
        };
        (result, phases)
    }

    /// Makes the engine anew if it was lost.
    fn engine(&mut self) -> Result<(), Failure> {
        if self.engine.is_none() {
            let made = (self.common.factory)(self.number);
            let made = made.map_err(|reason| {
                Failure::Lost(format!("the instance cannot be made anew: {reason}"))
            })?;
            self.engine = Some(made);
        }
        Ok(())
    }

    fn succeed(
        &mut self,
        jobs: Vec<Job>,
        answers: Vec<Vec<Tensor>>,
        rows: usize,
        started: Instant,
        phases: &Phases,
    ) {
        let mut statistics = self.common.statistics.lock();
        let now = Instant::now();
        statistics.executed(rows, phases);
        if let Some(padding) = &self.common.padding {
            let requests = || jobs.iter().map(|job| &job.request);
            statistics
                .padding
                .add(padding.waste(requests(), padding.extent(requests())));
        }
        for job in &jobs {
            let queue = started.saturating_duration_since(job.enqueued);
            let total = now.saturating_duration_since(job.enqueued);
            statistics.succeeded(job.request.rows, queue, total, phases);
        }
        statistics.answered_at(SystemTime::now());
        drop(statistics);

        let weight = jobs.first().and_then(|job| match &job.group {
            Group::Shape { row_bytes, .. } => Some(*row_bytes),
            Group::Alone => None,
        });
        for (job, outputs) in jobs.into_iter().zip(answers) {
            let timing = Timing {
                queue: started.saturating_duration_since(job.enqueued),
                input: phases.gather.duration(),
                compute: phases.run.duration(),
                output: phases.scatter.duration(),
                batch_rows: rows,
            };
            send(
                job,
                Ok(InferResponse {
                    outputs,
                    timing,
                    origin: Origin::Run,
                }),
            );
        }
        if let Some(row_bytes) = weight {
            self.common
                .lane
                .record(row_bytes, rows, phases.gather.start.elapsed());
        }
    }

    /// Answers what cannot be helped and runs the rest again in smaller batches.
    fn recover(&mut self, jobs: Vec<Job>, failure: Failure, started: Instant) {
        match failure {
            Failure::NotByRow(reason) => {
                tracing::warn!(model = %self.common.model, reason, "rows are not independent, batching is off for this model");
                self.common.lane.stop_stacking();
                for job in jobs {
                    self.process(vec![job], started);
                }
            }
            Failure::NotByLength(reason) => {
                tracing::warn!(model = %self.common.model, reason, "outputs cannot be cut to length, padding is off for this model");
                if let Some(padding) = &self.common.padding {
                    padding.abandon();
                }
                for job in jobs {
                    self.process(vec![job], started);
                }
            }
            Failure::Engine(error) if jobs.len() == 1 => self.fail(jobs, |model| match &error {
                EngineError::InvalidInput(message) => InferError::InvalidInput(message.clone()),
                EngineError::Interrupted | EngineError::Failed(_) => InferError::Engine {
                    model: Arc::clone(model),
                    message: error.to_string(),
                },
            }),
            Failure::Engine(_) => {
                let mut first = jobs;
                let second = first.split_off(first.len() / 2);
                self.process(first, started);
                self.process(second, started);
            }
            Failure::Lost(reason) => {
                tracing::error!(model = %self.common.model, instance = self.number, reason, "instance lost its engine");
                self.engine = None;
                self.fail(jobs, |model| InferError::Engine {
                    model: Arc::clone(model),
                    message: reason.clone(),
                });
            }
        }
    }

    fn fail(&self, jobs: Vec<Job>, error: impl Fn(&Arc<str>) -> InferError) {
        let mut statistics = self.common.statistics.lock();
        for job in &jobs {
            statistics.fail.add(job.enqueued.elapsed());
        }
        statistics.answered_at(SystemTime::now());
        drop(statistics);
        for job in jobs {
            send(job, Err(error(&self.common.model)));
        }
    }

    fn prepare_reports(&mut self, jobs: &[Job], started: Instant) {
        self.reports.clear();
        self.reports.extend(jobs.iter().map(|job| RequestReport {
            trace: job.request.trace.clone(),
            rows: job.request.rows,
            enqueued: job.enqueued,
            started,
        }));
    }

    fn report(&self, rows: usize, phases: &Phases, error: Option<&str>) {
        let report = BatchReport {
            model: &self.common.model,
            version: self.common.version,
            instance: self.number,
            rows,
            gather: phases.gather,
            run: phases.run,
            scatter: phases.scatter,
            error,
            any_traced: self.reports.iter().any(|request| request.trace.is_some()),
            requests: &self.reports,
        };
        self.common.batches.record(&report);
        self.common.observer.batch_done(report);
    }
}

/// What at least one request asked for, ascending.
fn wanted_outputs(jobs: &[Job]) -> Vec<usize> {
    let mut wanted: Vec<usize> = Vec::new();
    for job in jobs {
        if job.request.outputs != wanted {
            wanted.extend_from_slice(&job.request.outputs);
            wanted.sort_unstable();
            wanted.dedup();
        }
    }
    wanted
}

/// To every request its rows of the outputs it asked for, in its order.
fn distribute(
    jobs: &[Job],
    outputs: &[usize],
    results: Vec<Tensor>,
    fill: Option<Fill<'_>>,
) -> Result<Vec<Vec<Tensor>>, Failure> {
    let answers = match jobs {
        [_] => vec![results],
        _ => {
            let rows: Vec<usize> = jobs.iter().map(|job| job.request.rows).collect();
            scatter(&results, &rows).map_err(|error| Failure::NotByRow(error.to_string()))?
        }
    };
    let pick = |(job, answer): (&Job, Vec<Tensor>)| {
        if job.request.outputs == outputs {
            return Some(answer);
        }
        let position = |output| outputs.binary_search(output).ok();
        let wanted = job.request.outputs.iter();
        wanted
            .map(|output| answer.get(position(output)?).cloned())
            .collect()
    };
    let picked: Option<Vec<Vec<Tensor>>> = jobs.iter().zip(answers).map(pick).collect();
    let mut picked = picked.ok_or_else(|| {
        Failure::Engine(EngineError::Failed(
            "the engine gave fewer outputs than asked for".to_owned(),
        ))
    })?;
    if let Some(fill) = fill {
        for (job, answer) in jobs.iter().zip(&mut picked) {
            cut_to_length(&job.request, answer, fill)?;
        }
    }
    Ok(picked)
}

/// Gives an answer out of a filled up batch the length of its request.
fn cut_to_length(
    request: &InferRequest,
    answer: &mut [Tensor],
    fill: Fill<'_>,
) -> Result<(), Failure> {
    let own = fill.padding.length(request).unwrap_or(fill.length);
    for (output, tensor) in request.outputs.iter().zip(answer) {
        if own == fill.length || !fill.padding.cuts(*output) {
            continue;
        }
        *tensor = shorten(tensor, fill.length, own).ok_or_else(|| {
            Failure::NotByLength(format!(
                "output {output} has shape {:?} for inputs of length {}",
                tensor.shape, fill.length
            ))
        })?;
    }
    Ok(())
}

/// The caller may be gone; then nobody minds.
fn send(job: Job, answer: Result<InferResponse, InferError>) {
    let _ = job.reply.send(answer);
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
