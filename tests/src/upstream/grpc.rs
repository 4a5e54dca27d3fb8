//! A server of the Open Inference Protocol that answers as told: by a script, call after call, or by each request
//! itself, in its parameter `behave` (`fail 14`, `after 50`, `held`, `never`), which suits random mixes.

mod health;
mod reports;

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::http::HeaderMap;
use anyhow::Context;
use forebay_proto::health::health_server::HealthServer;
use forebay_proto::inference as wire;
use forebay_proto::inference::grpc_inference_service_server::{
    GrpcInferenceService, GrpcInferenceServiceServer,
};
use forebay_proto::inference::infer_parameter::ParameterChoice;
use forebay_proto::orca::OrcaLoadReport;
use forebay_proto::orca::open_rca_service_server::OpenRcaServiceServer;
use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tonic::metadata::MetadataValue;
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status};
use tower::Service;

use super::Listener;

/// What a call meets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Behaviour {
    /// The inputs come back as outputs.
    Answer,
    Fail(Code),
    /// `Fail`, with this in `forebay-stage`, `PUSHBACK` in `grpc-retry-pushback-ms`, and a load report.
    FailAt(Code, &'static str),
    /// `Answer`, later.
    After(Duration),
    /// `Answer` once the test releases it.
    Held,
    Never,
}

/// In milliseconds.
pub const PUSHBACK: &str = "70";

/// Messages up to this size are taken and given.
const LARGEST: usize = 64 << 20;

pub struct Upstream {
    pub address: SocketAddr,
    pub script: Arc<Script>,
    tls: Option<TlsAcceptor>,
    listener: Option<Listener>,
}

/// What the test says, and what was seen.
pub struct Script {
    name: String,
    next: Mutex<VecDeque<Behaviour>>,
    always: Mutex<Behaviour>,
    released: watch::Sender<bool>,
    serving: watch::Sender<bool>,
    unready: Mutex<BTreeSet<String>>,
    active: watch::Sender<u64>,
    infers: AtomicU64,
    cancelled: AtomicU64,
    checks: AtomicU64,
    last: Mutex<Option<Seen>>,
    /// Goes with every answer, and over streams of reports.
    report: watch::Sender<Option<OrcaLoadReport>>,
    streams: AtomicU64,
}

/// The last inference that arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    pub headers: HeaderMap,
    pub model: String,
    pub version: String,
}

impl Upstream {
    pub async fn start(name: &str) -> anyhow::Result<Self> {
        Self::start_with(name, None).await
    }

    pub async fn start_with(name: &str, tls: Option<TlsAcceptor>) -> anyhow::Result<Self> {
        Self::start_at(name, SocketAddr::from(([127, 0, 0, 1], 0)), tls).await
    }

    /// On this address, whose port may be 0.
    pub async fn start_at(
        name: &str,
        address: SocketAddr,
        tls: Option<TlsAcceptor>,
    ) -> anyhow::Result<Self> {
        let script = Arc::new(Script {
            name: name.to_owned(),
            next: Mutex::default(),
            always: Mutex::new(Behaviour::Answer),
            released: watch::Sender::new(false),
            serving: watch::Sender::new(true),
            unready: Mutex::default(),
            active: watch::Sender::new(0),
            infers: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            checks: AtomicU64::new(0),
            last: Mutex::new(None),
            report: watch::Sender::new(None),
            streams: AtomicU64::new(0),
        });
        let mut upstream = Self {
            address,
            script,
            tls,
            listener: None,
        };
        upstream.restart().await?;
        Ok(upstream)
    }

    /// Cuts every connection and stops listening, at once.
    pub fn stop(&mut self) {
        if let Some(listener) = self.listener.take() {
            listener.stop();
        }
    }

    /// Listens again, on the same port.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        let routes = Routes::new(
            GrpcInferenceServiceServer::from_arc(Arc::new(Calls(self.script.clone())))
                .max_decoding_message_size(LARGEST)
                .max_encoding_message_size(LARGEST),
        )
        .add_service(HealthServer::new(Calls(self.script.clone())))
        .add_service(OpenRcaServiceServer::new(Calls(self.script.clone())))
        .prepare();
        let handler = move |request| {
            let answer = routes.clone().call(request);
            async move { answer.await.unwrap_or_else(|never| match never {}) }
        };
        let listener = Listener::start(self.address, self.tls.clone(), handler).await?;
        self.address = listener.address;
        self.listener = Some(listener);
        Ok(())
    }
}

impl std::ops::Deref for Upstream {
    type Target = Script;

    fn deref(&self) -> &Script {
        &self.script
    }
}

impl Script {
    /// The next calls meet these, one each, before `always` counts again.
    pub fn next(&self, behaviours: impl IntoIterator<Item = Behaviour>) {
        self.next.lock().extend(behaviours);
    }

    pub fn always(&self, behaviour: Behaviour) {
        *self.always.lock() = behaviour;
    }

    /// The load report of answers from now on, sent at once and over the streams of reports that are open. Before the first
    /// there is no such service.
    pub fn report(&self, report: &OrcaLoadReport) {
        self.report.send_replace(Some(report.clone()));
    }

    /// Calls for a stream of reports.
    pub fn streams(&self) -> u64 {
        self.streams.load(Ordering::SeqCst)
    }

    /// Lets held calls go on, now and later.
    pub fn release(&self) {
        self.released.send_replace(true);
    }

    /// What the health service says from now on.
    pub fn set_serving(&self, serving: bool) {
        self.serving
            .send_if_modified(|now| std::mem::replace(now, serving) != serving);
    }

    /// What the health service says of this model from now on; it is ready unless told.
    pub fn set_ready(&self, model: &str, ready: bool) {
        let mut unready = self.unready.lock();
        if ready {
            unready.remove(model);
        } else {
            unready.insert(model.to_owned());
        }
    }

    /// Inferences that arrived.
    pub fn infers(&self) -> u64 {
        self.infers.load(Ordering::SeqCst)
    }

    /// Calls that ended because the other side gave up.
    pub fn cancelled(&self) -> u64 {
        self.cancelled.load(Ordering::SeqCst)
    }

    pub fn health_checks(&self) -> u64 {
        self.checks.load(Ordering::SeqCst)
    }

    pub fn last(&self) -> anyhow::Result<Seen> {
        self.last
            .lock()
            .clone()
            .with_context(|| format!("'{}' has seen no inference", self.name))
    }

    /// Waits until the number of calls under way is as wanted.
    pub async fn until_active(&self, wanted: impl FnMut(&u64) -> bool) -> anyhow::Result<()> {
        let mut active = self.active.subscribe();
        let waiting = active.wait_for(wanted);
        tokio::time::timeout(Duration::from_secs(10), waiting)
            .await
            .with_context(|| {
                format!(
                    "calls under way at '{}': {}",
                    self.name,
                    *self.active.borrow()
                )
            })??;
        Ok(())
    }

    fn behaviour(&self, request: &wire::ModelInferRequest) -> Result<Behaviour, Status> {
        if let Some(own) = request.parameters.get("behave") {
            let Some(ParameterChoice::StringParam(text)) = &own.parameter_choice else {
                return Err(Status::invalid_argument("behave is a string"));
            };
            return parse(text)
                .ok_or_else(|| Status::invalid_argument(format!("cannot behave '{text}'")));
        }
        Ok(self
            .next
            .lock()
            .pop_front()
            .unwrap_or_else(|| self.always.lock().clone()))
    }

    async fn infer(
        &self,
        request: wire::ModelInferRequest,
    ) -> Result<wire::ModelInferResponse, Status> {
        self.infers.fetch_add(1, Ordering::SeqCst);
        let mut underway = Underway::enter(self);
        let result = match self.behaviour(&request)? {
            Behaviour::Answer => Ok(()),
            Behaviour::Fail(code) => Err(Status::new(code, format!("{} fails as told", self.name))),
            Behaviour::FailAt(code, stage) => {
                let mut status = Status::new(code, format!("{} fails as told", self.name));
                let metadata = status.metadata_mut();
                metadata.insert("forebay-stage", MetadataValue::from_static(stage));
                metadata.insert(
                    "grpc-retry-pushback-ms",
                    MetadataValue::from_static(PUSHBACK),
                );
                let report = MetadataValue::from_bytes(b"any");
                metadata.insert_bin("endpoint-load-metrics-bin", report);
                Err(status)
            }
            Behaviour::After(delay) => {
                tokio::time::sleep(delay).await;
                Ok(())
            }
            Behaviour::Held => {
                // The sender lives as long as this.
                let _ = self
                    .released
                    .subscribe()
                    .wait_for(|released| *released)
                    .await;
                Ok(())
            }
            Behaviour::Never => std::future::pending().await,
        };
        underway.done = true;
        result.map(|()| echo(request, &self.name))
    }
}

fn parse(text: &str) -> Option<Behaviour> {
    let (word, number) = text.split_once(' ').unwrap_or((text, "0"));
    let number: u64 = number.parse().ok()?;
    Some(match word {
        "answer" => Behaviour::Answer,
        "fail" => Behaviour::Fail(Code::from_i32(i32::try_from(number).ok()?)),
        "after" => Behaviour::After(Duration::from_millis(number)),
        "held" => Behaviour::Held,
        "never" => Behaviour::Never,
        _ => return None,
    })
}

/// The inputs as outputs; the server's name in the parameter `served_by`.
fn echo(request: wire::ModelInferRequest, name: &str) -> wire::ModelInferResponse {
    let outputs =
        request
            .inputs
            .into_iter()
            .map(|input| wire::model_infer_response::InferOutputTensor {
                name: input.name,
                datatype: input.datatype,
                shape: input.shape,
                parameters: Default::default(),
                contents: input.contents,
            });
    let served_by = ParameterChoice::StringParam(name.to_owned());
    wire::ModelInferResponse {
        model_name: request.model_name,
        model_version: request.model_version,
        id: request.id,
        parameters: [(
            "served_by".to_owned(),
            wire::InferParameter {
                parameter_choice: Some(served_by),
            },
        )]
        .into(),
        outputs: outputs.collect(),
        raw_output_contents: request.raw_input_contents,
    }
}

/// Counts one call; dropped before it is done, it was cancelled.
struct Underway<'a> {
    script: &'a Script,
    done: bool,
}

impl<'a> Underway<'a> {
    fn enter(script: &'a Script) -> Self {
        script.active.send_modify(|active| *active += 1);
        Self {
            script,
            done: false,
        }
    }
}

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        // Before the change that tests wait for.
        if !self.done {
            self.script.cancelled.fetch_add(1, Ordering::SeqCst);
        }
        self.script.active.send_modify(|active| *active -= 1);
    }
}

struct Calls(Arc<Script>);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service with some calls as written and the others refused.
macro_rules! inference_service {
    ({ $($written:tt)* } $($refused:ident($request:ident) -> $response:ident;)*) => {
        #[tonic::async_trait]
        impl GrpcInferenceService for Calls {
            $($written)*

            $(async fn $refused(
                &self,
                _: Request<wire::$request>,
            ) -> Result<Response<wire::$response>, Status> {
                Err(Status::unimplemented(stringify!($refused)))
            })*
        }
    };
}

inference_service! {
    {
        type ModelStreamInferStream = Answers<wire::ModelStreamInferResponse>;

        async fn model_infer(
            &self,
            request: Request<wire::ModelInferRequest>,
        ) -> Result<Response<wire::ModelInferResponse>, Status> {
            let (metadata, _, message) = request.into_parts();
            *self.0.last.lock() = Some(Seen {
                headers: metadata.into_headers(),
                model: message.model_name.clone(),
                version: message.model_version.clone(),
            });
            let mut response = Response::new(self.0.infer(message).await?);
            if let Ok(name) = self.0.name.parse() {
                response.metadata_mut().insert("x-upstream", name);
            }
            if let Some(report) = self.0.report.borrow().as_ref() {
                let report = MetadataValue::from_bytes(&report.encode_to_vec());
                let metadata = response.metadata_mut();
                metadata.insert_bin("endpoint-load-metrics-bin", report);
            }
            Ok(response)
        }

        async fn model_stream_infer(
            &self,
            request: Request<tonic::Streaming<wire::ModelInferRequest>>,
        ) -> Result<Response<Self::ModelStreamInferStream>, Status> {
            let script = self.0.clone();
            let answers = request.into_inner().then(move |message| {
                let script = script.clone();
                async move {
                    let (error_message, infer_response) = match script.infer(message?).await {
                        Ok(response) => (String::new(), Some(response)),
                        Err(status) => (status.message().to_owned(), None),
                    };
                    Ok(wire::ModelStreamInferResponse { error_message, infer_response })
                }
            });
            Ok(Response::new(answers.boxed()))
        }

        async fn server_live(
            &self,
            _: Request<wire::ServerLiveRequest>,
        ) -> Result<Response<wire::ServerLiveResponse>, Status> {
            Ok(Response::new(wire::ServerLiveResponse { live: true }))
        }

        async fn server_metadata(
            &self,
            _: Request<wire::ServerMetadataRequest>,
        ) -> Result<Response<wire::ServerMetadataResponse>, Status> {
            let (name, version) = (self.0.name.clone(), "1".to_owned());
            Ok(Response::new(wire::ServerMetadataResponse { name, version, extensions: Vec::new() }))
        }

        async fn model_metadata(
            &self,
            request: Request<wire::ModelMetadataRequest>,
        ) -> Result<Response<wire::ModelMetadataResponse>, Status> {
            let name = request.into_inner().name;
            let platform = self.0.name.clone();
            Ok(Response::new(wire::ModelMetadataResponse { name, platform, ..Default::default() }))
        }
    }
    server_ready(ServerReadyRequest) -> ServerReadyResponse;
    model_ready(ModelReadyRequest) -> ModelReadyResponse;
    model_config(ModelConfigRequest) -> ModelConfigResponse;
    model_statistics(ModelStatisticsRequest) -> ModelStatisticsResponse;
    repository_index(RepositoryIndexRequest) -> RepositoryIndexResponse;
    repository_model_load(RepositoryModelLoadRequest) -> RepositoryModelLoadResponse;
    repository_model_unload(RepositoryModelUnloadRequest) -> RepositoryModelUnloadResponse;
    system_shared_memory_status(SystemSharedMemoryStatusRequest) -> SystemSharedMemoryStatusResponse;
    system_shared_memory_register(SystemSharedMemoryRegisterRequest) -> SystemSharedMemoryRegisterResponse;
    system_shared_memory_unregister(SystemSharedMemoryUnregisterRequest) -> SystemSharedMemoryUnregisterResponse;
    cuda_shared_memory_status(CudaSharedMemoryStatusRequest) -> CudaSharedMemoryStatusResponse;
    cuda_shared_memory_register(CudaSharedMemoryRegisterRequest) -> CudaSharedMemoryRegisterResponse;
    cuda_shared_memory_unregister(CudaSharedMemoryUnregisterRequest) -> CudaSharedMemoryUnregisterResponse;
    trace_setting(TraceSettingRequest) -> TraceSettingResponse;
    log_settings(LogSettingsRequest) -> LogSettingsResponse;
}
