//! Everything else that the file may say: named, so that nobody believes it to be honoured.

use forebay_proto::inference::model_input::Format;
use forebay_proto::inference::model_optimization_policy::ModelPriority;
use forebay_proto::inference::{ModelConfig, ModelOptimizationPolicy};

use super::Findings;

pub(super) fn read(config: &ModelConfig, findings: &mut Findings) {
    // Clients do not send what these make, so no request could be answered.
    if !config.batch_input.is_empty() {
        findings.problem("batch_input is not supported");
    }
    if !config.batch_output.is_empty() {
        findings.problem("batch_output is not supported");
    }
    let transaction = config.model_transaction_policy.as_ref();
    let agents = config.model_repository_agents.as_ref();
    let operations = config.model_operations.as_ref();
    let metrics = config.model_metrics.as_ref();
    let table = [
        (
            !config.cc_model_filenames.is_empty(),
            "cc_model_filenames",
            "not supported, every device runs the same file",
        ),
        (
            !config.metric_tags.is_empty(),
            "metric_tags",
            "not supported, metrics carry the model's name and version",
        ),
        (
            transaction.is_some_and(|policy| policy.decoupled),
            "model_transaction_policy.decoupled",
            "of no effect, an ONNX model gives one answer to a request",
        ),
        (
            agents.is_some_and(|agents| !agents.agents.is_empty()),
            "model_repository_agents",
            "not supported, the files are loaded as they are",
        ),
        (
            operations.is_some_and(|operations| !operations.op_library_filename.is_empty()),
            "model_operations.op_library_filename",
            "not supported, only ONNX Runtime's own operators are there",
        ),
        (
            metrics.is_some_and(|metrics| !metrics.metric_control.is_empty()),
            "model_metrics",
            "not supported, histograms have the worker's own buckets",
        ),
        (
            !config.runtime.is_empty(),
            "runtime",
            "of no effect, ONNX Runtime runs every model",
        ),
    ];
    tell("", &table, findings);
    tensors(config, findings);
    instance_groups(config, findings);
    if let Some(policy) = &config.optimization {
        optimization(policy, findings);
    }
}

type Row<'a> = (bool, &'a str, &'a str);

fn tell(place: &str, table: &[Row<'_>], findings: &mut Findings) {
    for (_, field, why) in table.iter().filter(|(is_said, ..)| *is_said) {
        findings.note(&format!("{place}{field}"), why);
    }
}

fn tensors(config: &ModelConfig, findings: &mut Findings) {
    const TENSORRT: &str = "of no effect, it is for TensorRT plans";
    for input in &config.input {
        let table = [
            (
                input.format() != Format::None,
                "format",
                "of no effect, tensors are passed as they are",
            ),
            (input.is_shape_tensor, "is_shape_tensor", TENSORRT),
            (
                input.is_non_linear_format_io,
                "is_non_linear_format_io",
                TENSORRT,
            ),
            (
                input.allow_ragged_batch,
                "allow_ragged_batch",
                "not supported, requests of different shapes do not share a batch; padding in [models.NAME] lets them",
            ),
        ];
        tell(&format!("input '{}' ", input.name), &table, findings);
    }
    for output in &config.output {
        let table = [
            (output.is_shape_tensor, "is_shape_tensor", TENSORRT),
            (
                output.is_non_linear_format_io,
                "is_non_linear_format_io",
                TENSORRT,
            ),
        ];
        tell(&format!("output '{}' ", output.name), &table, findings);
    }
}

fn instance_groups(config: &ModelConfig, findings: &mut Findings) {
    for (index, group) in config.instance_group.iter().enumerate() {
        let table = [
            (
                group.rate_limiter.is_some(),
                "rate_limiter",
                "not supported, instances wait for nobody",
            ),
            (
                group.passive,
                "passive",
                "not supported, all instances take requests",
            ),
            (
                !group.secondary_devices.is_empty(),
                "secondary_devices",
                "not supported",
            ),
            (
                !group.profile.is_empty(),
                "profile",
                "of no effect, it is for TensorRT plans",
            ),
            (
                !group.host_policy.is_empty(),
                "host_policy",
                "not supported, the system places threads and memory",
            ),
        ];
        tell(&format!("instance_group[{index}] "), &table, findings);
    }
}

fn optimization(policy: &ModelOptimizationPolicy, findings: &mut Findings) {
    let table = [
        (
            policy.graph.is_some_and(|graph| graph.level != 0),
            "graph.level",
            "not supported, ONNX Runtime optimizes all it can",
        ),
        (
            policy.priority() != ModelPriority::PriorityDefault,
            "priority",
            "not supported, models have equal rights",
        ),
        (
            policy.cuda.is_some(),
            "cuda",
            "of no effect, it is for TensorRT plans",
        ),
        (
            policy.input_pinned_memory.is_some(),
            "input_pinned_memory",
            "not supported, memory is not pinned",
        ),
        (
            policy.output_pinned_memory.is_some(),
            "output_pinned_memory",
            "not supported, memory is not pinned",
        ),
        (
            policy.gather_kernel_buffer_threshold > 0,
            "gather_kernel_buffer_threshold",
            "of no effect, inputs are gathered on the CPU",
        ),
        (
            policy.eager_batching,
            "eager_batching",
            "of no effect, inputs are gathered when an instance is free",
        ),
    ];
    tell("optimization.", &table, findings);
}
