//! What a request says on the wire: which call it is, which model it is for (read without decoding), and REST
//! calls as the gRPC calls that answer them.
//!
//! Pure. Telling calls and models apart allocates nothing, except where a REST path carries escapes.

pub mod cache_control;
pub mod identity;
pub mod kept;
pub mod method;
pub mod parameter;
pub mod peek;
pub mod rest_model;
pub mod server_timing;
pub mod shared_answer;
pub mod transcode;
mod wire;
