//! Takes the samples: every second, what the process used and what each model did.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::host::Host;
use super::report::{Recent, Whole, expected_wait, fullness};
use super::window::{Window, rate};
use super::{Load, Sampled};
use crate::batch::statistics::Statistics;
use crate::repository::Registry;
use crate::served::Served;

const INTERVAL: Duration = Duration::from_secs(1);

/// Samples for as long as the process serves. Never returns.
pub async fn sample(load: Arc<Load>, registry: Arc<Registry>) {
    let mut sampler = Sampler::new();
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        sampler.take(&load, &registry, Instant::now());
    }
}

struct Sampler {
    host: Host,
    process: Window<Process>,
    models: HashMap<(String, u64), Window<Work>>,
}

/// Counters of the process.
struct Process {
    processor_time: Duration,
    answered: u64,
    failed: u64,
}

/// Counters of one loaded version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Work {
    rows: u64,
    runs: u64,
    /// Time of its instances together.
    busy: Duration,
}

impl Sampler {
    fn new() -> Sampler {
        Sampler {
            host: Host::find(),
            process: Window::default(),
            models: HashMap::new(),
        }
    }

    fn take(&mut self, load: &Load, registry: &Registry, now: Instant) {
        let mut sampled = Sampled {
            whole: self.process(load, now),
            ..Sampled::default()
        };
        let models = registry.models();
        let mut windows = std::mem::take(&mut self.models);
        for model in &models {
            let key = (model.name().to_owned(), model.version());
            let statistics = model.statistics();
            let mut window = windows.remove(&key).unwrap_or_default();
            window.push(now, Work::of(&statistics));
            let recent = recent(model, &window);
            if let Some(span) = window.span() {
                let wait = expected_wait(&statistics, model.instances());
                let full = fullness(recent.busy, wait, span.time);
                sampled.whole.fullness = sampled.whole.fullness.max(full);
            }
            let versions = sampled.models.entry(key.0.clone()).or_default();
            versions.insert(key.1, recent);
            self.models.insert(key, window);
        }
        let is_served = |name: &str, version: u64| {
            let versions = sampled.models.get(name);
            versions.is_some_and(|versions| versions.contains_key(&version))
        };
        load.trailers.write().retain(|name, versions| {
            versions.retain(|version, _| is_served(name, *version));
            !versions.is_empty()
        });
        *load.sampled.write() = sampled;
    }

    fn process(&mut self, load: &Load, now: Instant) -> Whole {
        let reading = Process {
            processor_time: self.host.processor_time().unwrap_or_default(),
            answered: load.answered.load(Ordering::Relaxed),
            failed: load.failed.load(Ordering::Relaxed),
        };
        self.process.push(now, reading);
        let memory = self.host.memory().unwrap_or_default();
        let Some(span) = self.process.span() else {
            return Whole {
                memory,
                ..Whole::default()
            };
        };
        let (first, last) = (span.first, span.last);
        let used = last.processor_time.saturating_sub(first.processor_time);
        Whole {
            processors: used.as_secs_f64() / span.time.as_secs_f64() / self.host.processors(),
            memory,
            requests: rate(first.answered, last.answered, span.time),
            errors: rate(first.failed, last.failed, span.time),
            fullness: 0.0,
        }
    }
}

impl Work {
    fn of(statistics: &Statistics) -> Work {
        let busy = statistics.batch_sizes.values().map(|size| {
            size.compute_input.duration + size.compute_infer.duration + size.compute_output.duration
        });
        Work {
            rows: statistics.inference_count,
            runs: statistics.execution_count,
            busy: busy.sum(),
        }
    }
}

/// A version that was loaded anew meanwhile has smaller counters than before, and then no figures for a moment.
fn recent(model: &Served, window: &Window<Work>) -> Recent {
    let Some(span) = window.span() else {
        return Recent::default();
    };
    let runs = span.last.runs.saturating_sub(span.first.runs);
    let rows = span.last.rows.saturating_sub(span.first.rows);
    let busy = span.last.busy.saturating_sub(span.first.busy);
    let most = model.row_limit().unwrap_or(1).max(1);
    let instances = f64::from(model.instances().max(1));
    Recent {
        occupancy: match runs {
            0 => 0.0,
            runs => rows as f64 / runs as f64 / most as f64,
        },
        busy: busy.as_secs_f64() / span.time.as_secs_f64() / instances,
    }
}
