//! The data path of unary inference calls: read the whole message, choose an endpoint, run the attempts,
//! answer.
//!
//! The endpoint is chosen after the body is here, so a slow client holds no lease; the body is kept, so any
//! attempt can be repeated whatever its size. Attempts go over the gateway's own HTTP/2 channels.

mod affinity;
mod answerer;
mod attempts;
mod body;
mod cached;
mod course;
mod grpc;
pub mod headers;
mod hedge;
mod inflate;
mod rest;
mod rows;
mod scatter;
mod shadow;
mod tail;

pub use body::read as read_body;
pub use grpc::{refuse as refuse_grpc, serve as serve_grpc};
pub use rest::{refuse as refuse_rest, serve as serve_rest};
pub use shadow::Shadow;
