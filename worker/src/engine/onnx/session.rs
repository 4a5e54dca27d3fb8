//! A model file as ONNX Runtime sessions: one per instance.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ort::ErrorCode;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{OutputSelector, RunOptions, Session, SessionInputValue};

use crate::engine::onnx::assignment;
use crate::engine::onnx::interrupt::{SharedOptions, Termination};
use crate::engine::onnx::lending::Lending;
use crate::engine::onnx::library::Runtime;
use crate::engine::onnx::options::{Optimization, SessionOptions};
use crate::engine::onnx::providers::{Placement, Profile, Request};
use crate::engine::onnx::{one_line, signature, values};
use crate::engine::{BoundTensor, Engine, EngineError, Interrupt, LoadedModel, NodeShare};
use crate::inference::Tensor;

/// Reads the model and makes its first session.
///
/// # Errors
/// The file cannot be loaded, the provider cannot run it, or its signature is not one of plain tensors. One line.
pub fn load_model(
    runtime: &Runtime,
    path: &Path,
    options: SessionOptions,
) -> Result<LoadedModel, String> {
    let source = Arc::new(Source {
        runtime: runtime.clone(),
        path: path.to_path_buf(),
        options,
    });
    let mut note = None;
    let mut refusal = String::new();
    for placement in Placement::order(source.options.provider, Placement::in_library) {
        match source.first(*placement) {
            Ok((session, nodes)) => return loaded(&source, *placement, session, (nodes, note)),
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
    source: &Arc<Source>,
    placement: Placement,
    session: Session,
    (nodes, provider_note): (Vec<NodeShare>, Option<String>),
) -> Result<LoadedModel, String> {
    let signature = signature::read(&session)?;
    let source = Arc::clone(source);
    Ok(LoadedModel {
        signature,
        provider: placement.name(),
        provider_note,
        nodes,
        first: Box::new(Onnx::new(session)?),
        factory: Arc::new(move |instance| {
            let session = source.session(placement, instance)?;
            Ok(Box::new(Onnx::new(session)?))
        }),
    })
}

/// What sessions are made from.
struct Source {
    runtime: Runtime,
    path: PathBuf,
    options: SessionOptions,
}

impl Source {
    /// The session of instance 0, if this provider really runs it, and who has the nodes of the graph.
    fn first(&self, placement: Placement) -> Result<(Session, Vec<NodeShare>), String> {
        if !placement.in_library() {
            return Err(format!(
                "{} has no {}, the library of the Python package '{}' has it",
                self.runtime.path().display(),
                placement.runtime_name(),
                placement.package()
            ));
        }
        let session = self.session(placement, 0)?;
        let nodes = assignment::nodes(&session);
        placement.check_share(&nodes)?;
        Ok((session, nodes))
    }

    fn session(&self, placement: Placement, instance: usize) -> Result<Session, String> {
        let profile = match placement {
            Placement::TensorRt => self.profile()?,
            Placement::Cpu | Placement::Cuda | Placement::OpenVino => None,
        };
        let request = Request {
            options: &self.options,
            device: self.options.device(instance),
            profile: profile.as_ref(),
        };
        let builder = self.builder(placement.threads(self.options.threads));
        let builder = builder.map_err(|error| one_line(&error))?;
        placement
            .register(builder, &request)?
            .commit_from_file(&self.path)
            .map_err(|error| one_line(&error))
    }

    fn builder(&self, threads: usize) -> ort::Result<SessionBuilder> {
        let options = &self.options;
        let level = match options.optimization {
            Optimization::Disabled => GraphOptimizationLevel::Disable,
            Optimization::Basic => GraphOptimizationLevel::Level1,
            Optimization::Extended => GraphOptimizationLevel::Level2,
            Optimization::All => GraphOptimizationLevel::All,
        };
        let (key, value) = assignment::RECORD;
        Ok(Session::builder(&self.runtime.environment)?
            .with_optimization_level(level)?
            .with_intra_threads(threads.max(1))?
            .with_inter_threads(options.inter_op_threads.max(1))?
            .with_parallel_execution(options.inter_op_threads > 1)?
            .with_intra_op_spinning(false)?
            .with_inter_op_spinning(false)?
            .with_memory_pattern(options.memory_pattern)?
            .with_config_entry(key, value)?)
    }

    /// The shapes that TensorRT plans for, read from a session that does nothing else.
    fn profile(&self) -> Result<Option<Profile>, String> {
        let reader = Session::builder(&self.runtime.environment)
            .map_err(ort::Error::from)
            .and_then(|builder| {
                Ok(builder.with_optimization_level(GraphOptimizationLevel::Disable)?)
            })
            .and_then(|mut builder| builder.commit_from_file(&self.path))
            .map_err(|error| one_line(&error))?;
        let inputs: Vec<_> = signature::read(&reader)?
            .inputs
            .into_iter()
            .filter(|spec| !spec.optional)
            .map(|spec| (spec.name, spec.shape))
            .collect();
        Ok(Profile::of(&inputs, self.options.max_batch_size))
    }
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
    lending: Lending,
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
            lending: Lending::default(),
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
                values
                    .map(|(_, value)| values::take(value, &self.lending))
                    .collect()
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
