//! The response caches of routes, as metrics; none without such a route.

use super::metrics::{Text, escape};
use crate::cache::{ResponseCache, Served};
use crate::gateway::Route;
use crate::traffic::cache::Contents;

pub fn write(out: &mut Text, routes: &[Route]) {
    let cached = |route: &Route| {
        let labels = format!("route=\"{}\"", escape(&route.config.name));
        Some((labels, route.cache.clone()?))
    };
    let caches: Vec<_> = routes.iter().filter_map(cached).collect();
    if caches.is_empty() {
        return;
    }
    out.head(
        "forebay_response_cache_requests_total",
        "counter",
        "Calls on routes with a response cache, by how they were served.",
    );
    for (labels, cache) in &caches {
        for served in Served::ALL {
            let labels = format!("{labels},result=\"{}\"", served.name());
            let count = cache.counted(served) as f64;
            out.line("forebay_response_cache_requests_total", &labels, count);
        }
    }
    let contents: Vec<_> = caches.iter().map(|(_, cache)| cache.contents()).collect();
    type Reading = fn(&ResponseCache, &Contents) -> f64;
    let series: [(&str, &str, &str, Reading); 5] = [
        (
            "forebay_response_cache_evictions_total",
            "counter",
            "Kept answers that had to go for others.",
            |_, contents| contents.evictions as f64,
        ),
        (
            "forebay_response_cache_bytes",
            "gauge",
            "Bytes that kept answers take.",
            |_, contents| contents.bytes as f64,
        ),
        (
            "forebay_response_cache_entries",
            "gauge",
            "Answers kept.",
            |_, contents| contents.entries as f64,
        ),
        (
            "forebay_response_cache_runs",
            "gauge",
            "Calls under way that identical ones would wait for.",
            |_, contents| contents.underway as f64,
        ),
        (
            "forebay_response_cache_waiting",
            "gauge",
            "Calls that wait for an identical one.",
            |cache, _| cache.waiting() as f64,
        ),
    ];
    for (name, kind, help, read) in series {
        out.head(name, kind, help);
        for ((labels, cache), contents) in caches.iter().zip(&contents) {
            out.line(name, labels, read(cache, contents));
        }
    }
}
