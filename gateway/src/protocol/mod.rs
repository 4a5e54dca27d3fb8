//! What a request says on the wire: which call it is, which model it is for (read without decoding), and REST
//! calls as the gRPC calls that answer them; what may be sent twice, and how far two answers are apart,
//! and requests of many rows in parts.
//!
//! Pure. Telling calls and models apart allocates nothing, except where a REST path carries escapes.

pub mod compare;
pub mod method;
pub mod mirror;
pub mod parameter;
pub mod peek;
pub mod rest_model;
pub mod rows;
pub mod transcode;
mod wire;
