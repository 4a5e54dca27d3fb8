//! The validated worker configuration.

mod dataflow;
mod model;
mod overrides;
mod pipeline;
mod provider;
mod repository;
mod security;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use dataflow::{Dataflow, FlowError, Place, Ports, Wiring};
pub use model::{Model, Padding, VersionPolicy};
pub use overrides::{CudaOverrides, Overrides};
pub use pipeline::{
    BuiltIn, Channels, Declared, Detokenizer, Ensemble, Ensembles, Filter, IdType, Image, Labels,
    Layout, PadTo, Pool, PoolMethod, Resize, Step, StepKind, Tokenizer, Values,
};
pub use provider::{Cuda, Device, Provider, ProviderOptions};
pub use repository::ModelControl;
pub use security::WorkerTls;

use crate::problem::Problems;
use crate::telemetry::Telemetry;
use crate::{defaults, read};

/// Everything `forebay-worker` needs. `Worker::default_for(repository)` is what runs without a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Worker {
    /// gRPC: Open Inference Protocol, health, load reports.
    pub listen: SocketAddr,
    /// REST of the Open Inference Protocol, `/metrics`; off when `None`.
    pub http_listen: Option<SocketAddr>,
    /// Of both listeners; plain text when `None`.
    pub tls: Option<WorkerTls>,
    /// File with the bearer token that calls must carry which change the server; None: nobody needs one.
    pub repository_token_file: Option<PathBuf>,
    /// `<repository>/<model>/<version>/model.onnx`
    pub repository: PathBuf,
    pub model_control: ModelControl,
    /// Bytes that the loaded models may take; instances that are idle longest go when it is exceeded. None: unbounded.
    pub memory_budget_bytes: Option<u64>,
    /// Path of libonnxruntime; None: searched (ORT_DYLIB_PATH, beside the binary, Python package).
    pub onnxruntime: Option<PathBuf>,
    /// Intra-op threads of each instance; None: cores divided by instances, at least 1.
    pub threads: Option<usize>,
    /// Largest message, both ways, in bytes.
    pub max_message_bytes: u64,
    /// Bodies of requests in memory at a time, of all requests together, in bytes; at least `max_message_bytes`.
    pub max_body_bytes: u64,
    pub drain_timeout: Duration,
    pub telemetry: Telemetry,
    /// What applies to models that `models` does not name.
    pub defaults: Model,
    /// What is said of one model alone, by its name; `model` puts it over `defaults`.
    pub models: BTreeMap<String, Overrides>,
    /// Those of `[models.NAME]` that are made of steps.
    pub ensembles: Ensembles,
}

impl Worker {
    /// Every problem at once, or a configuration that needs no rechecking.
    pub fn parse(text: &str) -> Result<Self, Problems> {
        read::worker(text)
    }

    /// How the model of this name is to be served, if nothing but this file speaks of it.
    pub fn model(&self, name: &str) -> Model {
        self.model_over(name, self.defaults.clone())
    }

    /// The same where something else, such as the model's own folder, speaks of it too: what that comes to over
    /// `defaults` is `below`.
    pub fn model_over(&self, name: &str, below: Model) -> Model {
        match self.models.get(name) {
            Some(overrides) => overrides.over(below),
            None => below,
        }
    }

    /// What a file that says nothing but `repository` yields.
    pub fn default_for(repository: PathBuf) -> Self {
        defaults::worker(repository)
    }
}
