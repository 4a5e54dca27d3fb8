//! A model's configuration as JSON.
//!
//! As Triton writes it: enumerations by name, 64-bit integers as numbers, fields with their default values
//! present, messages that are not set left out.

use bytes::Bytes;
use serde_json::{Value, json};

use super::document;
use crate::inference::model_config::SchedulingChoice;
use crate::inference::model_optimization_policy::execution_accelerators::Accelerator;
use crate::inference::model_version_policy::PolicyChoice;
use crate::inference::model_warmup::input::InputDataType;
use crate::inference::{
    ModelConfig, ModelDynamicBatching, ModelEnsembling, ModelInput, ModelInstanceGroup,
    ModelOptimizationPolicy, ModelOutput, ModelQueuePolicy, ModelVersionPolicy, ModelWarmup,
};

pub fn model_config(config: &ModelConfig) -> Bytes {
    let mut value = json!({
        "name": config.name,
        "platform": config.platform,
        "backend": config.backend,
        "runtime": config.runtime,
        "max_batch_size": config.max_batch_size,
        "input": all(&config.input, input),
        "output": all(&config.output, output),
        "batch_input": [],
        "batch_output": [],
        "instance_group": all(&config.instance_group, instance_group),
        "default_model_filename": config.default_model_filename,
        "cc_model_filenames": config.cc_model_filenames,
        "metric_tags": config.metric_tags,
        "parameters": config.parameters.iter().map(|(key, parameter)| {
            (key.clone(), json!({ "string_value": parameter.string_value }))
        }).collect::<Value>(),
        "model_warmup": all(&config.model_warmup, warmup),
    });
    if let Some(policy) = &config.version_policy {
        value["version_policy"] = version_policy(policy);
    }
    if let Some(policy) = &config.optimization {
        value["optimization"] = optimization(policy);
    }
    match &config.scheduling_choice {
        Some(SchedulingChoice::DynamicBatching(batching)) => {
            value["dynamic_batching"] = dynamic_batching(batching);
        }
        Some(SchedulingChoice::EnsembleScheduling(ensemble)) => {
            value["ensemble_scheduling"] = ensembling(ensemble);
        }
        // Models whose requests depend on each other are not served here.
        Some(SchedulingChoice::SequenceBatching(_)) | None => {}
    }
    if let Some(policy) = &config.model_transaction_policy {
        value["model_transaction_policy"] = json!({ "decoupled": policy.decoupled });
    }
    if let Some(cache) = &config.response_cache {
        value["response_cache"] = json!({ "enable": cache.enable });
    }
    document(&value)
}

fn all<T>(messages: &[T], to_json: impl Fn(&T) -> Value) -> Value {
    messages.iter().map(to_json).collect()
}

fn input(input: &ModelInput) -> Value {
    let mut value = json!({
        "name": input.name,
        "data_type": input.data_type().as_str_name(),
        "format": input.format().as_str_name(),
        "dims": input.dims,
        "is_shape_tensor": input.is_shape_tensor,
        "allow_ragged_batch": input.allow_ragged_batch,
        "optional": input.optional,
        "is_non_linear_format_io": input.is_non_linear_format_io,
    });
    if let Some(reshape) = &input.reshape {
        value["reshape"] = json!({ "shape": reshape.shape });
    }
    value
}

fn output(output: &ModelOutput) -> Value {
    let mut value = json!({
        "name": output.name,
        "data_type": output.data_type().as_str_name(),
        "dims": output.dims,
        "label_filename": output.label_filename,
        "is_shape_tensor": output.is_shape_tensor,
        "is_non_linear_format_io": output.is_non_linear_format_io,
    });
    if let Some(reshape) = &output.reshape {
        value["reshape"] = json!({ "shape": reshape.shape });
    }
    value
}

fn instance_group(group: &ModelInstanceGroup) -> Value {
    json!({
        "name": group.name,
        "kind": group.kind().as_str_name(),
        "count": group.count,
        "gpus": group.gpus,
        "profile": group.profile,
        "passive": group.passive,
        "host_policy": group.host_policy,
    })
}

fn version_policy(policy: &ModelVersionPolicy) -> Value {
    match &policy.policy_choice {
        Some(PolicyChoice::Latest(latest)) => {
            json!({ "latest": { "num_versions": latest.num_versions } })
        }
        Some(PolicyChoice::All(_)) => json!({ "all": {} }),
        Some(PolicyChoice::Specific(specific)) => {
            json!({ "specific": { "versions": specific.versions } })
        }
        None => json!({}),
    }
}

fn optimization(policy: &ModelOptimizationPolicy) -> Value {
    let mut value = json!({
        "priority": policy.priority().as_str_name(),
        "gather_kernel_buffer_threshold": policy.gather_kernel_buffer_threshold,
        "eager_batching": policy.eager_batching,
    });
    if let Some(graph) = &policy.graph {
        value["graph"] = json!({ "level": graph.level });
    }
    if let Some(accelerators) = &policy.execution_accelerators {
        let list = |accelerators: &[Accelerator]| {
            all(
                accelerators,
                |one| json!({ "name": one.name, "parameters": one.parameters }),
            )
        };
        value["execution_accelerators"] = json!({
            "gpu_execution_accelerator": list(&accelerators.gpu_execution_accelerator),
            "cpu_execution_accelerator": list(&accelerators.cpu_execution_accelerator),
        });
    }
    if let Some(memory) = &policy.input_pinned_memory {
        value["input_pinned_memory"] = json!({ "enable": memory.enable });
    }
    if let Some(memory) = &policy.output_pinned_memory {
        value["output_pinned_memory"] = json!({ "enable": memory.enable });
    }
    value
}

fn dynamic_batching(batching: &ModelDynamicBatching) -> Value {
    let by_priority: Value = batching
        .priority_queue_policy
        .iter()
        .map(|(priority, policy)| (priority.to_string(), queue_policy(policy)))
        .collect();
    let mut value = json!({
        "preferred_batch_size": batching.preferred_batch_size,
        "max_queue_delay_microseconds": batching.max_queue_delay_microseconds,
        "preserve_ordering": batching.preserve_ordering,
        "priority_levels": batching.priority_levels,
        "default_priority_level": batching.default_priority_level,
        "priority_queue_policy": by_priority,
    });
    if let Some(policy) = &batching.default_queue_policy {
        value["default_queue_policy"] = queue_policy(policy);
    }
    value
}

fn queue_policy(policy: &ModelQueuePolicy) -> Value {
    json!({
        "timeout_action": policy.timeout_action().as_str_name(),
        "default_timeout_microseconds": policy.default_timeout_microseconds,
        "allow_timeout_override": policy.allow_timeout_override,
        "max_queue_size": policy.max_queue_size,
    })
}

fn ensembling(ensemble: &ModelEnsembling) -> Value {
    let steps = all(&ensemble.step, |step| {
        json!({
            "model_name": step.model_name,
            "model_version": step.model_version,
            "input_map": step.input_map,
            "output_map": step.output_map,
            "model_namespace": step.model_namespace,
        })
    });
    json!({ "step": steps, "max_inflight_requests": ensemble.max_inflight_requests })
}

fn warmup(warmup: &ModelWarmup) -> Value {
    let inputs: Value = warmup
        .inputs
        .iter()
        .map(|(name, input)| {
            let mut value = json!({
                "data_type": input.data_type().as_str_name(),
                "dims": input.dims,
            });
            match &input.input_data_type {
                Some(InputDataType::ZeroData(zero)) => value["zero_data"] = json!(zero),
                Some(InputDataType::RandomData(random)) => value["random_data"] = json!(random),
                Some(InputDataType::InputDataFile(file)) => value["input_data_file"] = json!(file),
                None => {}
            }
            (name.clone(), value)
        })
        .collect();
    json!({
        "name": warmup.name,
        "batch_size": warmup.batch_size,
        "inputs": inputs,
        "count": warmup.count,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::model_version_policy::Latest;
    use crate::inference::{DataType, ModelParameter};

    #[test]
    fn a_configuration_is_written_as_triton_does() {
        let config = ModelConfig {
            name: "mlp".into(),
            platform: "onnxruntime_onnx".into(),
            backend: "onnxruntime".into(),
            version_policy: Some(ModelVersionPolicy {
                policy_choice: Some(PolicyChoice::Latest(Latest { num_versions: 1 })),
            }),
            max_batch_size: 32,
            input: vec![ModelInput {
                name: "x".into(),
                data_type: DataType::TypeFp32.into(),
                dims: vec![64],
                ..ModelInput::default()
            }],
            output: vec![ModelOutput {
                name: "y".into(),
                data_type: DataType::TypeString.into(),
                dims: vec![-1],
                ..ModelOutput::default()
            }],
            instance_group: vec![ModelInstanceGroup {
                count: 2,
                kind: crate::inference::model_instance_group::Kind::Cpu.into(),
                ..ModelInstanceGroup::default()
            }],
            parameters: [(
                "p".to_owned(),
                ModelParameter {
                    string_value: "v".into(),
                },
            )]
            .into(),
            scheduling_choice: Some(SchedulingChoice::DynamicBatching(ModelDynamicBatching {
                max_queue_delay_microseconds: 5_000_000_000,
                priority_queue_policy: [(1, ModelQueuePolicy::default())].into(),
                ..ModelDynamicBatching::default()
            })),
            ..ModelConfig::default()
        };
        let value: Value = serde_json::from_slice(&model_config(&config)).unwrap();
        assert_eq!(value["max_batch_size"], 32);
        assert_eq!(
            value["version_policy"],
            json!({"latest": {"num_versions": 1}})
        );
        assert_eq!(value["input"][0]["data_type"], "TYPE_FP32");
        assert_eq!(value["input"][0]["format"], "FORMAT_NONE");
        assert_eq!(value["input"][0]["dims"], json!([64]));
        assert_eq!(value["output"][0]["data_type"], "TYPE_STRING");
        assert_eq!(value["instance_group"][0]["kind"], "KIND_CPU");
        assert_eq!(value["parameters"], json!({"p": {"string_value": "v"}}));
        let batching = &value["dynamic_batching"];
        assert_eq!(batching["max_queue_delay_microseconds"], 5_000_000_000_u64);
        assert_eq!(
            batching["priority_queue_policy"]["1"]["timeout_action"],
            "REJECT"
        );
        for absent in ["ensemble_scheduling", "optimization", "response_cache"] {
            assert!(value.get(absent).is_none(), "{absent}");
        }
    }

    #[test]
    fn a_pipeline_lists_its_steps() {
        let config = ModelConfig {
            scheduling_choice: Some(SchedulingChoice::EnsembleScheduling(ModelEnsembling {
                step: vec![crate::inference::model_ensembling::Step {
                    model_name: "a".into(),
                    model_version: -1,
                    input_map: [("x".to_owned(), "raw".to_owned())].into(),
                    ..Default::default()
                }],
                max_inflight_requests: 0,
            })),
            ..ModelConfig::default()
        };
        let value: Value = serde_json::from_slice(&model_config(&config)).unwrap();
        let step = &value["ensemble_scheduling"]["step"][0];
        assert_eq!(step["model_version"], -1);
        assert_eq!(step["input_map"], json!({"x": "raw"}));
    }
}
