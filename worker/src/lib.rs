//! The worker as a library, so that tests reach its parts; `main.rs` only assembles them.
//!
//! Layers, downward only: services → load → repository → served → model → cache → batch → engine → inference, config, proto.

pub mod args;
pub mod batch;
pub mod cache;
pub mod engine;
pub mod http;
pub mod inference;
pub mod load;
pub mod measure;
pub mod model;
pub mod pipeline;
pub mod process;
pub mod repository;
pub mod served;
pub mod server;
pub mod service;
pub mod shared_memory;
pub mod shutdown;
pub mod telemetry;

#[cfg(test)]
mod testbed;
