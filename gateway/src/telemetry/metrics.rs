//! Counters and histograms, kept as plain atomics that the hot path adds to, written as Prometheus text.
//!
//! Each route's counters live in its own block that a reload hands on, so nothing is looked up by label while
//! a request runs.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use forebay_proto::status::Code;

use crate::gateway::Gateway;
use crate::telemetry::discovery::Discovery;
use crate::telemetry::{cache, limits, redis, shadow, targets, waiting};

/// Upper bounds in seconds; a last bucket without bound follows.
const BOUNDS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
pub(super) const CODES: usize = 17;

#[derive(Default)]
pub struct RouteMetrics {
    by_code: [AtomicU64; CODES],
    retries: AtomicU64,
    hedges: AtomicU64,
    hedges_won: AtomicU64,
    scattered: AtomicU64,
    parts: AtomicU64,
    in_vain: AtomicU64,
    duration: Histogram,
}

#[derive(Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    nanos: AtomicU64,
}

impl RouteMetrics {
    /// One finished request.
    pub fn record(&self, code: Code, duration: Duration) {
        let index = (code as i32).clamp(0, CODES as i32 - 1) as usize;
        self.by_code[index].fetch_add(1, Ordering::Relaxed);
        self.duration.record(duration);
    }

    pub fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// A second attempt began beside the first.
    pub fn hedged(&self) {
        self.hedges.fetch_add(1, Ordering::Relaxed);
    }

    /// A request went out in so many parts.
    pub fn scattered(&self, parts: usize) {
        self.scattered.fetch_add(1, Ordering::Relaxed);
        self.parts.fetch_add(parts as u64, Ordering::Relaxed);
    }

    /// Their answers made no whole.
    pub fn scattered_in_vain(&self) {
        self.in_vain.fetch_add(1, Ordering::Relaxed);
    }

    /// It answered, and first.
    pub fn hedge_won(&self) {
        self.hedges_won.fetch_add(1, Ordering::Relaxed);
    }
}

impl Histogram {
    pub fn record(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = BOUNDS
            .iter()
            .position(|bound| seconds <= *bound)
            .unwrap_or(BOUNDS.len());
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    pub(super) fn write(&self, out: &mut Text, name: &str, labels: &str) {
        let mut total = 0;
        for (bucket, bound) in self
            .buckets
            .iter()
            .zip(BOUNDS.iter().map(|b| b.to_string()).chain(["+Inf".into()]))
        {
            total += bucket.load(Ordering::Relaxed);
            out.line(
                &format!("{name}_bucket"),
                &format!("{labels},le=\"{bound}\""),
                total as f64,
            );
        }
        out.line(
            &format!("{name}_sum"),
            labels,
            self.nanos.load(Ordering::Relaxed) as f64 / 1e9,
        );
        out.line(&format!("{name}_count"), labels, total as f64);
    }
}

/// Everything, in the Prometheus text format.
pub fn render(gateway: &Gateway, now: Instant) -> String {
    let snapshot = gateway.snapshot();
    let mut out = Text(String::with_capacity(8 << 10));
    out.head(
        "forebay_requests_total",
        "counter",
        "Requests by route and final gRPC status code.",
    );
    for route in &snapshot.routes {
        for code in 0..CODES {
            let count = route.metrics.by_code[code].load(Ordering::Relaxed);
            if count > 0 {
                let labels = format!("route=\"{}\",code=\"{code}\"", escape(&route.config.name));
                out.line("forebay_requests_total", &labels, count as f64);
            }
        }
    }
    type Count = fn(&RouteMetrics) -> &AtomicU64;
    let counts: [(&str, &str, Count); 6] = [
        (
            "forebay_retries_total",
            "Attempts after one that failed, by route.",
            |metrics| &metrics.retries,
        ),
        (
            "forebay_hedges_total",
            "Second attempts beside one that took long, by route.",
            |metrics| &metrics.hedges,
        ),
        (
            "forebay_hedges_won_total",
            "Second attempts whose answer was used, by route.",
            |metrics| &metrics.hedges_won,
        ),
        (
            "forebay_scattered_requests_total",
            "Requests that went out in parts, by route.",
            |metrics| &metrics.scattered,
        ),
        (
            "forebay_scattered_parts_total",
            "Parts of such requests, by route.",
            |metrics| &metrics.parts,
        ),
        (
            "forebay_scattered_in_vain_total",
            "Such requests that went out once more uncut, by route.",
            |metrics| &metrics.in_vain,
        ),
    ];
    for (name, help, count) in counts {
        out.head(name, "counter", help);
        for route in &snapshot.routes {
            let labels = format!("route=\"{}\"", escape(&route.config.name));
            let count = count(&route.metrics).load(Ordering::Relaxed);
            out.line(name, &labels, count as f64);
        }
    }
    out.head(
        "forebay_retries_in_flight",
        "gauge",
        "Retries under way, held within the route's budget.",
    );
    for route in &snapshot.routes {
        let labels = format!("route=\"{}\"", escape(&route.config.name));
        out.line(
            "forebay_retries_in_flight",
            &labels,
            route.budget.in_use() as f64,
        );
    }
    out.head(
        "forebay_request_duration_seconds",
        "histogram",
        "From the request's head to its answer's end, by route.",
    );
    for route in &snapshot.routes {
        let labels = format!("route=\"{}\"", escape(&route.config.name));
        route
            .metrics
            .duration
            .write(&mut out, "forebay_request_duration_seconds", &labels);
    }
    targets::render(&mut out, &snapshot);
    shadow::render(&mut out, &snapshot);
    endpoints(&mut out, gateway, now);
    waiting::write(&mut out, &snapshot);
    limits::write(&mut out, &snapshot);
    discoveries(&mut out, gateway);
    cache::write(&mut out, &snapshot.routes);
    if let Some(shared) = &snapshot.redis {
        redis::write(&mut out, shared);
    }
    out.head(
        "forebay_requests_in_flight",
        "gauge",
        "Requests being served now.",
    );
    out.line("forebay_requests_in_flight", "", gateway.in_flight() as f64);
    out.head(
        "forebay_client_connections",
        "gauge",
        "Client connections that are open.",
    );
    out.line(
        "forebay_client_connections",
        "",
        gateway.connections() as f64,
    );
    let memory = &gateway.memory;
    let figures = [
        (
            "forebay_buffered_bytes",
            "gauge",
            "Bodies and held-back answers in memory.",
            memory.held(),
        ),
        (
            "forebay_buffered_limit_bytes",
            "gauge",
            "What they may take.",
            memory.most(),
        ),
        (
            "forebay_buffered_refused_total",
            "counter",
            "Requests that found no room in memory.",
            memory.refused(),
        ),
    ];
    for (name, kind, help, value) in figures {
        out.head(name, kind, help);
        out.line(name, "", value as f64);
    }
    out.head(
        "forebay_unrouted_total",
        "counter",
        "Requests that no route took.",
    );
    out.line("forebay_unrouted_total", "", gateway.unrouted() as f64);
    out.0
}

fn endpoints(out: &mut Text, gateway: &Gateway, now: Instant) {
    let snapshot = gateway.snapshot();
    let mut rows = Vec::new();
    for cluster in &snapshot.clusters {
        for view in cluster.views(now) {
            let labels = format!(
                "cluster=\"{}\",endpoint=\"{}\"",
                escape(&cluster.config.name),
                escape(&view.address)
            );
            rows.push((labels, view));
        }
    }
    type Reading = fn(&crate::fleet::EndpointView) -> f64;
    let series: [(&str, &str, &str, Reading); 9] = [
        (
            "forebay_endpoint_requests_total",
            "counter",
            "Attempts sent to the endpoint.",
            |v| v.requests as f64,
        ),
        (
            "forebay_endpoint_failures_total",
            "counter",
            "Attempts that failed by the endpoint's fault.",
            |v| v.failures as f64,
        ),
        (
            "forebay_endpoint_cancelled_total",
            "counter",
            "Attempts given up before an answer.",
            |v| v.cancelled as f64,
        ),
        (
            "forebay_endpoint_active",
            "gauge",
            "Requests in flight to the endpoint.",
            |v| f64::from(v.active),
        ),
        (
            "forebay_endpoint_healthy",
            "gauge",
            "1 when the endpoint passes its health checks.",
            |v| f64::from(u8::from(matches!(v.health, "healthy" | "unchecked"))),
        ),
        (
            "forebay_endpoint_breaker_open",
            "gauge",
            "1 while the circuit breaker is open or half open.",
            |v| f64::from(u8::from(matches!(v.breaker, "open" | "half_open"))),
        ),
        (
            "forebay_endpoint_ejected",
            "gauge",
            "1 while the endpoint is left out for failing more often than its peers.",
            |v| f64::from(u8::from(v.ejected_ms > 0.0)),
        ),
        (
            "forebay_endpoint_ejections_total",
            "counter",
            "Times that the endpoint was left out.",
            |v| v.ejections as f64,
        ),
        (
            "forebay_endpoint_latency_seconds",
            "gauge",
            "Peak-sensitive moving average of the answer time.",
            |v| v.ewma_ms / 1e3,
        ),
    ];
    for (name, kind, help, read) in series {
        out.head(name, kind, help);
        for (labels, view) in &rows {
            out.line(name, labels, read(view));
        }
    }
}

fn discoveries(out: &mut Text, gateway: &Gateway) {
    let all = gateway.discoveries.all();
    type Reading = fn(&Discovery) -> f64;
    let series: [(&str, &str, &str, Reading); 3] = [
        (
            "forebay_discovery_up",
            "gauge",
            "1 when the cluster's discovery answered its last look.",
            |discovery| f64::from(u8::from(discovery.up)),
        ),
        (
            "forebay_discovery_changes_total",
            "counter",
            "Looks that changed the cluster's endpoints.",
            |discovery| discovery.changes as f64,
        ),
        (
            "forebay_discovery_failures_total",
            "counter",
            "Looks that failed; the last endpoints stay.",
            |discovery| discovery.failures as f64,
        ),
    ];
    for (name, kind, help, read) in series {
        out.head(name, kind, help);
        for (cluster, discovery) in &all {
            let source = discovery.kind;
            let labels = format!("cluster=\"{}\",source=\"{source}\"", escape(cluster));
            out.line(name, &labels, read(discovery));
        }
    }
}

pub(super) struct Text(String);

impl Text {
    pub(super) fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    pub(super) fn line(&mut self, name: &str, labels: &str, value: f64) {
        let _ = if labels.is_empty() {
            writeln!(self.0, "{name} {value}")
        } else {
            writeln!(self.0, "{name}{{{labels}}} {value}")
        };
    }
}

/// Label values: backslash, quote and line feed are escaped.
pub(super) fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}
