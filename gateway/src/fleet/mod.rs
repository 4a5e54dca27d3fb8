//! The endpoint pool that both data paths draw from: clusters of endpoints, the leases on them, their health.

mod ask;
mod cluster;
pub mod discovery;
mod endpoint;
mod health_loop;
mod lease;
mod pool;
mod probe;
mod report_stream;
mod tick;
mod waiting;

#[cfg(test)]
mod simulation;

pub use ask::{Ask, Bearings};
pub use cluster::{Cluster, NoLease};
pub use endpoint::{Endpoint, EndpointBlueprint, EndpointView};
pub use health_loop::start as watch_health;
pub use lease::Lease;
pub use report_stream::start as follow_reports;
pub use tick::start as tick_clusters;
pub use waiting::{Caller, Unserved, WaitingRoom};
