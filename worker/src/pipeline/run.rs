//! One request on its way through the steps.
//!
//! A step begins as soon as what it takes is there, so branches run at the same time. Models are asked
//! through their own queues. Everything runs within the caller's future: dropping it takes back what waits.

use std::sync::Arc;
use std::time::Instant;

use futures::stream::{FuturesUnordered, StreamExt};

use super::Ensemble;
use super::apart;
use super::ask::{self, Inherited, Misfit};
use super::cpu::Cpu;
use super::step::{self, Input, StepError, Transform};
use crate::engine::content;
use crate::inference::{InferError, InferRequest, Tensor};
use crate::served::Served;
use crate::telemetry::spans::ServerSpan;

/// What answers a step.
enum Doer {
    Model(Arc<Served>),
    BuiltIn(Arc<dyn Transform>),
}

/// A step that has all that it takes.
struct Ready {
    number: usize,
    inputs: Vec<Input>,
    /// Its own names of what is wanted, and the tensors that they become.
    ports: Vec<String>,
    makes: Vec<usize>,
}

impl Ensemble {
    /// The tensors that `request` asks for, in its order.
    pub(super) async fn run(&self, request: InferRequest) -> Result<Vec<Tensor>, InferError> {
        let flow = &self.config.flow;
        let asked: Vec<usize> = request
            .outputs
            .iter()
            .map(|output| flow.outputs[*output])
            .collect();
        for (input, tensor) in &request.inputs {
            let name = &self.signature.inputs[*input].name;
            content::shape(name, &tensor.shape).map_err(InferError::InvalidInput)?;
        }
        let needed = flow.needed(&asked);
        let mut doers = Vec::with_capacity(flow.steps.len());
        for (number, needed) in needed.iter().enumerate() {
            doers.push(needed.then(|| self.doer(number)).transpose()?);
        }
        let mut wanted = vec![false; flow.tensors.len()];
        asked.iter().for_each(|tensor| wanted[*tensor] = true);
        let used = flow
            .steps
            .iter()
            .zip(&needed)
            .filter(|(_, needed)| **needed);
        for (_, tensor) in used.flat_map(|(wiring, _)| &wiring.takes) {
            wanted[*tensor] = true;
        }
        let mut tensors: Vec<Option<Tensor>> = vec![None; flow.tensors.len()];
        let mut there = vec![false; flow.tensors.len()];
        // An input that may be left out is there, too: as nothing.
        flow.inputs.iter().for_each(|tensor| there[*tensor] = true);
        for (input, tensor) in request.inputs {
            tensors[flow.inputs[input]] = Some(tensor);
        }
        let inherited = Inherited {
            deadline: request.deadline,
            priority: request.priority,
            trace: request.trace,
        };
        let mut running = FuturesUnordered::new();
        // Built-in steps leave nothing behind: a request that only they had can be repeated anywhere.
        let mut asked_models = 0usize;
        loop {
            for (number, (step, slot)) in flow.steps.iter().zip(&mut doers).enumerate() {
                if slot.is_some()
                    && step.takes.iter().all(|(_, tensor)| there[*tensor])
                    && let Some(doer) = slot.take()
                {
                    asked_models += usize::from(matches!(doer, Doer::Model(_)));
                    let ready = self.prepare(number, &tensors, &wanted);
                    running.push(self.step(ready, doer, inherited.clone()));
                }
            }
            let Some(done) = running.next().await else {
                break;
            };
            let done = done.map_err(|error| match &error {
                // How far the others got that were asked, nobody knows.
                InferError::QueueFull { .. }
                | InferError::DeadlineInQueue(_)
                | InferError::CannotMeetDeadline { .. }
                | InferError::StepNotReady { .. }
                    if asked_models > 1 =>
                {
                    InferError::Begun(Box::new(error))
                }
                _ => error,
            });
            for (tensor, made) in done? {
                tensors[tensor] = Some(made);
                there[tensor] = true;
            }
        }
        let answer = asked
            .iter()
            .map(|tensor| tensors[*tensor].clone())
            .collect::<Option<_>>();
        answer.ok_or_else(|| self.failed("it made not all that was asked for".to_owned()))
    }

    /// Looked up before anything runs: an ensemble with a model that is not there does nothing at all.
    fn doer(&self, number: usize) -> Result<Doer, InferError> {
        let step = &self.steps[number];
        if let Some(transform) = &step.transform {
            return Ok(Doer::BuiltIn(Arc::clone(transform)));
        }
        let found = self
            .models
            .upgrade()
            .ok_or_else(|| "the worker ends".to_owned());
        let found = found.and_then(|models| models.find(&step.model, step.version));
        found
            .map(Doer::Model)
            .map_err(|reason| InferError::StepNotReady {
                ensemble: self.name.to_string(),
                step: step.label.clone(),
                reason,
            })
    }

    fn prepare(&self, number: usize, tensors: &[Option<Tensor>], wanted: &[bool]) -> Ready {
        let flow = &self.config.flow;
        let wiring = &flow.steps[number];
        let input = |(port, tensor): &(String, usize)| {
            Some(Input {
                port: port.clone(),
                name: flow.tensors[*tensor].clone(),
                tensor: tensors[*tensor].clone()?,
                first_row: 0,
            })
        };
        let made = wiring.makes.iter().filter(|(_, tensor)| wanted[*tensor]);
        let (ports, makes) = made.cloned().unzip();
        Ready {
            number,
            inputs: wiring.takes.iter().filter_map(input).collect(),
            ports,
            makes,
        }
    }

    async fn step(
        &self,
        ready: Ready,
        doer: Doer,
        mut inherited: Inherited,
    ) -> Result<Vec<(usize, Tensor)>, InferError> {
        let step = &self.steps[ready.number];
        let request = inherited.trace.as_ref();
        let mut span = request.and_then(|request| self.tracing.step(&step.span, request));
        if let Some(span) = &mut span {
            span.set("forebay.step", step.label.clone());
            inherited.trace = Some(span.context());
        }
        let makes = ready.makes.clone();
        let made = match doer {
            Doer::Model(served) => self.ask(served, ready, inherited).await,
            Doer::BuiltIn(transform) => self.transform(transform, ready).await,
        };
        end(span, made.as_ref().err());
        Ok(makes.into_iter().zip(made?).collect())
    }

    async fn ask(
        &self,
        served: Arc<Served>,
        ready: Ready,
        inherited: Inherited,
    ) -> Result<Vec<Tensor>, InferError> {
        let label = &self.steps[ready.number].label;
        let request = ask::request(&served, &ready.inputs, &ready.ports, inherited);
        let request = request.map_err(|misfit| match misfit {
            Misfit::Tensor(what) => InferError::InvalidInput(format!("{label}: {what}")),
            Misfit::Model(what) => self.failed(format!("{label}: {what}")),
        })?;
        let answer = served.infer(request, Instant::now()).await;
        answer
            .map(|answer| answer.outputs)
            .map_err(|error| match error {
                InferError::InvalidInput(what) => {
                    InferError::InvalidInput(format!("{label}: {what}"))
                }
                InferError::Engine { .. } => self.failed(format!("{label}: {error}")),
                InferError::Unavailable(_) => InferError::StepNotReady {
                    ensemble: self.name.to_string(),
                    step: label.clone(),
                    reason: error.to_string(),
                },
                // These say which model it was.
                error => error,
            })
    }

    async fn transform(
        &self,
        transform: Arc<dyn Transform>,
        ready: Ready,
    ) -> Result<Vec<Tensor>, InferError> {
        let label = &self.steps[ready.number].label;
        let told = |error| match error {
            StepError::Invalid(what) => InferError::InvalidInput(format!("{label}: {what}")),
            StepError::Failed(what) => self.failed(format!("{label}: {what}")),
        };
        let Ready { inputs, ports, .. } = ready;
        step::check(&*transform, &inputs, &ports).map_err(told)?;
        let made = if transform.quick(&inputs) {
            Cpu::run_here(|| transform.run(&inputs, &ports))
        } else if transform.apart() {
            apart::run(&self.cpu, &transform, &inputs, &ports).await
        } else {
            self.cpu.run(move || transform.run(&inputs, &ports)).await
        };
        let made = made.ok_or_else(|| self.failed(format!("{label} panicked")))?;
        made.map_err(told)
    }

    fn failed(&self, message: String) -> InferError {
        InferError::Engine {
            model: Arc::clone(&self.name),
            message,
        }
    }
}

fn end(span: Option<ServerSpan>, error: Option<&InferError>) {
    if let Some(span) = span {
        span.end(error.map(InferError::to_string));
    }
}
