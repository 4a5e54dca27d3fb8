//! A model file as ONNX Runtime sessions: one for all instances on a CPU, elsewhere one per instance.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use parking_lot::Mutex;

use crate::engine::LoadedModel;
use crate::engine::onnx::assignment::{self, Assignment};
use crate::engine::onnx::library::Runtime;
use crate::engine::onnx::options::{Optimization, SessionOptions};
use crate::engine::onnx::providers::{Placement, Profile, Request};
use crate::engine::onnx::run::Onnx;
use crate::engine::onnx::shared::SharedSession;
use crate::engine::onnx::{one_line, signature};

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
        file_bytes: std::fs::metadata(path).map_or(0, |file| file.len()),
        options,
        sessions: Mutex::default(),
    });
    let mut note = None;
    let mut refusal = String::new();
    for placement in Placement::order(source.options.provider, Placement::in_library) {
        match source.first(*placement) {
            Ok((session, assigned)) => {
                return loaded(&source, *placement, session, (assigned, note));
            }
            Err(reason) if *placement == Placement::Cpu => refusal = reason,
            Err(reason) => {
                let reason = placement.explain(reason, &source.options.provider_options);
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
    session: Arc<SharedSession>,
    (assigned, provider_note): (Assignment, Option<String>),
) -> Result<LoadedModel, String> {
    let signature = signature::read(session.session())?;
    let (maker, measured) = (Arc::clone(source), Arc::clone(source));
    Ok(LoadedModel {
        signature,
        provider: placement.name(),
        provider_note,
        nodes: assigned.shares,
        predictable: !assigned.is_controlled,
        memory_bytes: Arc::new(move || measured.memory_bytes()),
        shares_session: placement.shares_session(),
        first: Box::new(Onnx::new(session)?),
        factory: Arc::new(move |instance| {
            let session = maker.session(placement, instance)?;
            Ok(Box::new(Onnx::new(session)?))
        }),
    })
}

/// What sessions are made from.
struct Source {
    runtime: Runtime,
    path: PathBuf,
    file_bytes: u64,
    options: SessionOptions,
    /// Those that are alive.
    sessions: Mutex<Vec<Weak<SharedSession>>>,
}

impl Source {
    /// The session of instance 0, if this provider really runs it, and what is known of its graph.
    fn first(&self, placement: Placement) -> Result<(Arc<SharedSession>, Assignment), String> {
        if !placement.in_library() {
            return Err(format!(
                "{} has no {}, the library of the Python package '{}' has it",
                self.runtime.path().display(),
                placement.runtime_name(),
                placement.package()
            ));
        }
        let session = self.session(placement, 0)?;
        let assigned = assignment::read(session.session());
        placement.check_share(&assigned.shares)?;
        Ok((session, assigned))
    }

    /// A session for the instance: on the CPU the one there is, as long as anybody has it.
    fn session(&self, placement: Placement, instance: usize) -> Result<Arc<SharedSession>, String> {
        let mut sessions = self.sessions.lock();
        sessions.retain(|session| session.strong_count() > 0);
        if placement.shares_session()
            && let Some(session) = sessions.iter().find_map(Weak::upgrade)
        {
            return Ok(session);
        }
        let session = Arc::new(SharedSession::new(self.commit(placement, instance)?)?);
        sessions.push(Arc::downgrade(&session));
        Ok(session)
    }

    fn commit(&self, placement: Placement, instance: usize) -> Result<Session, String> {
        let profile = match placement {
            Placement::TensorRt => self.profile()?,
            Placement::Cpu | Placement::Cuda | Placement::OpenVino => None,
        };
        let request = Request {
            options: &self.options,
            device: self.options.device(instance),
            profile: profile.as_ref(),
        };
        let builder = self.builder(placement.threads(&self.options));
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

    /// At least the size of the model's file while any session is alive; 0 when none is.
    fn memory_bytes(&self) -> u64 {
        let sessions = self.sessions.lock();
        let alive = sessions.iter().filter_map(Weak::upgrade);
        let each = alive.map(|session| session.arena_bytes().unwrap_or(0).max(self.file_bytes));
        each.sum()
    }

    /// The shapes that TensorRT plans for, read from a session that does nothing else.
    fn profile(&self) -> Result<Option<Profile>, String> {
        let reader = Session::builder(&self.runtime.environment)
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
