//! What a request says on the wire: which call it is, which model it is for (read without decoding), and REST
//! calls as the gRPC calls that answer them; what may be sent twice, and how far two answers are apart,
//! and requests of many rows in parts.
//!
//! Pure. Telling calls and models apart allocates nothing, except where a REST path carries escapes.

pub mod cache_control;
pub mod compare;
pub mod identity;
pub mod kept;
pub mod load_report;
pub mod method;
pub mod mirror;
pub mod parameter;
pub mod peek;
pub mod rest_model;
pub mod row_count;
pub mod rows;
pub mod server_timing;
pub mod shared_answer;
pub mod transcode;
mod wire;
