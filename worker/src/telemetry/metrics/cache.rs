//! What the response caches did, under Triton's names, and how full they are. Models without one are left out.

use super::Shown;
use crate::cache::CacheStatistics;
use crate::measure::microseconds;
use crate::telemetry::prometheus::{Kind, Page};

type Number = fn(&CacheStatistics) -> u64;

const FAMILIES: [(&str, Kind, &str, Number); 10] = [
    (
        "nv_cache_num_hits_per_model",
        Kind::Counter,
        "Requests answered without a run of their own.",
        |cache| cache.counts.hit.count,
    ),
    (
        "nv_cache_num_misses_per_model",
        Kind::Counter,
        "Requests that the response cache had no answer for.",
        |cache| cache.counts.miss.count,
    ),
    (
        "nv_cache_hit_duration_per_model",
        Kind::Counter,
        "From submission to answer of hits. Cumulative microseconds.",
        |cache| microseconds(cache.counts.hit.duration),
    ),
    (
        "nv_cache_miss_duration_per_model",
        Kind::Counter,
        "Looking up and keeping of misses. Cumulative microseconds.",
        |cache| microseconds(cache.counts.miss.duration),
    ),
    (
        "forebay_cache_joined_total",
        Kind::Counter,
        "Hits that waited for the run of an identical request.",
        |cache| cache.counts.joined,
    ),
    (
        "forebay_cache_evictions_total",
        Kind::Counter,
        "Kept answers that had to go for others.",
        |cache| cache.evictions,
    ),
    (
        "forebay_cache_bytes",
        Kind::Gauge,
        "Bytes that kept answers take.",
        |cache| cache.bytes,
    ),
    (
        "forebay_cache_entries",
        Kind::Gauge,
        "Answers kept.",
        |cache| cache.entries as u64,
    ),
    (
        "forebay_cache_runs",
        Kind::Gauge,
        "Runs in progress that identical requests would join.",
        |cache| cache.runs as u64,
    ),
    (
        "forebay_cache_waiting",
        Kind::Gauge,
        "Requests that wait for the run of an identical one.",
        |cache| cache.counts.waiting as u64,
    ),
];

pub fn write(page: &mut Page, models: &[Shown<'_>]) {
    for (name, kind, help, number) in FAMILIES {
        page.family(name, kind, help);
        for model in models {
            if let Some(cache) = model.served.cache_statistics() {
                page.sample(name, &model.labels(), number(&cache));
            }
        }
    }
}
