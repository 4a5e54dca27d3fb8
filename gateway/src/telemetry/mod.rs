//! What the gateway tells about itself: logs, metrics, traces.

mod cache;
pub mod discovery;
mod limits;
pub mod log_setup;
pub mod metrics;
mod redis;
pub mod shadow;
pub mod targets;
pub mod trace;
mod waiting;
