//! The worker as a library, so that tests reach its parts; `main.rs` only assembles them.
//!
//! Layers, downward only: services → model and repository → batch → engine → inference, config, proto.

pub mod batch;
pub mod engine;
pub mod inference;
pub mod model;
pub mod repository;
