//! `[[routes]]`: what a request must look like, and what happens to it.

use std::time::Duration;

use super::{Fallback, RateLimit, Shadow, Split, Subset};

#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    pub name: String,
    pub matches: Match,
    /// Name of the cluster, of the first side where there is a split; it exists.
    pub cluster: String,
    /// None: everything goes to `cluster`.
    pub split: Option<Split>,
    /// None: what fails, fails.
    pub fallback: Option<Fallback>,
    /// Which endpoints of `cluster` and of the sides take its requests; None: all do.
    pub subset: Option<Subset>,
    pub mode: Mode,
    /// Over all attempts, from the first byte of the request; an earlier `grpc-timeout` wins.
    /// Streaming calls are bounded only by their own `grpc-timeout`.
    pub timeout: Duration,
    /// Largest request body of a unary call in bytes; larger ones get 413 / RESOURCE_EXHAUSTED.
    pub max_request_bytes: u64,
    /// Inference requests with more rows than this go out in parts; 1 or more. None: all go out whole.
    pub max_rows: Option<u32>,
    /// Requests that are served at a time; 0: no limit.
    pub max_concurrent: u32,
    /// None: `max_concurrent` alone counts, else that is 0.
    pub adaptive_limit: Option<AdaptiveLimit>,
    /// No two have the same key, number and time.
    pub rate_limits: Vec<RateLimit>,
    pub retry: Retry,
    /// None: no hedging. Only for unary calls that may be repeated (`retry.idempotent`).
    pub hedge: Option<Hedge>,
    /// None: no answer is given twice. Only where `retry.idempotent` and calls may be unary.
    pub cache: Option<Cache>,
    /// None: no call is copied.
    pub shadow: Option<Shadow>,
}

impl Route {
    /// To its cluster or a side of its split; what its fallback leads to does not count.
    pub fn sends_to(&self, cluster: &str) -> bool {
        let sides = self.split.iter().flat_map(|split| &split.sides);
        self.cluster == cluster || sides.into_iter().any(|side| side.cluster == cluster)
    }
}

/// How many requests are served at a time is learned from how long answers take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdaptiveLimit {
    /// 1 or more.
    pub min: u32,
    /// `min` or more.
    pub max: u32,
}

/// A second attempt beside the first when that takes longer than most; the answer that comes first counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hedge {
    /// Of the route's latest answer times: what takes longer is hedged. 0.5 to 0.999.
    pub quantile: f64,
    /// Never sooner than this.
    pub min_delay: Duration,
}

/// Answers of inference calls that are kept and given again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// That kept answers take at most, in this process.
    pub bytes: u64,
    pub ttl: Duration,
    /// Larger answers are not kept; at most `bytes` and 4 MiB.
    pub max_entry_bytes: u64,
    /// Headers whose values are part of what was asked: clients that differ in one share no answer. Lower case,
    /// sorted, no duplicates.
    pub vary: Vec<String>,
    /// Answers are also kept in Redis, which is configured then.
    pub shared: bool,
}

/// Which data path a request takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Unary calls of the Open Inference Protocol and of grpc.health are unary; all else streams, but for plain requests
    /// whose bodies pingora could not replay.
    #[default]
    Auto,
    /// Every gRPC call on this route is unary (one message each way); plain requests are read whole and answers to them
    /// held back.
    Unary,
    /// Everything is streamed, inference too.
    Stream,
}

/// All conditions must hold; an absent one always holds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Match {
    pub host: Option<HostMatch>,
    pub path: Option<PathMatch>,
    /// Upper case, sorted, no duplicates; empty: any method.
    pub methods: Vec<String>,
    /// Sorted by name.
    pub headers: Vec<HeaderMatch>,
    pub model: Option<ModelMatch>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostMatch {
    /// Lower case, without port.
    Exact(String),
    /// `*.example.com` is kept as `.example.com`: any host that ends so, with at least one label before it.
    Suffix(String),
}

#[derive(Debug, Clone)]
pub enum PathMatch {
    Exact(String),
    /// Matches whole segments: `/v2` takes `/v2` and `/v2/x`, not `/v2x`. `/` takes everything.
    Prefix(String),
    /// Matches the whole path.
    Regex(regex::Regex),
}

impl PartialEq for PathMatch {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) | (Self::Prefix(a), Self::Prefix(b)) => a == b,
            (Self::Regex(a), Self::Regex(b)) => a.as_str() == b.as_str(),
            _ => false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderMatch {
    /// Lower case.
    pub name: String,
    pub value: HeaderValueMatch,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderValueMatch {
    Present,
    Exact(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelMatch {
    pub name: String,
    /// Any version when `None`; a request without a version matches only `None`.
    pub version: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    /// Attempts in all, the first included; 1 to 10. 1 turns retries off.
    pub attempts: u32,
    /// Bound of each attempt; the route's timeout bounds them all. None: only the latter.
    pub per_try_timeout: Option<Duration>,
    /// First backoff; doubles each time, with full jitter.
    pub backoff: Duration,
    pub backoff_max: Duration,
    /// Retries allowed at a time as a share of the cluster's active requests, 0.0 to 1.0.
    pub budget_ratio: f64,
    /// Retries that are always allowed at a time.
    pub budget_min: u32,
    /// Retry also attempts that may have been executed (timeout, reset in mid-answer). Inference without
    /// side effects is safe to repeat, so this is the default for unary inference routes.
    pub idempotent: bool,
}
