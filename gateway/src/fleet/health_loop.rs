//! Probes one endpoint for as long as it lives.
//!
//! The task holds the endpoint weakly and its life is tied to it, so a reload that drops the endpoint ends the
//! probing. Probes of many endpoints are spread over the interval by a random start, and so many at a time at most:
//! a thousand newcomers must not fail their first probe by all being asked at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_config::gateway::Health;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::endpoint::Endpoint;
use super::probe;

const PROBES_AT_A_TIME: usize = 128;

static PROBES: Semaphore = Semaphore::const_new(PROBES_AT_A_TIME);

/// Starts probing on `runtime`; the first probe goes out at once, since no traffic flows before it passes.
pub fn start(endpoint: &Arc<Endpoint>, runtime: &Handle) {
    let Some(health) = endpoint.blueprint.health.clone() else {
        return;
    };
    let weak = Arc::downgrade(endpoint);
    let task = runtime.spawn(async move {
        let mut failing_since: Option<Instant> = None;
        let mut first = true;
        loop {
            let Some(endpoint) = weak.upgrade() else {
                return;
            };
            // The semaphore is never closed.
            let turn = PROBES.acquire().await;
            let started = Instant::now();
            let result = probe::once(&endpoint.target, &endpoint.blueprint, &health).await;
            drop(turn);
            match &result {
                Ok(ready) => {
                    endpoint.set_ready_models(*ready);
                    failing_since = None;
                }
                Err(_) => failing_since = failing_since.or(Some(started)),
            }
            let detail = result
                .as_ref()
                .err()
                .map(ToString::to_string)
                .unwrap_or_default();
            endpoint.probed(result.is_ok(), &detail, failing_since);
            drop(endpoint);
            tokio::time::sleep(pause(&health, first && result.is_ok(), started.elapsed())).await;
            first = false;
        }
    });
    endpoint.keep_task(task.abort_handle());
}

/// The rest of the interval; after the first probe a random part of it, so that probes spread out.
fn pause(health: &Health, spread: bool, spent: Duration) -> Duration {
    let rest = health
        .interval
        .saturating_sub(spent)
        .max(Duration::from_millis(10));
    if spread {
        rest.mul_f64(fastrand::f64().max(0.1))
    } else {
        rest
    }
}
