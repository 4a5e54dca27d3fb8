//! The gateway's own HTTP/2 connections to workers, and one attempt of a unary call over them.
//!
//! Each endpoint has one multiplexed connection per gateway thread (`channel`): many calls then share a
//! flush, and nothing crosses threads. `exchange` sends one request over it and reads the answer whole, so
//! that a failure in mid-answer is still a failure that can be retried. Nothing here chooses, retries or
//! counts; the inference path does.

mod channel;
mod connect;
mod exchange;

pub use channel::Channels;
pub use connect::{ClientTls, ConnectError, Target, Transport};
pub use exchange::{Answer, Message, exchange};
