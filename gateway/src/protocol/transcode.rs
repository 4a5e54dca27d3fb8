//! A REST call as the gRPC call that answers it, and the answer back. The bodies' mapping is
//! `forebay_proto::rest`; this pairs each call with its messages.

use std::borrow::Cow;

use bytes::Bytes;
use forebay_proto::framing;
use forebay_proto::inference::{
    CudaSharedMemoryStatusRequest, CudaSharedMemoryStatusResponse,
    CudaSharedMemoryUnregisterRequest, LogSettingsResponse, ModelConfigRequest,
    ModelConfigResponse, ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse,
    ModelReadyRequest, ModelReadyResponse, ModelStatisticsRequest, ModelStatisticsResponse,
    RepositoryIndexResponse, ServerLiveRequest, ServerLiveResponse, ServerMetadataRequest,
    ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse,
    SystemSharedMemoryStatusRequest, SystemSharedMemoryStatusResponse,
    SystemSharedMemoryUnregisterRequest, TraceSettingResponse,
};
use forebay_proto::rest::{self, Call, Memory, MemoryCall, Model, OutputForm, RestError};
use forebay_proto::status::Code;
use http::StatusCode;
use prost::Message;

/// The framed gRPC message, and what is needed to write the answer in the client's form.
pub struct Outgoing {
    pub message: Bytes,
    pub form: OutputForm,
}

/// A REST answer.
pub struct Page {
    pub status: StatusCode,
    pub body: Bytes,
    /// Length of the JSON when binary tensors follow it.
    pub json_length: Option<usize>,
}

/// The request of `call`. `json_length`: of the body's JSON part, when binary tensors follow it.
pub fn request(
    call: &Call<'_>,
    body: &Bytes,
    json_length: Option<usize>,
) -> Result<Outgoing, RestError> {
    let mut form = OutputForm::default();
    let message = match call {
        Call::ServerMetadata => frame(&ServerMetadataRequest {}),
        Call::ServerLive => frame(&ServerLiveRequest {}),
        Call::ServerReady => frame(&ServerReadyRequest {}),
        Call::ModelMetadata(model) => {
            let (name, version) = names(model);
            frame(&ModelMetadataRequest { name, version })
        }
        Call::ModelReady(model) => {
            let (name, version) = names(model);
            frame(&ModelReadyRequest { name, version })
        }
        Call::ModelConfig(model) => {
            let (name, version) = names(model);
            frame(&ModelConfigRequest { name, version })
        }
        Call::ModelStatistics(model) => {
            let (name, version) = model.as_ref().map(names).unwrap_or_default();
            frame(&ModelStatisticsRequest { name, version })
        }
        Call::Infer(model) => {
            let infer = rest::infer_request(model, body, json_length)?;
            form = infer.form;
            frame(&infer.request)
        }
        Call::RepositoryIndex => frame(&rest::index_request(body)?),
        Call::RepositoryLoad(model) => frame(&rest::load_request(model, body)?),
        Call::RepositoryUnload(model) => frame(&rest::unload_request(model, body)?),
        Call::Memory(call) => memory_request(call, body),
        Call::TraceSetting(model) => frame(&rest::trace_request(model.as_deref(), body)?),
        Call::LogSettings => frame(&rest::log_request(body)?),
    };
    Ok(Outgoing {
        message: message?,
        form,
    })
}

/// The answer of `call`, from the unframed gRPC message that a worker sent with status OK.
pub fn answer(call: &Call<'_>, message: Bytes, form: &OutputForm) -> Result<Page, RestError> {
    let page = |status, body| Page {
        status,
        body,
        json_length: None,
    };
    Ok(match call {
        Call::ServerMetadata => page(
            StatusCode::OK,
            rest::server_metadata(&decode::<ServerMetadataResponse>(message)?),
        ),
        Call::ServerLive => {
            let live = decode::<ServerLiveResponse>(message)?.live;
            page(rest::readiness_status(live), rest::live(live))
        }
        Call::ServerReady => {
            let ready = decode::<ServerReadyResponse>(message)?.ready;
            page(rest::readiness_status(ready), rest::ready(ready))
        }
        Call::ModelMetadata(_) => page(
            StatusCode::OK,
            rest::model_metadata(&decode::<ModelMetadataResponse>(message)?),
        ),
        Call::ModelReady(model) => {
            let ready = decode::<ModelReadyResponse>(message)?.ready;
            page(
                rest::readiness_status(ready),
                rest::model_ready(&model.name, ready),
            )
        }
        Call::ModelConfig(_) => {
            let config = decode::<ModelConfigResponse>(message)?
                .config
                .unwrap_or_default();
            page(StatusCode::OK, rest::model_config(&config))
        }
        Call::ModelStatistics(_) => page(
            StatusCode::OK,
            rest::model_statistics(&decode::<ModelStatisticsResponse>(message)?),
        ),
        Call::Infer(_) => {
            let written = rest::infer_answer(&decode::<ModelInferResponse>(message)?, form)?;
            Page {
                status: StatusCode::OK,
                body: written.body,
                json_length: written.json_length,
            }
        }
        Call::RepositoryIndex => page(
            StatusCode::OK,
            rest::repository_index(&decode::<RepositoryIndexResponse>(message)?),
        ),
        Call::Memory(MemoryCall::Status(Memory::System, _)) => page(
            StatusCode::OK,
            rest::system_memory(&decode::<SystemSharedMemoryStatusResponse>(message)?),
        ),
        Call::Memory(MemoryCall::Status(Memory::Cuda, _)) => page(
            StatusCode::OK,
            rest::cuda_memory(&decode::<CudaSharedMemoryStatusResponse>(message)?),
        ),
        Call::TraceSetting(_) => page(
            StatusCode::OK,
            rest::trace_settings(&decode::<TraceSettingResponse>(message)?),
        ),
        Call::LogSettings => page(
            StatusCode::OK,
            rest::log_settings(&decode::<LogSettingsResponse>(message)?),
        ),
        Call::RepositoryLoad(_)
        | Call::RepositoryUnload(_)
        | Call::Memory(MemoryCall::Register(..) | MemoryCall::Unregister(..)) => {
            page(StatusCode::OK, Bytes::new())
        }
    })
}

fn memory_request(call: &MemoryCall<'_>, body: &[u8]) -> Result<Bytes, RestError> {
    let name = |name: &Option<Cow<'_, str>>| name.as_deref().unwrap_or_default().to_owned();
    match call {
        MemoryCall::Status(Memory::System, region) => {
            frame(&SystemSharedMemoryStatusRequest { name: name(region) })
        }
        MemoryCall::Status(Memory::Cuda, region) => {
            frame(&CudaSharedMemoryStatusRequest { name: name(region) })
        }
        MemoryCall::Register(Memory::System, region) => {
            frame(&rest::register_request(region, body)?)
        }
        MemoryCall::Register(Memory::Cuda, _) => Err(RestError::new(
            Code::Unimplemented,
            "regions of CUDA memory are registered over gRPC only",
        )),
        MemoryCall::Unregister(Memory::System, region) => {
            frame(&SystemSharedMemoryUnregisterRequest { name: name(region) })
        }
        MemoryCall::Unregister(Memory::Cuda, region) => {
            frame(&CudaSharedMemoryUnregisterRequest { name: name(region) })
        }
    }
}

fn names(model: &Model<'_>) -> (String, String) {
    (
        model.name.clone().into_owned(),
        model.version_or_empty().to_owned(),
    )
}

fn frame(message: &impl Message) -> Result<Bytes, RestError> {
    framing::frame(message).map_err(|error| RestError::invalid(error.to_string()))
}

fn decode<M: Message + Default>(message: Bytes) -> Result<M, RestError> {
    M::decode(message).map_err(|error| {
        RestError::new(
            Code::Internal,
            format!("the worker's answer is malformed: {error}"),
        )
    })
}
