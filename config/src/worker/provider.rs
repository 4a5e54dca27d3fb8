//! Execution providers: what runs a model, where, and with which options.

use std::collections::BTreeMap;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    Cpu,
    /// Must run on CUDA; else loading fails.
    Cuda,
    /// Must run on TensorRT, the rest of its graph on CUDA; else loading fails.
    TensorRt,
    /// Must run on OpenVINO; else loading fails.
    OpenVino,
    /// CUDA if it can, else CPU, and says so.
    Auto,
}

/// Number of a device as the provider counts them, from 0.
pub type Device = u32;

/// Tables `[….cuda]`, `[….tensorrt]`, `[….openvino]`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ProviderOptions {
    pub cuda: Cuda,
    /// Keys and values as ONNX Runtime documents them for the TensorRT provider.
    pub tensorrt: BTreeMap<String, String>,
    /// Keys and values as ONNX Runtime documents them for the OpenVINO provider.
    pub openvino: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Cuda {
    /// Bytes of device memory that the arena of one session may take; None: unbounded.
    pub memory_limit_bytes: Option<u64>,
    /// A CUDA graph for each batch size that is run. The worker refuses a model for which this is set.
    pub graphs: bool,
    /// TF32 in matrix products of FP32.
    pub tf32: bool,
}

impl Default for Cuda {
    fn default() -> Self {
        Self {
            memory_limit_bytes: None,
            graphs: false,
            tf32: true,
        }
    }
}
