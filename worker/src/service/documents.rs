//! What the server says about itself and its models: metadata, configuration, statistics, index.
//!
//! Shapes in metadata hold the batch axis; those in a configuration do not when the model batches, as
//! Triton's clients expect.

mod ensemble;
mod settings;

use std::collections::BTreeMap;
use std::time::Duration;

use forebay_proto::inference::model_metadata_response::TensorMetadata;
use forebay_proto::inference::{self as wire, model_config, model_instance_group};

use super::statistics::statistics;
use super::{Fault, Front};
use crate::inference::TensorSpec;
use crate::model::Model;
use crate::served::Served;

const PLATFORM: &str = "onnxruntime_onnx";
const BACKEND: &str = "onnxruntime";
const MODEL_FILE: &str = "model.onnx";

/// Parts of the protocol beyond its core that this server has.
const EXTENSIONS: &[&str] = &[
    "binary_tensor_data",
    "classification",
    "logging",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "parameters",
    "schedule_policy",
    "statistics",
    "system_shared_memory",
];

impl Front {
    /// Says in its extensions where the models run, and which would rather run elsewhere.
    pub fn server_metadata(&self) -> wire::ServerMetadataResponse {
        let mut extensions: Vec<String> =
            EXTENSIONS.iter().map(|name| (*name).to_owned()).collect();
        if self.can_trace() {
            extensions.push("trace".to_owned());
        }
        let models = self.registry.models();
        let mut providers: Vec<&str> = models.iter().filter_map(|model| model.provider()).collect();
        providers.sort_unstable();
        providers.dedup();
        for provider in providers {
            extensions.push(format!("execution_provider({provider})"));
        }
        let mut fallen_back: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for model in &models {
            if let Some(note) = model.provider_note() {
                fallen_back.entry(note).or_default().push(model.name());
            }
        }
        for (note, names) in fallen_back {
            extensions.push(format!(
                "execution_provider_fallback({}: {note})",
                names.join(",")
            ));
        }
        wire::ServerMetadataResponse {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            extensions,
        }
    }

    pub fn model_metadata(
        &self,
        name: &str,
        version: &str,
    ) -> Result<wire::ModelMetadataResponse, Fault> {
        let model = self.model(name, version)?;
        let versions = self.registry.versions(name);
        let tensors = |specs: &[TensorSpec]| {
            let tensor = |spec: &TensorSpec| TensorMetadata {
                name: spec.name.clone(),
                datatype: spec.datatype.name().to_owned(),
                shape: shape(spec),
            };
            specs.iter().map(tensor).collect()
        };
        Ok(wire::ModelMetadataResponse {
            name: model.name().to_owned(),
            versions: versions
                .iter()
                .map(|model| model.version().to_string())
                .collect(),
            platform: match &*model {
                Served::Model(_) => PLATFORM.to_owned(),
                Served::Ensemble(_) => ensemble::PLATFORM.to_owned(),
            },
            inputs: tensors(&model.signature().inputs),
            outputs: tensors(&model.signature().outputs),
        })
    }

    pub fn model_config(
        &self,
        name: &str,
        version: &str,
    ) -> Result<wire::ModelConfigResponse, Fault> {
        let served = self.model(name, version)?;
        let config = match &*served {
            Served::Model(model) => {
                let mut config = configuration(model, served.row_limit());
                settings::complete(model, &mut config);
                config
            }
            Served::Ensemble(ensemble) => ensemble::configuration(ensemble),
        };
        Ok(wire::ModelConfigResponse {
            config: Some(config),
        })
    }

    /// An empty name stands for every model, an empty version for all that are served.
    pub fn model_statistics(
        &self,
        name: &str,
        version: &str,
    ) -> Result<wire::ModelStatisticsResponse, Fault> {
        let models = match name {
            "" => self.registry.models(),
            name => {
                let model = self.model(name, version)?;
                match version {
                    "" => self.registry.versions(name),
                    _ => vec![model],
                }
            }
        };
        Ok(wire::ModelStatisticsResponse {
            model_stats: models.iter().map(|model| statistics(model)).collect(),
        })
    }
}

fn configuration(model: &Model, limit: Option<usize>) -> wire::ModelConfig {
    let config = model.config();
    let dims = |spec: &TensorSpec| config_dims(spec, limit);
    let input = |spec: &TensorSpec| wire::ModelInput {
        name: spec.name.clone(),
        data_type: spec.datatype.config_type().into(),
        dims: dims(spec),
        optional: spec.optional,
        ..wire::ModelInput::default()
    };
    let label_file = |output: &str| {
        let file = config.labels.get(output);
        file.map_or_else(String::new, |file| file.display().to_string())
    };
    let output = |spec: &TensorSpec| wire::ModelOutput {
        name: spec.name.clone(),
        data_type: spec.datatype.config_type().into(),
        dims: dims(spec),
        label_filename: label_file(&spec.name),
        ..wire::ModelOutput::default()
    };
    let kind = match model.provider() {
        "cpu" => model_instance_group::Kind::Cpu,
        _ => model_instance_group::Kind::Gpu,
    };
    let queue = wire::ModelQueuePolicy {
        default_timeout_microseconds: config.default_timeout.map_or(0, microseconds),
        allow_timeout_override: true,
        max_queue_size: config.max_queue_size,
        ..wire::ModelQueuePolicy::default()
    };
    let batching = limit.map(|_| {
        model_config::SchedulingChoice::DynamicBatching(wire::ModelDynamicBatching {
            max_queue_delay_microseconds: microseconds(config.max_queue_delay),
            default_queue_policy: Some(queue),
            ..wire::ModelDynamicBatching::default()
        })
    });
    wire::ModelConfig {
        name: model.name().to_owned(),
        platform: PLATFORM.to_owned(),
        backend: BACKEND.to_owned(),
        max_batch_size: limit_as_sent(limit),
        input: model.signature().inputs.iter().map(input).collect(),
        output: model.signature().outputs.iter().map(output).collect(),
        instance_group: vec![wire::ModelInstanceGroup {
            name: model.name().to_owned(),
            count: i32::try_from(config.instances).unwrap_or(i32::MAX),
            kind: kind.into(),
            ..wire::ModelInstanceGroup::default()
        }],
        default_model_filename: MODEL_FILE.to_owned(),
        scheduling_choice: batching,
        ..wire::ModelConfig::default()
    }
}

/// A shape without its batch axis, where `limit` says that there is one.
fn config_dims(spec: &TensorSpec, limit: Option<usize>) -> Vec<i64> {
    let mut dims = shape(spec);
    if limit.is_some() && !spec.optional && !dims.is_empty() {
        dims.remove(0);
    }
    dims
}

/// Rows of a request at most; 0: no batch axis.
fn limit_as_sent(limit: Option<usize>) -> i32 {
    limit.map_or(0, |limit| i32::try_from(limit).unwrap_or(i32::MAX))
}

/// −1 stands for any size; a model that does not say the rank is shown as a vector.
fn shape(spec: &TensorSpec) -> Vec<i64> {
    spec.shape.clone().unwrap_or_else(|| vec![-1])
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
