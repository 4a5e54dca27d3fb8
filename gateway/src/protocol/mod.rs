//! What a request says on the wire: which call it is, which model it is for (read without decoding), and REST
//! calls as the gRPC calls that answer them; what may be sent twice, and how far two answers are apart.
//!
//! Pure. Telling calls and models apart allocates nothing, except where a REST path carries escapes.

pub mod compare;
pub mod method;
pub mod mirror;
pub mod peek;
pub mod rest_model;
pub mod transcode;
