//! Where a session runs.
//!
//! For the CPU nothing is registered: naming that provider switches its memory arena off. CUDA must say when
//! it cannot run, because by default ONNX Runtime then quietly makes a CPU session.

use forebay_config::worker::Provider;
use ort::session::builder::SessionBuilder;

/// A way to build the session, in the order to try them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Placement {
    Cpu,
    /// `strict`: every node of the graph must run there.
    Cuda {
        strict: bool,
    },
}

impl Placement {
    /// The name the model is reported with.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda { .. } => "cuda",
        }
    }

    /// What the configured provider comes down to; the last one is meant to succeed.
    pub(super) const fn order(provider: Provider) -> &'static [Self] {
        match provider {
            Provider::Cpu => &[Self::Cpu],
            Provider::Cuda => &[Self::Cuda { strict: true }],
            Provider::TensorRt | Provider::OpenVino => &[],
            Provider::Auto => &[Self::Cuda { strict: false }, Self::Cpu],
        }
    }

    pub(super) fn register(self, builder: SessionBuilder) -> ort::Result<SessionBuilder> {
        match self {
            Self::Cpu => Ok(builder),
            Self::Cuda { strict } => cuda(builder, strict),
        }
    }
}

#[cfg(feature = "cuda")]
fn cuda(builder: SessionBuilder, strict: bool) -> ort::Result<SessionBuilder> {
    use ort::ep;

    let provider = ep::CUDA::default()
        .with_arena_extend_strategy(ep::ArenaExtendStrategy::SameAsRequested)
        .with_conv_algorithm_search(ep::cuda::ConvAlgorithmSearch::Heuristic)
        .build()
        .error_on_failure();
    let builder = builder.with_execution_providers([provider])?;
    if strict {
        Ok(builder.with_disable_cpu_fallback()?)
    } else {
        Ok(builder)
    }
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: SessionBuilder, _: bool) -> ort::Result<SessionBuilder> {
    Err(ort::Error::new(
        "this binary was built without CUDA, build it with 'cargo build --features cuda'",
    ))
}
