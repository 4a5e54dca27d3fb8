//! `config.pbtxt` of a Triton model repository: what it says, in the worker's own terms.
//!
//! It stands between `[defaults]` and `[models.NAME]`. Whatever can be honoured becomes settings; what cannot is
//! named in a note; what would make every answer wrong, or contradicts the file itself, is a problem, and the
//! model is not loaded. Nothing is passed over in silence. Whether it fits the model is for `signature` to say,
//! once the model was read. Pure: the text comes from whoever read the file.
//!
//! Semantics: github.com/triton-inference-server/server, docs/user_guide/model_configuration.md, and its
//! ONNX Runtime backend.

mod batching;
mod ensemble;
mod limits;
mod parameters;
mod placement;
mod requested;
mod reshape;
mod signature;
mod tensors;
mod text;
mod unsupported;
mod warmup;

use forebay_config::worker::{Ensemble, Model, Overrides, VersionPolicy};
use forebay_proto::inference::ModelConfig;
use forebay_proto::inference::model_version_policy::PolicyChoice;

pub use reshape::Reshapes;
pub use signature::{Batching, Declared, DeclaredTensor};
pub use text::LONGEST;
pub use warmup::{Content, Sample, SampleInput};

/// The file's name in a model's folder.
pub const FILE: &str = "config.pbtxt";

/// What the file says of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Understood {
    /// To be put over `[defaults]`, and `[models.NAME]` over that.
    pub overrides: Overrides,
    /// Name of the model's file (or folder) in each version, if not `model.onnx`.
    pub model_file: Option<String>,
    pub declared: Declared,
    /// Its steps, if it is an ensemble.
    pub ensemble: Option<Ensemble>,
    /// Requests to run before the model is called ready.
    pub warm_up: Vec<Sample>,
    /// What is in the file but not honoured, each "field: why".
    pub notes: Vec<String>,
    /// The file as it stands.
    pub message: ModelConfig,
}

/// What was found besides settings.
#[derive(Debug, Default)]
struct Findings {
    notes: Vec<String>,
    problems: Vec<String>,
}

impl Findings {
    fn note(&mut self, field: &str, why: impl std::fmt::Display) {
        self.notes.push(format!("{field}: {why}"));
    }

    fn problem(&mut self, problem: impl Into<String>) {
        self.problems.push(problem.into());
    }
}

/// `folder`: the name of the model's folder. `defaults`: what `[defaults]` comes to.
///
/// # Errors
/// One line with everything that is wrong.
pub fn read(text: &str, folder: &str, defaults: &Model) -> Result<Understood, String> {
    let message = text::parse(text).map_err(|reason| format!("{FILE}: {reason}"))?;
    understand(message, folder, defaults).map_err(|problems| format!("{FILE}: {problems}"))
}

/// The same as JSON, which a client that has the model loaded sent in place of the file.
///
/// # Errors
/// One line with everything that is wrong.
pub fn read_json(json: &str, folder: &str, defaults: &Model) -> Result<Understood, String> {
    let said = text::parse_json(json).and_then(|said| understand(said, folder, defaults));
    let said = said.and_then(Understood::requested);
    said.map_err(|problems| format!("parameter 'config': {problems}"))
}

fn understand(message: ModelConfig, folder: &str, defaults: &Model) -> Result<Understood, String> {
    let mut findings = Findings::default();
    identity(&message, folder, &mut findings);
    let declared = tensors::declared(&message, &mut findings);
    let mut overrides = Overrides {
        versions: versions(&message, &mut findings),
        labels: tensors::labels(&message, &mut findings),
        ..Overrides::default()
    };
    let (mut ensemble, mut warm_up) = (None, Vec::new());
    if message.platform == ensemble::PLATFORM {
        ensemble = ensemble::read(&message, &declared, &mut findings);
    } else {
        batching::read(&message, &declared, &mut overrides, &mut findings);
        placement::read(&message, &mut overrides, &mut findings);
        parameters::read(&message, &mut overrides, &mut findings);
        warm_up = warmup::samples(&message, &mut findings);
    }
    if message
        .response_cache
        .as_ref()
        .is_some_and(|cache| cache.enable)
    {
        let size = defaults.response_cache_bytes;
        overrides.response_cache_bytes = Some(if size == 0 { CACHE_BYTES } else { size });
    }
    unsupported::read(&message, &mut findings);
    if findings.problems.is_empty() {
        Ok(Understood {
            overrides,
            model_file: Some(message.default_model_filename.clone())
                .filter(|name| !name.is_empty()),
            declared,
            ensemble,
            warm_up,
            notes: findings.notes,
            message,
        })
    } else {
        Err(findings.problems.join("; "))
    }
}

/// Of a model's response cache, where the file turns it on and the worker's configuration says no size.
const CACHE_BYTES: u64 = 64 << 20;

/// That this is the configuration of this model, and one for ONNX Runtime or an ensemble.
fn identity(config: &ModelConfig, folder: &str, findings: &mut Findings) {
    let name = &config.name;
    if !name.is_empty() && name != folder {
        findings.problem(format!(
            "unexpected directory name '{folder}' for model '{name}', directory name must equal model name"
        ));
    }
    if !matches!(
        &config.platform[..],
        "" | "onnxruntime_onnx" | ensemble::PLATFORM
    ) {
        let platform = &config.platform;
        findings.problem(format!(
            "platform '{platform}' is not served here, only 'onnxruntime_onnx' and 'ensemble' are"
        ));
    }
    if !matches!(&config.backend[..], "" | "onnxruntime") {
        let backend = &config.backend;
        findings.problem(format!(
            "backend '{backend}' is not served here, only 'onnxruntime' is"
        ));
    }
    let file = &config.default_model_filename;
    if matches!(&file[..], "." | "..") || file.contains(['/', '\\', '\0']) {
        findings.problem(format!(
            "default_model_filename '{file}' is not the name of a file in the version's folder"
        ));
    }
}

fn versions(config: &ModelConfig, findings: &mut Findings) -> Option<VersionPolicy> {
    match config.version_policy.as_ref()?.policy_choice.as_ref()? {
        PolicyChoice::Latest(latest) => Some(VersionPolicy::Latest(latest.num_versions.max(1))),
        PolicyChoice::All(_) => Some(VersionPolicy::All),
        PolicyChoice::Specific(specific) => {
            let positive =
                |version: &i64| u64::try_from(*version).ok().filter(|number| *number > 0);
            let mut numbers: Vec<u64> = specific.versions.iter().filter_map(positive).collect();
            if numbers.len() < specific.versions.len() || numbers.is_empty() {
                let versions = &specific.versions;
                findings.problem(format!(
                    "version_policy specific {versions:?}, expected one or more positive numbers"
                ));
            }
            numbers.sort_unstable();
            numbers.dedup();
            Some(VersionPolicy::Specific(numbers))
        }
    }
}

#[cfg(test)]
mod tests;
