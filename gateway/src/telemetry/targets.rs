//! What is counted of the clusters that share a route's requests, so that a canary can be compared with the rest.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use forebay_proto::status::Code;

use super::metrics::{CODES, Histogram, Text, escape};
use crate::gateway::Snapshot;
use crate::targets::{Target, Targets};

#[derive(Default)]
pub struct TargetMetrics {
    by_code: [AtomicU64; CODES],
    duration: Histogram,
}

#[derive(Default)]
pub struct FallbackCounts {
    cluster: AtomicU64,
    answer: AtomicU64,
}

impl TargetMetrics {
    /// One request that this cluster took, from when it was chosen.
    pub fn record(&self, code: Code, duration: Duration) {
        let index = (code as i32).clamp(0, CODES as i32 - 1) as usize;
        self.by_code[index].fetch_add(1, Ordering::Relaxed);
        self.duration.record(duration);
    }
}

impl FallbackCounts {
    pub fn to_cluster(&self) {
        self.cluster.fetch_add(1, Ordering::Relaxed);
    }

    pub fn to_answer(&self) {
        self.answer.fetch_add(1, Ordering::Relaxed);
    }
}

pub(super) fn render(out: &mut Text, snapshot: &Snapshot) {
    let routes: Vec<(String, &Targets)> = snapshot
        .routes
        .iter()
        .filter_map(|route| Some((escape(&route.config.name), route.targets.as_ref()?)))
        .collect();
    let each = || {
        let targets = routes.iter().flat_map(|(route, targets)| {
            targets.all().map(move |target: &Target| {
                let cluster = escape(&target.cluster.config.name);
                let labels = format!("route=\"{route}\",cluster=\"{cluster}\"");
                (labels, &target.metrics)
            })
        });
        targets.collect::<Vec<_>>()
    };
    out.head(
        "forebay_target_requests_total",
        "counter",
        "Requests that a cluster took of a route that has several, by final gRPC status code.",
    );
    for (labels, metrics) in each() {
        for (code, count) in metrics.by_code.iter().enumerate() {
            let count = count.load(Ordering::Relaxed);
            if count > 0 {
                let labels = format!("{labels},code=\"{code}\"");
                out.line("forebay_target_requests_total", &labels, count as f64);
            }
        }
    }
    out.head(
        "forebay_target_duration_seconds",
        "histogram",
        "From the choice of the cluster to its answer, by route and cluster.",
    );
    for (labels, metrics) in each() {
        metrics
            .duration
            .write(out, "forebay_target_duration_seconds", &labels);
    }
    out.head(
        "forebay_fallbacks_total",
        "counter",
        "Requests that went to the fallback cluster, or got the static answer.",
    );
    for (route, targets) in &routes {
        let counts = [
            ("cluster", &targets.fallbacks.cluster),
            ("answer", &targets.fallbacks.answer),
        ];
        for (kind, count) in counts {
            let labels = format!("route=\"{route}\",to=\"{kind}\"");
            let count = count.load(Ordering::Relaxed);
            out.line("forebay_fallbacks_total", &labels, count as f64);
        }
    }
}
