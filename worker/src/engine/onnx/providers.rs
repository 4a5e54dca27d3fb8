//! Where a session runs: which provider is tried, with which options.
//!
//! A provider that somebody named runs the model or loading fails; only `auto` may go to the CPU instead. ONNX
//! Runtime itself would quietly make a CPU session, so registering must fail loudly, and a provider that took
//! not one node of the graph does not count as running it.
//!
//! The options of TensorRT and OpenVINO are ONNX Runtime's own and checked by it, which knows its version. Only
//! those are refused here that hand over an address of memory, and those that have a key of their own.

use std::collections::BTreeMap;

use forebay_config::worker::{Cuda, Device, Provider, ProviderOptions};
use ort::ep::{self, ArbitrarilyConfigurableExecutionProvider as _, ExecutionProvider as _};
use ort::session::builder::{BuilderResult, SessionBuilder};

use crate::engine::NodeShare;
use crate::engine::onnx::one_line;
use crate::engine::onnx::options::SessionOptions;

/// A provider that is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Placement {
    Cpu,
    Cuda,
    TensorRt,
    OpenVino,
}

impl Placement {
    /// The name the model is reported with.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::TensorRt => "tensorrt",
            Self::OpenVino => "openvino",
        }
    }

    /// ONNX Runtime's name.
    pub(super) const fn runtime_name(self) -> &'static str {
        match self {
            Self::Cpu => ep::CPU::NAME,
            Self::Cuda => ep::CUDA::NAME,
            Self::TensorRt => ep::TensorRT::NAME,
            Self::OpenVino => ep::OpenVINO::NAME,
        }
    }

    /// Whether all instances of a model run one session.
    pub(super) const fn shares_session(self) -> bool {
        matches!(self, Self::Cpu)
    }

    /// The Python package whose library has it.
    pub(super) const fn package(self) -> &'static str {
        match self {
            Self::Cpu => "onnxruntime",
            Self::Cuda | Self::TensorRt => "onnxruntime-gpu",
            Self::OpenVino => "onnxruntime-openvino",
        }
    }

    /// What the configured provider comes down to, in the order to try them; the last one is meant to succeed.
    /// `auto` does not try what the library does not have.
    pub(super) fn order(provider: Provider, library_has: impl Fn(Self) -> bool) -> &'static [Self] {
        match provider {
            Provider::Cpu => &[Self::Cpu],
            Provider::Cuda => &[Self::Cuda],
            Provider::TensorRt => &[Self::TensorRt],
            Provider::OpenVino => &[Self::OpenVino],
            Provider::Auto if library_has(Self::Cuda) => &[Self::Cuda, Self::Cpu],
            Provider::Auto => &[Self::Cpu],
        }
    }

    /// Whether the library was built with it. It may still lack what it needs to run.
    pub(super) fn in_library(self) -> bool {
        let has = match self {
            Self::Cpu => return true,
            Self::Cuda => ep::CUDA::is_available(),
            Self::TensorRt => ep::TensorRT::is_available(),
            Self::OpenVino => ep::OpenVINO::is_available(),
        };
        has.unwrap_or(false)
    }

    /// Intra-op threads of a session: what a GPU leaves to the CPU is too little to share out.
    pub(super) fn threads(self, options: &SessionOptions) -> usize {
        match self {
            Self::Cpu => options.shared_threads(),
            Self::OpenVino => options.threads,
            Self::Cuda | Self::TensorRt => 1,
        }
    }

    /// # Errors
    /// It did not take a node of the graph.
    pub(super) fn check_share(self, shares: &[NodeShare]) -> Result<(), String> {
        let all: usize = shares.iter().map(|share| share.nodes).sum();
        let mine = shares
            .iter()
            .any(|share| share.provider == self.runtime_name() && share.nodes > 0);
        if self == Self::Cpu || all == 0 || mine {
            return Ok(());
        }
        Err(format!(
            "it has kernels for none of the model's {all} nodes"
        ))
    }

    /// A refusal, with the options that may have led to it where the provider does not say.
    pub(super) fn explain(self, refusal: String, options: &ProviderOptions) -> String {
        match self {
            Self::Cpu | Self::Cuda => refusal,
            Self::TensorRt => with_options(refusal, &options.tensorrt, &[]),
            Self::OpenVino => with_options(refusal, &options.openvino, &OPENVINO_OPTIONS),
        }
    }

    /// For the CPU nothing is registered: naming that provider switches its memory arena off.
    ///
    /// # Errors
    /// The provider is not in the library, cannot run, or does not know an option.
    pub(super) fn register(
        self,
        builder: SessionBuilder,
        request: &Request<'_>,
    ) -> Result<SessionBuilder, String> {
        let options = &request.options.provider_options;
        let provider = match self {
            Self::Cpu if request.options.arena => return Ok(builder),
            Self::Cpu => ep::CPU::default().with_arena_allocator(false).build(),
            Self::Cuda if options.cuda.graphs => {
                return Err("CUDA graphs are not supported".to_owned());
            }
            Self::Cuda => cuda(&options.cuda, request.device).build(),
            Self::TensorRt => {
                let plain = tensorrt_options(&options.tensorrt, request)?;
                let with = |provider: ep::TensorRT, (key, value): (String, String)| {
                    provider.with_arbitrary_config(key, value)
                };
                let tensorrt = plain.into_iter().fold(ep::TensorRT::default(), with);
                let rest = cuda(&options.cuda, request.device).build();
                let both = [tensorrt.build().error_on_failure(), rest.error_on_failure()];
                return registered(builder.with_execution_providers(both));
            }
            Self::OpenVino => {
                let plain = openvino_options(&options.openvino, request)?;
                let with = |provider: ep::OpenVINO, (key, value): (String, String)| {
                    provider.with_arbitrary_config(key, value)
                };
                plain
                    .into_iter()
                    .fold(ep::OpenVINO::default(), with)
                    .build()
            }
        };
        registered(builder.with_execution_providers([provider.error_on_failure()]))
    }
}

fn registered(result: BuilderResult) -> Result<SessionBuilder, String> {
    result.map_err(|error| one_line(&error))
}

/// What a provider is to be registered for.
pub(super) struct Request<'a> {
    pub(super) options: &'a SessionOptions,
    /// `None`: nobody said.
    pub(super) device: Option<Device>,
    /// TensorRT's optimisation profile: the smallest, usual and largest shapes of all inputs, if they are known.
    pub(super) profile: Option<&'a Profile>,
}

/// Shapes in TensorRT's notation: "ids:1x128,mask:1x128".
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Profile {
    pub(super) min: String,
    pub(super) opt: String,
    pub(super) max: String,
}

impl Profile {
    /// For inputs that are free in the batch axis alone; `None` if others are free too or none is.
    pub(super) fn of(inputs: &[(String, Option<Vec<i64>>)], max_rows: u32) -> Option<Self> {
        let by_rows = |rows: u32| {
            let input = |(name, shape): &(String, Option<Vec<i64>>)| {
                let (first, rest) = shape.as_ref()?.split_first()?;
                let fixed = *first < 0 && rest.iter().all(|dimension| *dimension > 0);
                let dimensions = rest.iter().map(|dimension| format!("x{dimension}"));
                fixed.then(|| format!("{name}:{rows}{}", dimensions.collect::<String>()))
            };
            let shapes = inputs.iter().map(input).collect::<Option<Vec<_>>>()?;
            (!shapes.is_empty()).then(|| shapes.join(","))
        };
        let max_rows = max_rows.max(1);
        Some(Self {
            min: by_rows(1)?,
            opt: by_rows(max_rows)?,
            max: by_rows(max_rows)?,
        })
    }
}

/// The arena grows by what is asked for, not by doubling, and convolutions are not searched exhaustively: both
/// make the first run of every shape slow.
fn cuda(options: &Cuda, device: Option<Device>) -> ep::CUDA {
    let provider = ep::CUDA::default()
        .with_device_id(device_number(device))
        .with_arena_extend_strategy(ep::ArenaExtendStrategy::SameAsRequested)
        .with_conv_algorithm_search(ep::cuda::ConvAlgorithmSearch::Heuristic)
        .with_tf32(options.tf32);
    match options.memory_limit_bytes {
        Some(limit) => provider.with_memory_limit(usize::try_from(limit).unwrap_or(usize::MAX)),
        None => provider,
    }
}

fn device_number(device: Option<Device>) -> i32 {
    i32::try_from(device.unwrap_or(0)).unwrap_or(i32::MAX)
}

type Options = BTreeMap<String, String>;

fn tensorrt_options(configured: &Options, request: &Request<'_>) -> Result<Options, String> {
    const ELSEWHERE: [(&str, &str); 4] = [
        ("device_id", "name the device in 'devices'"),
        ("user_compute_stream", "it is an address of memory"),
        ("has_user_compute_stream", "it is an address of memory"),
        ("trt_onnx_bytestream", "it is an address of memory"),
    ];
    let mut options = checked(configured, &ELSEWHERE)?;
    for (path, enable) in [
        ("trt_engine_cache_path", "trt_engine_cache_enable"),
        ("trt_timing_cache_path", "trt_timing_cache_enable"),
    ] {
        if options.contains_key(path) {
            options
                .entry(enable.to_owned())
                .or_insert_with(|| "1".to_owned());
        }
    }
    let profiled = options.keys().any(|key| key.starts_with("trt_profile_"));
    if let Some(profile) = request.profile.filter(|_| !profiled) {
        options.insert("trt_profile_min_shapes".to_owned(), profile.min.clone());
        options.insert("trt_profile_opt_shapes".to_owned(), profile.opt.clone());
        options.insert("trt_profile_max_shapes".to_owned(), profile.max.clone());
    }
    options.insert(
        "device_id".to_owned(),
        device_number(request.device).to_string(),
    );
    Ok(options)
}

/// Threads are those of the session unless the options say otherwise; the device has its number behind its type.
fn openvino_options(configured: &Options, request: &Request<'_>) -> Result<Options, String> {
    const ELSEWHERE: [(&str, &str); 2] = [
        ("device_id", "name the device in 'devices'"),
        ("context", "it is an address of memory"),
    ];
    let mut options = checked(configured, &ELSEWHERE)?;
    let device_type = options
        .entry("device_type".to_owned())
        .or_insert_with(|| "CPU".to_owned());
    match request.device {
        None => {}
        Some(device) if device_type == "GPU" => *device_type = format!("GPU.{device}"),
        Some(0) => {}
        Some(device) => {
            return Err(format!(
                "device {device} is named, but openvino's device_type '{device_type}' has no numbers, only 'GPU' has"
            ));
        }
    }
    options
        .entry("num_of_threads".to_owned())
        .or_insert_with(|| request.options.threads.to_string());
    Ok(options)
}

/// Those of ONNX Runtime 1.24, whose OpenVINO provider does not say which option it does not know.
const OPENVINO_OPTIONS: [&str; 14] = [
    "cache_dir",
    "device_luid",
    "device_type",
    "disable_dynamic_shapes",
    "enable_causallm",
    "enable_opencl_throttling",
    "enable_qdq_optimizer",
    "layout",
    "load_config",
    "model_priority",
    "num_of_threads",
    "num_streams",
    "precision",
    "reshape_input",
];

/// A refusal with the options that may have led to it: those that are not `known`, else all.
fn with_options(error: String, configured: &Options, known: &[&str]) -> String {
    let unknown = |key: &&String| !known.is_empty() && !known.contains(&key.as_str());
    let suspects: Vec<&String> = configured.keys().filter(unknown).collect();
    if let Some(suspect) = suspects.first() {
        return format!("{error}; unknown option '{suspect}'");
    }
    let pairs: Vec<String> = configured
        .iter()
        .map(|(key, value)| format!("{key} = '{value}'"))
        .collect();
    if pairs.is_empty() {
        return error;
    }
    format!("{error}; its options were {}", pairs.join(", "))
}

fn checked(configured: &Options, elsewhere: &[(&str, &str)]) -> Result<Options, String> {
    for (key, value) in configured {
        if key.is_empty() || key.contains('\0') || value.contains('\0') {
            return Err(format!("option '{key}' is empty or has a NUL character"));
        }
        if let Some((_, advice)) = elsewhere.iter().find(|(name, _)| name == key) {
            return Err(format!("option '{key}' cannot be set: {advice}"));
        }
    }
    Ok(configured.clone())
}

#[cfg(test)]
mod tests;
