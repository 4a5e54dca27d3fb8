use std::time::Duration;

use forebay_config::worker::Provider;
use forebay_proto::tensor::DataType;
use proptest::prelude::*;

use super::*;

mod ensemble;
mod silence;

/// Everything that the worker honours.
const WHOLE: &str = r#"
# Comments, both kinds of quotes, optional colons and separators are the text format's.
name: "minilm"
platform: 'onnxruntime_onnx'
max_batch_size: 16
input [
  { name: "input_ids" data_type: TYPE_INT64 dims: [ -1 ] },
  { name: "attention_mask" data_type: TYPE_INT64 dims: [ -1 ] }
]
output { name: "scores", data_type: TYPE_FP32, dims: [ 4 ], label_filename: "labels.txt" }
version_policy: { specific { versions: [3, 1] } }
instance_group [ { name: "a" count: 2 kind: KIND_GPU gpus: [ 1, 0 ] } ]
default_model_filename: "minilm.onnx"
dynamic_batching {
  preferred_batch_size: [ 8, 4 ]
  max_queue_delay_microseconds: 2500
  priority_levels: 3
  default_priority_level: 2
  default_queue_policy { max_queue_size: 64 }
}
optimization { execution_accelerators {
  gpu_execution_accelerator : [ {
    name : "tensorrt"
    parameters { key: "precision_mode" value: "FP16" }
    parameters { key: "max_workspace_size_bytes" value: "1073741824" }
    parameters { key: "trt_engine_cache_enable" value: "1" }
  }, { name: "cuda" parameters { key: "gpu_mem_limit" value: "1048576" } } ]
}}
parameters { key: "intra_op_thread_count" value: { string_value: "3" } }
parameters { key: "owner" value: { string_value: "team" } }
model_warmup [ {
  name: "zeros" batch_size: 4 count: 2
  inputs { key: "input_ids" value: { data_type: TYPE_INT64 dims: 8 zero_data: true } }
} ]
response_cache { enable: true }
"#;

fn understood(text: &str) -> Understood {
    read(text, "minilm", &Model::default()).expect("it is right")
}

fn refused(text: &str) -> String {
    read(text, "minilm", &Model::default()).expect_err("it is wrong")
}

#[test]
fn what_is_honoured_becomes_settings() {
    let Understood {
        overrides,
        model_file,
        declared,
        ensemble,
        warm_up,
        notes,
        message,
    } = understood(WHOLE);
    assert_eq!(ensemble, None);
    assert!(notes.is_empty(), "{notes:?}");
    let model = overrides.over(Model::default());
    assert_eq!(model.max_batch_size, 16);
    assert!(model.dynamic_batching);
    assert_eq!(model.preferred_batch_sizes, [4, 8]);
    assert_eq!(model.max_queue_delay, Duration::from_micros(2500));
    assert_eq!((model.priority_levels, model.default_priority), (3, 2));
    assert_eq!(model.max_queue_size, 64);
    assert_eq!(model.versions, VersionPolicy::Specific(vec![1, 3]));
    assert_eq!((model.instances, model.devices), (2, vec![1, 0]));
    assert_eq!(model.provider, Provider::TensorRt);
    assert_eq!(model.threads, Some(3));
    assert_eq!(model.response_cache_bytes, 64 << 20);
    let options = model.provider_options;
    assert_eq!(options.cuda.memory_limit_bytes, Some(1 << 20));
    let option = |key: &str| options.tensorrt.get(key).map(String::as_str);
    assert_eq!(option("trt_fp16_enable"), Some("1"));
    assert_eq!(option("trt_max_workspace_size"), Some("1073741824"));
    assert_eq!(option("trt_engine_cache_enable"), Some("1"));
    assert_eq!(model.labels["scores"].to_str(), Some("labels.txt"));
    assert_eq!(model_file.as_deref(), Some("minilm.onnx"));
    assert_eq!(declared.batching, Batching::Rows(16));
    assert_eq!(declared.inputs[1].name, "attention_mask");
    let sample = Sample {
        name: "zeros".to_owned(),
        batch_size: 4,
        count: 2,
        inputs: vec![SampleInput {
            name: "input_ids".to_owned(),
            datatype: DataType::Int64,
            dims: vec![8],
            content: Content::Zero,
        }],
    };
    assert_eq!(warm_up, [sample]);
    assert_eq!(message.parameters["owner"].string_value, "team");
}

#[test]
fn the_workers_configuration_says_how_large_a_cache_is() {
    let defaults = Model {
        response_cache_bytes: 7,
        ..Model::default()
    };
    let understood = read("response_cache { enable: true }", "a", &defaults);
    assert_eq!(
        understood.map(|said| said.overrides.response_cache_bytes),
        Ok(Some(7))
    );
}

#[test]
fn an_empty_file_says_nothing() {
    let said = understood("");
    assert_eq!(said.overrides, Overrides::default());
    assert_eq!(said.declared.batching, Batching::Unsaid);
    assert_eq!(said.notes, [""; 0]);
}

const TENSORS: &str = "input { name: 'x' data_type: TYPE_FP32 dims: 4 } \
                       output { name: 'y' data_type: TYPE_FP32 dims: 4 }";

#[test]
fn batching_is_what_triton_would_do() {
    let said = |text: &str| {
        let said = understood(text);
        (
            said.declared.batching,
            said.overrides.dynamic_batching,
            said.notes.len(),
        )
    };
    let complete = |text: &str| said(&format!("{TENSORS} {text}"));
    assert_eq!(complete(""), (Batching::None, None, 0));
    assert_eq!(
        complete("max_batch_size: 8"),
        (Batching::Rows(8), Some(false), 1)
    );
    assert_eq!(
        complete("max_batch_size: 8 dynamic_batching {}"),
        (Batching::Rows(8), Some(true), 0)
    );
    // What Triton completes from the model batches by itself.
    assert_eq!(
        said("max_batch_size: 8"),
        (Batching::Rows(8), Some(true), 0)
    );
    assert_eq!(
        said("instance_group { count: 2 }"),
        (Batching::Unsaid, None, 0)
    );
}

#[test]
fn groups_of_instances_are_put_together() {
    let placed = |groups: &str| {
        let said = understood(&format!("instance_group [{groups}]"));
        let overrides = said.overrides;
        (
            overrides.instances,
            overrides.provider,
            overrides.devices,
            said.notes.len(),
        )
    };
    assert_eq!(
        placed("{ kind: KIND_CPU }"),
        (Some(1), Some(Provider::Cpu), None, 0)
    );
    assert_eq!(
        placed("{ kind: KIND_CPU count: 2 }, { kind: KIND_CPU count: 3 }"),
        (Some(5), Some(Provider::Cpu), None, 0)
    );
    assert_eq!(placed("{ count: 2 }"), (Some(2), None, None, 0));
    assert_eq!(
        placed("{ kind: KIND_GPU }"),
        (Some(1), Some(Provider::Cuda), None, 1)
    );
    assert_eq!(
        placed("{ kind: KIND_GPU gpus: [0] count: 2 }, { kind: KIND_GPU gpus: [1] }"),
        (Some(2), Some(Provider::Cuda), Some(vec![0, 1]), 1)
    );
    assert_eq!(
        placed("{ kind: KIND_CPU count: 4 }, { kind: KIND_GPU gpus: [2] }"),
        (Some(1), Some(Provider::Cuda), Some(vec![2]), 1)
    );
}

#[test]
fn accelerators_follow_the_instances() {
    let openvino = "optimization { execution_accelerators { cpu_execution_accelerator { name: 'openvino' } } }";
    assert_eq!(
        understood(openvino).overrides.provider,
        Some(Provider::OpenVino)
    );
    let tensorrt = "optimization { execution_accelerators { gpu_execution_accelerator { name: 'tensorrt' } } }";
    let on_cpu = understood(&format!("instance_group {{ kind: KIND_CPU }} {tensorrt}"));
    assert_eq!(on_cpu.overrides.provider, Some(Provider::Cpu));
    assert_eq!(on_cpu.notes.len(), 1);
}

#[test]
fn what_cannot_be_is_refused_with_its_reason() {
    for (text, reason) in [
        ("max_batch_size: \"8\"", "config.pbtxt: line 1: expected"),
        ("\n\nbatch_size: 8", "line 3: field 'batch_size' not found"),
        ("input [ { name: 'x' ", "line 1: expected"),
        ("name: 'a' name: 'b'", "'name' is already set"),
        (
            "name: 'bert'",
            "unexpected directory name 'minilm' for model 'bert'",
        ),
        (
            "platform: 'tensorrt_plan'",
            "platform 'tensorrt_plan' is not served here",
        ),
        (
            "platform: 'ensemble'",
            "the platform 'ensemble' needs ensemble_scheduling",
        ),
        (
            "ensemble_scheduling {}",
            "ensemble_scheduling needs the platform 'ensemble'",
        ),
        ("backend: 'python'", "backend 'python' is not served here"),
        (
            "max_batch_size: -1",
            "'max_batch_size' must be a non-negative value, found -1",
        ),
        (
            "default_model_filename: '../m.onnx'",
            "default_model_filename '../m.onnx' is not the name",
        ),
        (
            "version_policy { specific { versions: 0 } }",
            "expected one or more positive numbers",
        ),
        ("sequence_batching {}", "sequence_batching is not supported"),
        (
            "batch_input { kind: BATCH_ITEM_SHAPE }",
            "batch_input is not supported",
        ),
        ("batch_output {}", "batch_output is not supported"),
        (
            "input { data_type: TYPE_FP32 dims: 1 }",
            "model input must specify 'name'",
        ),
        (
            "input { name: 'x' dims: 1 }",
            "model input 'x' must specify 'data_type'",
        ),
        (
            "output { name: 'y' data_type: TYPE_FP32 }",
            "model output 'y' must specify 'dims'",
        ),
        (
            "output { name: 'y' data_type: TYPE_FP32 dims: 0 }",
            "found 0",
        ),
        (
            "input { name: 'x' data_type: TYPE_FP32 dims: [4, -1] reshape { shape: [2, -1] } }",
            "different size for dims [4, -1] and reshape [2, -1]",
        ),
        (
            "max_batch_size: 4 dynamic_batching { preferred_batch_size: 8 }",
            "must be <= max batch size (4), found 8",
        ),
        (
            "dynamic_batching { priority_levels: 2 }",
            "default priority level must be in range [1, 2], found 0",
        ),
        ("instance_group { count: -1 }", "count must be zero or more"),
        (
            "instance_group { kind: KIND_CPU gpus: 0 }",
            "has gpus, but kind KIND_CPU",
        ),
        ("instance_group { gpus: -1 }", "gpus -1, expected 0 or more"),
        (
            "optimization { execution_accelerators { cpu_execution_accelerator { name: 'xnnpack' } } }",
            "unknown Execution Accelerator 'xnnpack' is requested",
        ),
        (
            "optimization { execution_accelerators { gpu_execution_accelerator { name: 'tensorrt' \
             parameters { key: 'precision_mode' value: 'FP8' } } } }",
            "unsupported precision mode 'FP8' is requested",
        ),
        (
            "parameters { key: 'intra_op_thread_count' value: { string_value: 'all' } }",
            "parameters 'intra_op_thread_count' is 'all', expected an integer",
        ),
        (
            "model_warmup { name: 'w' batch_size: 2 }",
            "batch_size 2 must be <= max batch size (0)",
        ),
        (
            "model_warmup { name: 'w' inputs { key: 'x' value: { data_type: TYPE_FP32 \
             input_data_file: '../secret' } } }",
            "input_data_file '../secret' is not in the folder 'warmup'",
        ),
    ] {
        let told = refused(text);
        assert!(told.contains(reason), "{text}: {told}");
        assert!(!told.contains('\n'), "{told}");
    }
}

#[test]
fn every_problem_is_told_at_once() {
    let told = refused("name: 'bert' backend: 'python' sequence_batching {}");
    assert_eq!(told.matches("; ").count(), 2, "{told}");
}

proptest! {
    #[test]
    fn a_damaged_file_is_read_or_refused(
        from in any::<prop::sample::Index>(),
        length in 0usize..60,
        with in "(-?[0-9]{1,19}|[\\[\\]{}:,'\"#]|TYPE_[A-Z]{4}|\\PC){0,4}",
    ) {
        let characters: Vec<char> = WHOLE.chars().collect();
        let from = from.index(characters.len());
        let rest = &characters[(from + length).min(characters.len())..];
        let damaged = characters[..from].iter().copied().chain(with.chars());
        let damaged: String = damaged.chain(rest.iter().copied()).collect();
        if let Err(reason) = read(&damaged, "minilm", &Model::default()) {
            prop_assert!(reason.starts_with("config.pbtxt: ") && !reason.contains('\n'), "{}", reason);
        }
    }
}

#[test]
fn clients_may_say_the_same_as_json() {
    let json = r#"{"max_batch_size": 8, "versionPolicy": {"specific": {"versions": ["2", 1]}},
        "instance_group": [{"count": 2, "kind": "KIND_CPU"}],
        "dynamic_batching": {"max_queue_delay_microseconds": 500}}"#;
    let said = read_json(json, "minilm", &Model::default()).unwrap();
    let model = said.overrides.over(Model::default());
    assert_eq!((model.max_batch_size, model.instances), (8, 2));
    assert_eq!(model.versions, VersionPolicy::Specific(vec![1, 2]));
    assert_eq!(model.max_queue_delay, Duration::from_micros(500));
    assert!(read_json("{}", "minilm", &Model::default()).is_ok());
}

#[test]
fn json_that_is_no_configuration_is_refused() {
    for (json, part) in [
        ("", "EOF"),
        ("5", "expected"),
        ("{} {}", "trailing"),
        (r#"{"max_batch_sizes": 1}"#, "max_batch_sizes"),
        (r#"{"max_batch_size": "many"}"#, "invalid digit"),
        (r#"{"name": "another"}"#, "another"),
    ] {
        let error = read_json(json, "minilm", &Model::default()).unwrap_err();
        assert!(error.starts_with("parameter 'config': "), "{error}");
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn labels_are_read_from_the_models_folder_alone() {
    for path in ["/etc/passwd", "../other/labels.txt", ".."] {
        let text = format!(
            r#"output {{ name: "y" data_type: TYPE_FP32 dims: [ 4 ] label_filename: "{path}" }}"#
        );
        let error = read(&text, "minilm", &Model::default()).unwrap_err();
        assert!(error.contains(path), "{error}");
    }
}
