//! Reading the configuration, and putting a new one in place on SIGHUP.
//!
//! A new file is validated and assembled whole before anything changes; a bad one leaves the running
//! configuration as it is. Requests in flight keep the snapshot they started with. What is bound to the process
//! itself (what it listens on, its threads) needs a new one, and a reload that changes it says so.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use forebay_config::gateway as config;
use tokio::signal::unix::{SignalKind, signal};

use crate::assembly;
use crate::fleet::Cluster;
use crate::gateway::Snapshot;
use crate::membership::Membership;
use crate::telemetry::log_setup::LogLevel;

/// How often a reload looks whether the first probes are through.
const PROBE_POLL: Duration = Duration::from_millis(5);

/// Reads and validates; the error lists every problem.
pub fn read(path: &Path) -> anyhow::Result<config::Gateway> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read '{}'", path.display()))?;
    config::Gateway::parse(&text).map_err(|problems| anyhow!("{}:\n{problems}", path.display()))
}

/// Every problem on a line of its own, after the file that has them.
pub fn list<P: Display>(path: &Path, problems: &[P]) -> String {
    let lines: Vec<String> = problems
        .iter()
        .map(|problem| format!("  {problem}"))
        .collect();
    format!("{}:\n{}", path.display(), lines.join("\n"))
}

/// Reloads on every SIGHUP, for as long as the process lives.
pub fn watch(path: PathBuf, membership: Arc<Membership>, logs: LogLevel) {
    let logs = Arc::new(logs);
    let control = membership.control().clone();
    control.spawn(async move {
        let mut hangup = match signal(SignalKind::hangup()) {
            Ok(hangup) => hangup,
            Err(error) => return log::error!("no reload on SIGHUP: {error}"),
        };
        while hangup.recv().await.is_some() {
            let (path, membership, logs) = (path.clone(), membership.clone(), logs.clone());
            let done = tokio::task::spawn_blocking(move || reload(&path, &membership, &logs)).await;
            match done {
                Ok(Ok(())) => log::info!("configuration reloaded"),
                Ok(Err(error)) => {
                    log::error!("configuration not reloaded, the running one stays: {error:#}")
                }
                Err(error) => {
                    log::error!("configuration not reloaded, the running one stays: {error}")
                }
            }
        }
    });
}

fn reload(path: &Path, membership: &Arc<Membership>, logs: &LogLevel) -> anyhow::Result<()> {
    let mut config = read(path)?;
    let running = membership.config();
    for key in needs_restart(&running, &config) {
        log::warn!("'{key}' changed: restart the gateway for it to take effect");
    }
    let problems = assembly::check_files(&config);
    if !problems.is_empty() {
        bail!(list(path, &problems));
    }
    keep_what_needs_a_restart(&mut config, &running);
    let level = config.telemetry.log_level.clone();
    membership
        .reload(config, await_first_probes)
        .map_err(|problems| anyhow!(list(path, &problems)))?;
    logs.set(&level);
    Ok(())
}

/// Gives endpoints that are new the time of one probe, so that a renamed cluster, or a new process, does not answer 503
/// until then.
pub fn await_first_probes(snapshot: &Snapshot) {
    for cluster in &snapshot.clusters {
        await_first_probe(cluster);
    }
}

/// The same for one cluster.
pub fn await_first_probe(cluster: &Cluster) {
    let Some(health) = &cluster.config.health else {
        return;
    };
    let end = Instant::now() + health.timeout;
    while !cluster.has_healthy() && Instant::now() < end {
        std::thread::sleep(PROBE_POLL);
    }
}

/// So that every later reload is compared with what the process was started with.
fn keep_what_needs_a_restart(config: &mut config::Gateway, started: &config::Gateway) {
    config.threads = started.threads;
    config.upgrade_socket = started.upgrade_socket.clone();
    config.admin = started.admin;
    config.listeners = started.listeners.clone();
}

/// The changed keys that only a restart applies.
fn needs_restart(old: &config::Gateway, new: &config::Gateway) -> Vec<&'static str> {
    [
        ("threads", old.threads != new.threads),
        ("upgrade_socket", old.upgrade_socket != new.upgrade_socket),
        ("admin", old.admin != new.admin),
        ("listeners", old.listeners != new.listeners),
    ]
    .into_iter()
    .filter_map(|(key, changed)| changed.then_some(key))
    .collect()
}
