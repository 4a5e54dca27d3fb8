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
use crate::batch::job::{Job, Settled};
use crate::batch::lane::{Measured, Standing, Work};
use crate::batch::memory::Seat;
use crate::batch::outputs::{Failure, distribute, wanted_outputs};
use crate::batch::queue::Waiting;
use crate::batch::report::{BatchReport, RequestReport, Span};
use crate::batch::shared::{Common, send};
use crate::batch::statistics::Phases;
use crate::engine::{Engine, EngineError};
use crate::inference::{InferError, InferRequest, InferResponse, Origin, Tensor, Timing};

pub struct Instance {
    common: Arc<Common>,
    number: usize,
    /// None after it was lost, until the next batch; and while it is parked or unloaded.
    engine: Option<Box<dyn Engine>>,
    /// Where memory is bounded.
    seat: Option<Seat>,
    gather: Gather,
    reports: Vec<RequestReport>,
    /// What of a batch that failed is to be run again after what is run now, the next last.
    rest: Vec<Standing>,
}

impl Instance {
    /// `engine`: None if it is to be made when there is something to run.
    pub fn new(common: Arc<Common>, engine: Option<Box<dyn Engine>>, seat: Option<Seat>) -> Self {
        let number = common.lane.enlist();
        let interrupt = engine.as_ref().and_then(|engine| engine.interrupter());
        let ready = engine.is_some() && seat.is_none() && common.lends;
        common.lane.set_engine(number, interrupt, ready);
        Self {
            common,
            number,
            engine,
            seat,
            gather: Gather::default(),
            reports: Vec::new(),
            rest: Vec::new(),
        }
    }

    /// Works until the model shuts down and its queue is empty. While its thread waits for work, callers may use it.
    pub fn work(instance: &Mutex<Self>) {
        let common = Arc::clone(&instance.lock().common);
        let number = instance.lock().number;
        loop {
            instance.lock().park();
            let (work, dropped) = common.lane.take(number);
            let started = Instant::now();
            // Beyond the engine's own panics, which are answered, this keeps the thread alive.
            let survived = catch_unwind(AssertUnwindSafe(|| {
                common.answer_dropped(dropped);
                match work {
                    Work::Batch(jobs) => {
                        let mut own = instance.lock();
                        own.rest.clear();
                        own.unpark();
                        own.process(jobs, started);
                    }
                    Work::Nothing => {}
                    Work::Closed => {
                        instance.lock().leave();
                        return false;
                    }
                }
                true
            }));
            if matches!(survived, Ok(false)) {
                return;
            }
        }
    }

    /// Runs a batch on the caller's thread, for which the lane lent it the instance.
    pub fn run_errand(&mut self, jobs: Vec<Job>) {
        let started = Instant::now();
        // As in `work`; whoever is not answered is told that it was given up.
        let survived = catch_unwind(AssertUnwindSafe(|| {
            self.rest.clear();
            self.process(jobs, started);
        }));
        if survived.is_err() {
            tracing::error!(model = %self.common.model, instance = self.number, "a batch was given up");
        }
        self.common.lane.give_back(self.number, started.elapsed());
    }

    /// Runs the batch and answers everybody in it.
    fn process(&mut self, jobs: Vec<Job>, started: Instant) {
        let rows = jobs.iter().map(|job| job.request.rows).sum();
        if jobs.iter().all(Waiting::is_cancelled) {
            self.common.count_cancelled(jobs);
            return;
        }
        let (result, phases) = self.execute(&jobs, rows);
        self.prepare_reports(&jobs, started);
        match result {
            Ok(answers) => {
                self.succeed(jobs, answers, rows, started, &phases);
                self.report(rows, &phases, None);
            }
            Err(failure) => {
                self.report(rows, &phases, Some(&failure.to_string()));
                if let Failure::Lost(reason) = &failure {
                    tracing::error!(model = %self.common.model, instance = self.number, reason, "instance lost its engine");
                    self.engine = None;
                    self.common.lane.set_engine(self.number, None, false);
                }
                if jobs.iter().all(Waiting::is_cancelled) {
                    self.common.count_cancelled(jobs);
                } else {
                    self.recover(jobs, failure, started);
                }
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
                // Whoever leaves from here on interrupts the run.
                if jobs.iter().all(Waiting::is_cancelled) {
                    return Err(EngineError::Interrupted);
                }
                run_start = Instant::now();
                let results = engine.run(&inputs, &outputs);
                run_end = Some(Instant::now());
                results
            }));
            match guarded {
                Ok(Err(EngineError::Broken(reason))) => Err(Failure::Lost(reason)),
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

    /// Lets the engine go if others need its memory.
    fn park(&mut self) {
        if let Some(seat) = &self.seat {
            seat.park(self.engine.take());
        }
    }

    /// For good: the engine first, then the room that it took.
    fn leave(&mut self) {
        self.engine = None;
        self.seat = None;
    }

    fn unpark(&mut self) {
        if let Some(seat) = &self.seat {
            self.engine = seat.take();
        }
    }

    /// Makes the engine anew if it was lost or unloaded.
    fn engine(&mut self) -> Result<(), Failure> {
        if self.engine.is_none() {
            if let Some(seat) = &self.seat {
                seat.claim();
            }
            let made = (self.common.factory)(self.number);
            let made = made.map_err(|reason| {
                Failure::Lost(format!("the instance cannot be made anew: {reason}"))
            })?;
            let ready = self.seat.is_none() && self.common.lends;
            self.common
                .lane
                .set_engine(self.number, made.interrupter(), ready);
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
        let waste = self.common.padding.as_ref().map(|padding| {
            let requests = || jobs.iter().map(|job| &job.request);
            padding.waste(requests(), padding.extent(requests()))
        });
        if let Some(first) = jobs.first() {
            let (now, weight) = (Instant::now(), first.weight());
            let took = now.saturating_duration_since(phases.gather.start);
            let measured = Measured { weight, rows, took };
            self.common
                .lane
                .done(self.number, measured, &self.rest, now);
        }
        let mut finished = Vec::with_capacity(jobs.len());
        let mut again = Vec::new();
        let mut refused = Vec::new();
        let limit = self.common.max_answer_bytes;
        for (job, outputs) in jobs.into_iter().zip(answers) {
            let timing = Timing {
                queue: started.saturating_duration_since(job.enqueued),
                input: phases.gather.duration(),
                compute: phases.run.duration(),
                output: phases.scatter.duration(),
                batch_rows: rows,
            };
            let (enqueued, response) = (
                job.enqueued,
                InferResponse {
                    outputs,
                    timing,
                    origin: Origin::Run,
                },
            );
            match job.settle(response, limit) {
                Settled::Finished(request) => finished.push(request),
                Settled::Incomplete => {}
                Settled::TooLarge(caller, bytes) => refused.push((caller, bytes, enqueued)),
                Settled::Again(job) => again.push(job),
            }
        }
        let mut statistics = self.common.statistics.lock();
        let now = Instant::now();
        statistics.executed(rows, phases);
        if let Some(waste) = waste {
            statistics.padding.add(waste);
        }
        for request in &finished {
            let total = now.saturating_duration_since(request.enqueued);
            statistics.succeeded(total, &request.response.timing);
            statistics.split += u64::from(request.in_parts);
        }
        for (_, _, enqueued) in &refused {
            statistics
                .fail
                .add(now.saturating_duration_since(*enqueued));
        }
        statistics.answered_at(SystemTime::now());
        drop(statistics);
        for request in finished {
            send(request.caller, Ok(request.response));
        }
        for (caller, bytes, _) in refused {
            let error = InferError::AnswerTooLarge {
                model: self.common.model.to_string(),
                bytes,
                limit,
            };
            send(caller, Err(error));
        }
        for job in again {
            tracing::warn!(model = %self.common.model, rows = job.request.rows, "the answers of a request's parts do not fit together, it is run uncut");
            self.process(vec![job], started);
        }
    }

    /// Answers what cannot be helped and runs the rest again in smaller batches.
    fn recover(&mut self, jobs: Vec<Job>, failure: Failure, started: Instant) {
        match failure {
            Failure::NotByRow(reason) => {
                tracing::warn!(model = %self.common.model, reason, "rows are not independent, batching is off for this model");
                self.common.lane.stop_stacking();
                self.run_again(jobs.into_iter().map(|job| vec![job]).collect(), started);
            }
            Failure::NotByLength(reason) => {
                tracing::warn!(model = %self.common.model, reason, "outputs cannot be cut to length, padding is off for this model");
                if let Some(padding) = &self.common.padding {
                    padding.abandon();
                }
                self.run_again(jobs.into_iter().map(|job| vec![job]).collect(), started);
            }
            Failure::Engine(error) if jobs.len() == 1 => self.fail(jobs, |model| match &error {
                EngineError::InvalidInput(message) => InferError::InvalidInput(message.clone()),
                EngineError::Interrupted | EngineError::Broken(_) | EngineError::Failed(_) => {
                    InferError::Engine {
                        model: Arc::clone(model),
                        message: error.to_string(),
                    }
                }
            }),
            Failure::Engine(_) => {
                let mut first = jobs;
                let second = first.split_off(first.len() / 2);
                self.run_again(vec![first, second], started);
            }
            Failure::Lost(reason) => self.fail(jobs, |model| InferError::Engine {
                model: Arc::clone(model),
                message: reason.clone(),
            }),
        }
    }

    /// Runs a batch that failed in smaller ones. Until the last of them, the instance is known to be busy with what
    /// is left, which can be interrupted.
    fn run_again(&mut self, batches: Vec<Vec<Job>>, started: Instant) {
        for batch in batches.iter().rev() {
            self.rest.extend(batch.iter().map(|job| Standing {
                number: job.number,
                rows: job.request.rows,
            }));
        }
        for batch in batches {
            self.common.lane.carry_on(self.number, &self.rest);
            self.rest
                .truncate(self.rest.len().saturating_sub(batch.len()));
            self.process(batch, started);
        }
    }

    fn fail(&self, jobs: Vec<Job>, error: impl Fn(&Arc<str>) -> InferError) {
        let now = Instant::now();
        let mut statistics = self.common.statistics.lock();
        let mut callers = Vec::with_capacity(jobs.len());
        for job in jobs {
            let took = now.saturating_duration_since(job.enqueued);
            if let Some(caller) = job.give_up() {
                statistics.fail.add(took);
                callers.push(caller);
            }
        }
        statistics.answered_at(SystemTime::now());
        drop(statistics);
        for caller in callers {
            send(caller, Err(error(&self.common.model)));
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

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
