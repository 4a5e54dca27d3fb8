//! An endpoint as the admin interface and the metrics show it.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Endpoint;
use crate::traffic::breaker::BreakerState;
use crate::traffic::health::{HealthMachine, HealthState};

/// A reading for the admin interface and the metrics.
#[derive(Debug, Clone, serde::Serialize)]
pub struct EndpointView {
    pub address: String,
    pub health: &'static str,
    /// Models that it is not ready for, of those that probes ask about.
    pub not_ready: Vec<String>,
    pub breaker: &'static str,
    /// Left out for so much longer, since it failed more often than its peers; 0: it is not.
    pub ejected_ms: f64,
    pub active: u32,
    /// Of the requests in flight.
    pub rows: u64,
    /// What others have there, by load reports.
    pub rows_of_others: u64,
    pub requests: u64,
    pub failures: u64,
    pub cancelled: u64,
    pub ejections: u64,
    pub ewma_ms: f64,
}

impl Endpoint {
    pub fn view(&self, now: Instant) -> EndpointView {
        let vital = self.vital.lock();
        EndpointView {
            address: self.blueprint.address.clone(),
            health: match vital.health.as_ref().map(HealthMachine::state) {
                None => "unchecked",
                Some(HealthState::Unknown) => "unknown",
                Some(HealthState::Healthy) => "healthy",
                Some(HealthState::Unhealthy) => "unhealthy",
            },
            not_ready: self.unready_models(),
            breaker: match vital.breaker.as_ref().map(|breaker| breaker.state(now)) {
                None => "off",
                Some(BreakerState::Closed) => "closed",
                Some(BreakerState::Open) => "open",
                Some(BreakerState::HalfOpen) => "half_open",
            },
            ejected_ms: vital.conduct.as_ref().map_or(0.0, |conduct| {
                conduct.standing.left(now).as_secs_f64() * 1e3
            }),
            active: self.active(),
            rows: self.rows(),
            rows_of_others: vital.others.now(now).rows.round() as u64,
            requests: self.counters.requests.load(Ordering::Relaxed),
            failures: self.counters.failures.load(Ordering::Relaxed),
            cancelled: self.counters.cancelled.load(Ordering::Relaxed),
            ejections: self.counters.ejections.load(Ordering::Relaxed),
            ewma_ms: vital.latency.get(now) * 1e3,
        }
    }
}
