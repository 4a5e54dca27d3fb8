//! What the gateway tells about itself: logs, metrics, traces.

mod cache;
pub mod discovery;
pub mod log_setup;
pub mod metrics;
pub mod trace;
