//! What a model's configuration says beyond its tensors: the settings in effect, and what its `config.pbtxt` adds.

use forebay_config::worker::VersionPolicy;
use forebay_proto::inference::model_config::SchedulingChoice;
use forebay_proto::inference::model_version_policy::{All, Latest, PolicyChoice, Specific};
use forebay_proto::inference::{self as wire, ModelParameter};

use crate::model::Model;
use crate::repository::pbtxt::{Batching, Understood};

/// The parameter with what the file says and the worker does not do.
const NOT_HONOURED: &str = "forebay.not_honoured";

pub(super) fn complete(model: &Model, wire: &mut wire::ModelConfig) {
    let config = model.config();
    wire.version_policy = Some(wire::ModelVersionPolicy {
        policy_choice: Some(version_policy(&config.versions)),
    });
    if let Some(SchedulingChoice::DynamicBatching(batching)) = &mut wire.scheduling_choice {
        let sizes = config.preferred_batch_sizes.iter();
        batching.preferred_batch_size =
            sizes.filter_map(|size| i32::try_from(*size).ok()).collect();
        batching.priority_levels = config.priority_levels.into();
        batching.default_priority_level = config.default_priority.into();
    }
    if !config.dynamic_batching {
        wire.scheduling_choice = None;
    }
    if config.response_cache_bytes > 0 {
        wire.response_cache = Some(wire::ModelResponseCache { enable: true });
    }
    if let Some(group) = wire.instance_group.first_mut()
        && model.provider() != "cpu"
    {
        let devices = config.devices.iter();
        group.gpus = devices
            .filter_map(|device| i32::try_from(*device).ok())
            .collect();
    }
    if let Some(said) = model.said() {
        from_file(said, wire);
    }
}

fn from_file(said: &Understood, wire: &mut wire::ModelConfig) {
    let message = &said.message;
    if said.declared.batching == Batching::Rows(1) && wire.max_batch_size == 0 {
        wire.max_batch_size = 1;
        let inputs = wire.input.iter_mut().map(|input| &mut input.dims);
        for dims in inputs.chain(wire.output.iter_mut().map(|output| &mut output.dims)) {
            dims.drain(..dims.len().min(1));
        }
    }
    if let Some(file) = &said.model_file {
        wire.default_model_filename.clone_from(file);
    }
    for input in &mut wire.input {
        let said = message.input.iter().find(|said| said.name == input.name);
        input.reshape = said.and_then(|said| said.reshape.clone());
    }
    for output in &mut wire.output {
        let said = message.output.iter().find(|said| said.name == output.name);
        output.reshape = said.and_then(|said| said.reshape.clone());
    }
    wire.model_warmup.clone_from(&message.model_warmup);
    wire.optimization = message
        .optimization
        .clone()
        .map(|policy| wire::ModelOptimizationPolicy {
            execution_accelerators: policy.execution_accelerators,
            ..wire::ModelOptimizationPolicy::default()
        });
    wire.parameters.clone_from(&message.parameters);
    if !said.notes.is_empty() {
        let told = ModelParameter {
            string_value: said.notes.join("; "),
        };
        wire.parameters.insert(NOT_HONOURED.to_owned(), told);
    }
}

fn version_policy(policy: &VersionPolicy) -> PolicyChoice {
    match policy {
        VersionPolicy::Latest(count) => PolicyChoice::Latest(Latest {
            num_versions: *count,
        }),
        VersionPolicy::All => PolicyChoice::All(All {}),
        VersionPolicy::Specific(versions) => PolicyChoice::Specific(Specific {
            versions: versions
                .iter()
                .filter_map(|version| i64::try_from(*version).ok())
                .collect(),
        }),
    }
}
