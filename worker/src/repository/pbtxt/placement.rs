//! `instance_group` and `optimization.execution_accelerators`: how many instances, on what.

use forebay_config::worker::{Overrides, Provider};
use forebay_proto::inference::model_instance_group::Kind;
use forebay_proto::inference::model_optimization_policy::execution_accelerators::Accelerator;
use forebay_proto::inference::{ModelConfig, ModelInstanceGroup};

use super::Findings;
use super::limits::{DEVICES, INSTANCES};
use super::parameters::{boolean, cuda_memory_limit};

pub(super) fn read(config: &ModelConfig, overrides: &mut Overrides, findings: &mut Findings) {
    instances(&config.instance_group, overrides, findings);
    let optimization = config.optimization.as_ref();
    let Some(accelerators) = optimization.and_then(|policy| policy.execution_accelerators.as_ref())
    else {
        return;
    };
    for accelerator in &accelerators.gpu_execution_accelerator {
        let applies = overrides.provider != Some(Provider::Cpu);
        match &accelerator.name[..] {
            "tensorrt" if applies => {
                overrides.provider = Some(Provider::TensorRt);
                tensorrt(accelerator, overrides, findings);
            }
            "cuda" if applies => cuda(accelerator, overrides, findings),
            "tensorrt" | "cuda" => findings.note(
                &format!("gpu_execution_accelerator '{}'", accelerator.name),
                "of no effect, as the instances are on the CPU",
            ),
            name => findings.problem(format!(
                "unknown Execution Accelerator '{name}' is requested"
            )),
        }
    }
    for accelerator in &accelerators.cpu_execution_accelerator {
        match (&accelerator.name[..], overrides.provider) {
            ("openvino", None | Some(Provider::Cpu)) => {
                overrides.provider = Some(Provider::OpenVino);
                if !accelerator.parameters.is_empty() {
                    findings.note(
                        "cpu_execution_accelerator 'openvino' parameters",
                        "of no effect, as in Triton; say them in [models.NAME.openvino]",
                    );
                }
            }
            ("openvino", _) => findings.note(
                "cpu_execution_accelerator 'openvino'",
                "of no effect, as the instances are on a GPU",
            ),
            (name, _) => {
                findings.problem(format!(
                    "unknown Execution Accelerator '{name}' is requested"
                ));
            }
        }
    }
}

fn instances(groups: &[ModelInstanceGroup], overrides: &mut Overrides, findings: &mut Findings) {
    let is_gpu =
        |group: &&ModelInstanceGroup| group.kind() != Kind::Cpu && group.kind() != Kind::Model;
    let on_gpu: Vec<&ModelInstanceGroup> = groups.iter().filter(is_gpu).collect();
    let used: Vec<&ModelInstanceGroup> = if on_gpu.is_empty() {
        groups.iter().collect()
    } else {
        if on_gpu.len() < groups.len() {
            findings.note(
                "instance_group",
                "instances on the CPU beside some on GPUs are not supported, only those on GPUs are made",
            );
        }
        on_gpu
    };
    let Some(first) = used.first() else {
        return;
    };
    if used.iter().any(|group| group.count < 0) {
        findings.problem("instance_group count must be zero or more");
    }
    let count = |group: &ModelInstanceGroup| u32::try_from(group.count).unwrap_or(0).max(1);
    let alike = used.iter().all(|group| group.gpus == first.gpus);
    let total = used.iter().map(|group| count(group));
    let instances = if alike {
        Some(total.fold(0, u32::saturating_add))
    } else {
        findings.note(
            "instance_group",
            "groups with different gpus are merged: each device gets as many instances as the largest group has",
        );
        total.max()
    };
    overrides.instances = instances
        .and_then(|instances| findings.within("instance_group count", instances, &INSTANCES));
    let mut devices = Vec::new();
    for gpu in used.iter().flat_map(|group| &group.gpus) {
        match u32::try_from(*gpu) {
            Ok(device) if devices.contains(&device) => {}
            Ok(device) => devices.extend(findings.within("instance_group gpus", device, &DEVICES)),
            Err(_) => findings.problem(format!("instance_group gpus {gpu}, expected 0 or more")),
        }
    }
    overrides.provider = match first.kind() {
        Kind::Cpu => Some(Provider::Cpu),
        Kind::Gpu => Some(Provider::Cuda),
        Kind::Auto => None,
        Kind::Model => {
            findings.note("instance_group", "KIND_MODEL is taken as KIND_AUTO");
            None
        }
    };
    if !devices.is_empty() {
        if overrides.provider == Some(Provider::Cpu) {
            findings.problem("instance_group has gpus, but kind KIND_CPU");
        }
        overrides.devices = Some(devices);
    } else if overrides.provider == Some(Provider::Cuda) {
        findings.note(
            "instance_group",
            "without gpus device 0 is used, in Triton all of them; devices in [models.NAME] says otherwise",
        );
    }
}

/// What Triton's parameters are called by ONNX Runtime; those that begin with `trt_` are its own.
fn tensorrt(accelerator: &Accelerator, overrides: &mut Overrides, findings: &mut Findings) {
    for (key, value) in &accelerator.parameters {
        let option = match &key[..] {
            "precision_mode" => match &value[..] {
                "FP16" => Some(("trt_fp16_enable", "1")),
                "BF16" => Some(("trt_bf16_enable", "1")),
                "INT8" => Some(("trt_int8_enable", "1")),
                "FP32" => None,
                _ => {
                    findings.problem(format!("unsupported precision mode '{value}' is requested"));
                    None
                }
            },
            "max_workspace_size_bytes" => Some(("trt_max_workspace_size", &value[..])),
            "int8_calibration_table_name" => Some(("trt_int8_calibration_table_name", &value[..])),
            "int8_use_native_calibration_table" => {
                Some(("trt_int8_use_native_calibration_table", &value[..]))
            }
            own if own.starts_with("trt_") => Some((own, &value[..])),
            _ => {
                findings.problem(format!(
                    "unknown parameter '{key}' is provided for TensorRT Execution Accelerator"
                ));
                None
            }
        };
        if let Some((key, value)) = option {
            overrides.tensorrt.insert(key.to_owned(), value.to_owned());
        }
    }
}

fn cuda(accelerator: &Accelerator, overrides: &mut Overrides, findings: &mut Findings) {
    for (key, value) in &accelerator.parameters {
        let field = format!("gpu_execution_accelerator 'cuda' {key}");
        match &key[..] {
            "gpu_mem_limit" => cuda_memory_limit(&field, value, overrides, findings),
            "enable_cuda_graph" => overrides.cuda.graphs = boolean(&field, value, findings),
            "use_tf32" => overrides.cuda.tf32 = boolean(&field, value, findings),
            _ => findings.note(&field, "not supported, the worker chooses it"),
        }
    }
}
