//! `parameters`: those that Triton's ONNX Runtime backend reads. Others are the user's own and mean nothing to
//! either server.

use forebay_config::worker::Overrides;
use forebay_proto::inference::ModelConfig;

use super::Findings;
use super::limits::THREADS;

pub(super) fn read(config: &ModelConfig, overrides: &mut Overrides, findings: &mut Findings) {
    for (key, parameter) in &config.parameters {
        let value = &parameter.string_value[..];
        let field = format!("parameters '{key}'");
        match &key[..] {
            "intra_op_thread_count" => match value.parse::<i64>() {
                // The number is left to the server.
                Ok(..=0) => {}
                Ok(threads) => {
                    let threads = findings.within(&field, threads, &THREADS);
                    overrides.threads = threads.and_then(|threads| usize::try_from(threads).ok());
                }
                Err(_) => findings.problem(format!("{field} is '{value}', expected an integer")),
            },
            "gpu_mem_limit" => cuda_memory_limit(&field, value, overrides, findings),
            "inter_op_thread_count" if is_zero(value) => {}
            "execution_mode" if is_zero(value) => {}
            "inter_op_thread_count" | "execution_mode" => findings.note(
                &field,
                "not supported, operators run one after the other; instances run side by side",
            ),
            "enable_mem_arena"
            | "enable_mem_pattern"
            | "memory.enable_memory_arena_shrinkage"
            | "session.use_device_allocator_for_initializers"
            | "share_session_between_instances"
            | "cudnn_conv_algo_search"
            | "arena_extend_strategy"
            | "do_copy_in_default_stream" => {
                findings.note(&field, "not supported, the worker chooses it");
            }
            _ => {}
        }
    }
}

fn is_zero(value: &str) -> bool {
    value.parse() == Ok(0_i64)
}

/// The largest number that fits stands for no limit.
pub(super) fn cuda_memory_limit(
    field: &str,
    value: &str,
    overrides: &mut Overrides,
    findings: &mut Findings,
) {
    match value.parse::<u64>() {
        Ok(0 | u64::MAX) => overrides.cuda.memory_limit_bytes = Some(None),
        Ok(bytes) => overrides.cuda.memory_limit_bytes = Some(Some(bytes)),
        Err(_) => findings.problem(format!("{field} is '{value}', expected a number of bytes")),
    }
}

pub(super) fn boolean(field: &str, value: &str, findings: &mut Findings) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => {
            findings.problem(format!("{field} is '{value}', expected true or false"));
            None
        }
    }
}
