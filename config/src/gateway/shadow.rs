//! `[routes.shadow]`: copies of inference calls for another cluster, whose answers are compared with the real ones.

use std::time::Duration;

#[derive(Debug, Clone, PartialEq)]
pub struct Shadow {
    /// Name of the cluster; it exists, speaks gRPC, and is none that the route sends requests to.
    pub cluster: String,
    /// Of the calls, 0.0 to 1.0.
    pub share: f64,
    /// Over the copy; it begins after the real answer.
    pub timeout: Duration,
    /// Copies at a time; 1 or more. What comes on top is not copied.
    pub max_requests: u32,
    /// What copies may hold in memory at a time.
    pub max_bytes: u64,
    /// Asked instead of the model that the call names.
    pub model: Option<String>,
    /// Asked instead of the version that the call names; with another model and no version here, the worker chooses.
    pub version: Option<String>,
}
