//! A model file as ONNX Runtime sessions: one per instance.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use forebay_config::worker::Provider;
use ort::ErrorCode;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{OutputSelector, RunOptions, Session, SessionInputValue};

use crate::engine::onnx::interrupt::{SharedOptions, Termination};
use crate::engine::onnx::library::Runtime;
use crate::engine::onnx::providers::Placement;
use crate::engine::onnx::{signature, values};
use crate::engine::{BoundTensor, Engine, EngineError, Interrupt, LoadedModel};
use crate::inference::Tensor;

/// How the sessions of one model are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionOptions {
    /// Intra-op threads of each session, at least 1.
    pub threads: usize,
    pub provider: Provider,
}

/// Reads the model and makes its first session.
///
/// # Errors
/// The file cannot be loaded, the provider cannot run it, or its signature is not one of plain tensors. One line.
pub fn load_model(
    runtime: &Runtime,
    path: &Path,
    options: SessionOptions,
) -> Result<LoadedModel, String> {
    let mut note = None;
    let mut refusal = String::new();
    for placement in Placement::order(options.provider) {
        match build(runtime, path, options.threads, *placement) {
            Ok(session) => {
                return loaded(runtime, path, options.threads, *placement, session, note);
            }
            Err(reason) if *placement == Placement::Cpu => refusal = reason,
            Err(reason) => {
                refusal = format!("provider '{}' cannot run it: {reason}", placement.name());
                note = Some(format!("provider 'auto' fell back to cpu: {reason}"));
            }
        }
    }
    Err(refusal)
}

fn loaded(
    runtime: &Runtime,
    path: &Path,
    threads: usize,
    placement: Placement,
    session: Session,
    provider_note: Option<String>,
) -> Result<LoadedModel, String> {
    let signature = signature::read(&session)?;
    let (runtime, path): (Runtime, PathBuf) = (runtime.clone(), path.to_path_buf());
    Ok(LoadedModel {
        signature,
        provider: placement.name(),
        provider_note,
        first: Box::new(Onnx::new(session)?),
        factory: Arc::new(move || {
            let session = build(&runtime, &path, threads, placement)?;
            Ok(Box::new(Onnx::new(session)?))
        }),
    })
}

fn build(
    runtime: &Runtime,
    path: &Path,
    threads: usize,
    placement: Placement,
) -> Result<Session, String> {
    let builder = plain(runtime, threads).map_err(|error| one_line(&error))?;
    let mut builder = placement
        .register(builder)
        .map_err(|error| one_line(&error))?;
    builder
        .commit_from_file(path)
        .map_err(|error| one_line(&error))
}

/// The runtime's words in the form of ours.
fn one_line(error: &ort::Error) -> String {
    let text = error.to_string();
    let words: Vec<&str> = text.trim_end_matches('.').split_whitespace().collect();
    words.join(" ")
}

fn plain(runtime: &Runtime, threads: usize) -> ort::Result<SessionBuilder> {
    Ok(Session::builder(&runtime.environment)?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(threads.max(1))?
        .with_inter_threads(1)?
        .with_intra_op_spinning(false)?
        .with_memory_pattern(false)?)
}

/// One session.
struct Onnx {
    session: Session,
    inputs: Vec<String>,
    outputs: Vec<String>,
    /// What the last run computed, kept because most runs ask for the same.
    selected: Vec<usize>,
    options: Arc<SharedOptions>,
    termination: Arc<Termination>,
}

impl Onnx {
    fn new(session: Session) -> Result<Self, String> {
        let initializers = session.overridable_initializers();
        let names = session.inputs().iter().map(|input| input.name());
        let defaults = initializers.iter().map(|initializer| initializer.name());
        let inputs = names.chain(defaults).map(str::to_owned).collect();
        let outputs: Vec<String> = session
            .outputs()
            .iter()
            .map(|output| output.name().to_owned())
            .collect();
        let selected: Vec<usize> = (0..outputs.len()).collect();
        Ok(Self {
            options: select(&outputs, &selected)?,
            session,
            inputs,
            outputs,
            selected,
            termination: Arc::default(),
        })
    }
}

fn select(names: &[String], outputs: &[usize]) -> Result<Arc<SharedOptions>, String> {
    let mut selector = OutputSelector::no_default();
    for output in outputs {
        let name = names.get(*output);
        selector = selector.with(name.ok_or_else(|| format!("the model has no output {output}"))?);
    }
    let options = RunOptions::new().map_err(|error| error.to_string())?;
    Ok(SharedOptions::new(options.with_outputs(selector)))
}

impl Engine for Onnx {
    fn run(
        &mut self,
        inputs: &[BoundTensor<'_>],
        outputs: &[usize],
    ) -> Result<Vec<Tensor>, EngineError> {
        if self.selected != outputs {
            self.options = select(&self.outputs, outputs).map_err(EngineError::Failed)?;
            self.selected = outputs.to_vec();
        }
        let mut feed: Vec<(Cow<'_, str>, SessionInputValue<'_>)> = Vec::with_capacity(inputs.len());
        for tensor in inputs {
            let name = self.inputs.get(tensor.input);
            let name = name.ok_or_else(|| {
                EngineError::Failed(format!("the model has no input {}", tensor.input))
            })?;
            feed.push((Cow::Borrowed(name), values::bind(tensor)?));
        }
        let running = self.termination.run(&self.options);
        let answers = self
            .session
            .run_with_options(feed, self.options.get())
            .map_err(classify)
            .and_then(|results| {
                let values = results.into_iter();
                values.map(|(_, value)| values::take(&value)).collect()
            });
        if !running.end() {
            return answers;
        }
        self.options = select(&self.outputs, &self.selected).map_err(EngineError::Failed)?;
        answers.map_err(|_| EngineError::Interrupted)
    }

    fn interrupter(&self) -> Option<Arc<dyn Interrupt>> {
        Some(Arc::<Termination>::clone(&self.termination))
    }
}

/// Whose fault a failed run is. Kernels report values that they cannot compute (an index out of range, shapes
/// that do not broadcast) under the same codes as faults of their own, so their words decide.
fn classify(error: ort::Error) -> EngineError {
    const CALLERS_FAULT: [&str; 8] = [
        "out of bounds",
        "out of range",
        "must be within",
        "Got invalid dimensions",
        "Invalid rank",
        "broadcast",
        "cannot be reshaped",
        "dimension mismatch",
    ];
    let text = error.to_string();
    if error.code() == ErrorCode::InvalidArgument
        || CALLERS_FAULT.iter().any(|words| text.contains(words))
    {
        EngineError::InvalidInput(text)
    } else {
        EngineError::Failed(text)
    }
}
