//! Every default of every table, in one place. `docs/configuration.md` lists them; a test compares.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::gateway::{AdaptiveLimit, Breaker, Cache, Hedge, Outlier, Retry, SlowStart};
use crate::telemetry::Telemetry;
use crate::worker::{Model, ModelControl, Provider, ProviderOptions, VersionPolicy, Worker};

pub(crate) const DRAIN_DELAY: Duration = Duration::ZERO;
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) const GATEWAY_SERVICE_NAME: &str = "forebay-gateway";
pub(crate) const WORKER_SERVICE_NAME: &str = "forebay-worker";
pub(crate) const SAMPLING_RATIO: f64 = 0.01;
pub(crate) const LOG_LEVEL: &str = "info";
pub(crate) const OTLP_TIMEOUT: Duration = Duration::from_secs(10);
/// An endpoint on this port speaks OTLP over gRPC unless told otherwise; any other speaks HTTP.
pub(crate) const OTLP_GRPC_PORT: u16 = 4317;

pub(crate) const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
pub(crate) const MAX_CONCURRENT_STREAMS: u32 = 1000;

/// The route that exists when none is written and there is but one cluster.
pub(crate) const CATCH_ALL_ROUTE: &str = "default";
pub(crate) const ROUTE_TIMEOUT: Duration = Duration::from_secs(60);
pub(crate) const MAX_REQUEST_BYTES: u64 = 64 << 20;

/// Less than most runs take, and more than a Redis nearby needs.
pub(crate) const REDIS_TIMEOUT: Duration = Duration::from_millis(20);
pub(crate) const REDIS_PREFIX: &str = "forebay";

pub(crate) const RATE_PER: Duration = Duration::from_secs(1);
pub(crate) const AFFINITY_BOUND: f64 = 1.25;
pub(crate) const SPILL_BELOW: f64 = 0.7;
pub(crate) const PANIC_BELOW: f64 = 0.0;

pub(crate) const SIDE_WEIGHT: u32 = 1;
pub(crate) const FALLBACK_STATUS: u16 = 503;
pub(crate) const FALLBACK_CONTENT_TYPE: &str = "application/json";
/// UNAVAILABLE.
pub(crate) const FALLBACK_GRPC_CODE: u8 = 14;
pub(crate) const FALLBACK_GRPC_MESSAGE: &str = "the service is temporarily unavailable";

pub(crate) const SHADOW_SHARE: f64 = 1.0;
pub(crate) const SHADOW_TIMEOUT: Duration = Duration::from_secs(10);
pub(crate) const SHADOW_MAX_REQUESTS: u32 = 16;
pub(crate) const SHADOW_MAX_BYTES: u64 = 64 << 20;

pub(crate) const ENDPOINT_WEIGHT: u32 = 1;
pub(crate) const DISCOVERY_INTERVAL: Duration = Duration::from_secs(5);
/// The agent of this machine.
pub(crate) const CONSUL: &str = "127.0.0.1:8500";
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
pub(crate) const QUEUE_SIZE: u32 = 1024;
pub(crate) const HEALTH_INTERVAL: Duration = Duration::from_secs(1);
/// The interval, if that is shorter.
pub(crate) const HEALTH_TIMEOUT: Duration = Duration::from_millis(500);
pub(crate) const HEALTHY_THRESHOLD: u32 = 1;
pub(crate) const UNHEALTHY_THRESHOLD: u32 = 2;

pub(crate) const WORKER_PORT: u16 = 8001;
pub(crate) const WORKER_HTTP_PORT: u16 = 8000;
pub(crate) const POLL_INTERVAL: Duration = Duration::from_secs(5);
pub(crate) const MAX_MESSAGE_BYTES: u64 = 64 << 20;
/// Of all requests to a worker together; no less than the largest message that can be allowed.
const MAX_BODY_BYTES: u64 = 2 << 30;

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 3,
            per_try_timeout: None,
            backoff: Duration::from_millis(25),
            backoff_max: Duration::from_millis(250),
            budget_ratio: 0.2,
            budget_min: 3,
            idempotent: true,
        }
    }
}

impl Default for AdaptiveLimit {
    fn default() -> Self {
        Self {
            min: 4,
            max: 10_000,
        }
    }
}

impl Default for Hedge {
    fn default() -> Self {
        Self {
            quantile: 0.95,
            min_delay: Duration::from_millis(5),
        }
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            bytes: 64 << 20,
            ttl: Duration::from_secs(60),
            max_entry_bytes: 1 << 20,
            // Where clients usually say who they are.
            vary: ["authorization", "cookie", "x-api-key"]
                .map(str::to_owned)
                .into(),
            shared: false,
        }
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            success_rate: 0.0,
            window: Duration::from_secs(10),
            minimum_requests: 20,
            open_for: Duration::from_secs(5),
        }
    }
}

impl Default for Outlier {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(10),
            minimum_requests: 20,
            margin: 0.2,
            eject_for: Duration::from_secs(30),
            eject_max: Duration::from_secs(300),
            max_ejected: 0.5,
        }
    }
}

impl Default for SlowStart {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(30),
            aggression: 1.0,
            least: 0.1,
        }
    }
}

impl Default for Model {
    fn default() -> Self {
        Self {
            max_batch_size: 32,
            dynamic_batching: true,
            preferred_batch_sizes: Vec::new(),
            max_queue_delay: Duration::ZERO,
            latency_target: None,
            max_queue_size: 1024,
            priority_levels: 0,
            default_priority: 0,
            threads: None,
            instances: 1,
            provider: Provider::Auto,
            provider_options: ProviderOptions::default(),
            devices: Vec::new(),
            default_timeout: None,
            learn_batch_size: true,
            versions: VersionPolicy::Latest(1),
            warm_up: true,
            padding: None,
            response_cache_bytes: 0,
            labels: BTreeMap::new(),
        }
    }
}

pub(crate) fn telemetry(service_name: &str) -> Telemetry {
    Telemetry {
        service_name: service_name.to_owned(),
        otlp: None,
        sampling_ratio: SAMPLING_RATIO,
        log_level: LOG_LEVEL.to_owned(),
    }
}

pub(crate) fn worker(repository: PathBuf) -> Worker {
    Worker {
        listen: every_address(WORKER_PORT),
        http_listen: Some(every_address(WORKER_HTTP_PORT)),
        tls: None,
        repository_token_file: None,
        repository,
        model_control: ModelControl::None,
        memory_budget_bytes: None,
        onnxruntime: None,
        threads: None,
        max_message_bytes: MAX_MESSAGE_BYTES,
        max_body_bytes: MAX_BODY_BYTES,
        drain_timeout: DRAIN_TIMEOUT,
        telemetry: telemetry(WORKER_SERVICE_NAME),
        defaults: Model::default(),
        models: BTreeMap::new(),
        ensembles: BTreeMap::new(),
    }
}

fn every_address(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)
}
