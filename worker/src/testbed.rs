//! For tests of the services: both servers on loopback over a model that a script drives.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use forebay_config::worker::Model as ModelConfig;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, SpanData, SpanExporter};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::engine::fake::{self, Script};
use crate::engine::{EngineFactory, LoadedModel};
use crate::http;
use crate::model::{Model, ModelSpec};
use crate::repository::labels::Labels;
use crate::repository::{Control, Registry};
use crate::server::{Bodies, Protocols, Server};
use crate::service::{Front, Guard, grpc};
use crate::shared_memory::Regions;
use crate::telemetry::Observer;
use crate::telemetry::logs::Logs;
use crate::telemetry::spans::Tracing;

pub const MAX_MESSAGE_BYTES: usize = 64 << 10;

/// The model "fake" (version 1, x FP32 [-1,2] → y, which is x) behind both servers.
pub struct Bed {
    pub front: Arc<Front>,
    pub script: Arc<Script>,
    pub spans: Spans,
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    pub start_drain: watch::Sender<bool>,
}

impl Bed {
    pub async fn start() -> Bed {
        Bed::with(ModelConfig::default()).await
    }

    pub async fn with(config: ModelConfig) -> Bed {
        let script = Arc::new(Script::default());
        let spans = Spans::default();
        let observer = Observer {
            tracing: Tracing::new(Some(&spans.provider()), 0.0),
            ..Observer::default()
        };
        let factory: EngineFactory = script.factory();
        let loaded = LoadedModel {
            signature: fake::signature(),
            provider: "cpu",
            provider_note: Some("cuda is not available".to_owned()),
            nodes: Vec::new(),
            predictable: true,
            memory_bytes: Arc::new(|| 0),
            shares_session: false,
            first: factory(0).unwrap(),
            factory,
        };
        let spec = ModelSpec {
            name: "fake".to_owned(),
            version: 1,
            config,
            labels: Labels::default(),
            said: None,
            seats: Vec::new(),
            max_answer_bytes: MAX_MESSAGE_BYTES,
            observer: Arc::new(observer.clone()),
        };
        let (start_drain, drain) = watch::channel(false);
        let front = Arc::new(Front {
            registry: Arc::new(Registry::of([Model::start(loaded, spec).unwrap()])),
            control: Control::none(),
            regions: Regions::default(),
            guard: Guard::default(),
            logs: Logs::default(),
            observer,
            load: Arc::default(),
            max_message_bytes: MAX_MESSAGE_BYTES,
            bodies: Bodies::unbounded(),
            drain: drain.clone(),
        });
        let bind = async |protocols| {
            let address = "127.0.0.1:0".parse().unwrap();
            Server::bind(address, protocols, drain.clone(), Duration::from_secs(30))
                .await
                .unwrap()
        };
        let (grpc_server, http_server) = (bind(Protocols::Http2).await, bind(Protocols::Any).await);
        let (grpc, http) = (
            grpc_server.address().unwrap(),
            http_server.address().unwrap(),
        );
        let on_grpc = front.clone();
        tokio::spawn(grpc_server.run(move |request| grpc::answer(on_grpc.clone(), request)));
        let on_http = front.clone();
        tokio::spawn(http_server.run(move |request| http::answer(on_http.clone(), request)));
        Bed {
            front,
            script,
            spans,
            grpc,
            http,
            start_drain,
        }
    }

    /// Returns when so many runs of the engine stand at the closed gate.
    pub async fn wait_for_standing(&self, runs: usize) {
        let script = self.script.clone();
        tokio::task::spawn_blocking(move || script.wait_for_standing(runs))
            .await
            .unwrap();
    }
}

/// Finished spans.
#[derive(Debug, Clone, Default)]
pub struct Spans(Arc<Mutex<Vec<SpanData>>>);

impl Spans {
    /// What it is asked for is recorded.
    pub fn provider(&self) -> SdkTracerProvider {
        SdkTracerProvider::builder()
            .with_simple_exporter(self.clone())
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::AlwaysOn)))
            .build()
    }

    pub fn finished(&self) -> Vec<SpanData> {
        self.0.lock().clone()
    }
}

impl SpanExporter for Spans {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().extend(batch);
        Ok(())
    }
}
