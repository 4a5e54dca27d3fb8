//! What a request to load a model may not say, though a file in the repository may.
//!
//! Options of TensorRT name files that are written and libraries that are run. Whoever may have a model loaded
//! may not thereby do either, so of a request only those are taken that are known to name nothing.

use super::Understood;

/// As of ONNX Runtime 1.24.
const HARMLESS: [&str; 24] = [
    "trt_auxiliary_streams",
    "trt_bf16_enable",
    "trt_build_heuristics_enable",
    "trt_builder_optimization_level",
    "trt_context_memory_sharing_enable",
    "trt_cuda_graph_enable",
    "trt_detailed_build_log",
    "trt_dla_core",
    "trt_dla_enable",
    "trt_engine_hw_compatible",
    "trt_force_sequential_engine_build",
    "trt_fp16_enable",
    "trt_int8_enable",
    "trt_int8_use_native_calibration_table",
    "trt_layer_norm_fp32_fallback",
    "trt_max_partition_iterations",
    "trt_max_workspace_size",
    "trt_min_subgraph_size",
    "trt_op_types_to_exclude",
    "trt_profile_max_shapes",
    "trt_profile_min_shapes",
    "trt_profile_opt_shapes",
    "trt_sparsity_enable",
    "trt_tactic_sources",
];

impl Understood {
    /// # Errors
    /// It says what only the repository or the worker's configuration may.
    pub fn requested(self) -> Result<Self, String> {
        let mut options = self.overrides.tensorrt.keys();
        match options.find(|key| !HARMLESS.contains(&key.as_str())) {
            None => Ok(self),
            Some(key) => Err(format!(
                "option '{key}' of tensorrt is not taken from a request, as such options may name files and \
                 libraries; say it in the repository's config.pbtxt or in [models.NAME.tensorrt]"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use forebay_config::worker::Model;

    use super::super::{read, read_json};

    #[test]
    fn a_request_names_no_files_or_libraries() {
        let json = |key: &str, value: &str| {
            format!(
                r#"{{"optimization": {{"execution_accelerators": {{"gpu_execution_accelerator": [
                {{"name": "tensorrt", "parameters": {{"{key}": "{value}"}}}}]}}}}}}"#
            )
        };
        for key in [
            "trt_extra_plugin_lib_paths",
            "trt_engine_cache_path",
            "trt_timing_cache_path",
            "trt_engine_decryption_lib_path",
            "trt_ep_context_file_path",
            "trt_onnx_model_folder_path",
            "trt_dump_subgraphs",
            "int8_calibration_table_name",
        ] {
            let told = read_json(&json(key, "/tmp/x"), "m", &Model::default());
            let told = told.expect_err("it names a file");
            assert!(
                told.contains(key) && told.contains("not taken from a request"),
                "{told}"
            );
            let text = format!(
                "optimization {{ execution_accelerators {{ gpu_execution_accelerator {{ name: 'tensorrt' \
                 parameters {{ key: '{key}' value: '/tmp/x' }} }} }} }}"
            );
            let on_disk = read(&text, "m", &Model::default()).expect("it is of the repository");
            assert!(on_disk.requested().is_err());
        }
        for (key, value) in [
            ("precision_mode", "FP16"),
            ("max_workspace_size_bytes", "1024"),
        ] {
            assert!(
                read_json(&json(key, value), "m", &Model::default()).is_ok(),
                "{key}"
            );
        }
    }
}
