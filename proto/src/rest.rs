//! REST of the Open Inference Protocol, as gRPC messages and back.
//!
//! The mapping is the protocol's own and not protobuf's JSON: tensors are arrays of numbers or bytes behind the
//! JSON (the binary tensor extension), and names are spelled as in the `.proto` files. The text of the
//! extension says what each key means; what the official clients send was read off their traffic.
//!
//! Everything here is a function from bytes to bytes. Reading bodies, inflating them and bounding their size are
//! the caller's, as are the headers except for the one length that [`JSON_LENGTH_HEADER`] names.

mod call;
mod data;
mod documents;
mod error;
mod generate;
mod memory;
mod parameters;
mod repository;
mod request;
mod response;
mod settings;

pub use call::{Call, Model};
pub use documents::{
    live, model_config, model_metadata, model_ready, model_statistics, readiness_status, ready,
    repository_index, server_metadata,
};
pub use error::{RestError, error_body};
pub use generate::{Field, GenerateCall, event, generate_answer, generate_request};
pub use memory::{Memory, MemoryCall, cuda_memory, register_request, system_memory};
pub use repository::{index_request, load_request, unload_request};
pub use request::{InferCall, OutputForm, infer_request, json_length};
pub use response::{InferAnswer, infer_answer};
pub use settings::{log_request, log_settings, trace_request, trace_settings};

/// Parameter of a tensor that lies in shared memory, and not in the body.
const SHARED: &str = "shared_memory_region";

/// Says, in requests and answers, how many bytes of the body are JSON; binary tensors follow them.
pub const JSON_LENGTH_HEADER: http::HeaderName =
    http::HeaderName::from_static("inference-header-content-length");
