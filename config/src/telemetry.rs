//! `[telemetry]`: traces and logs; the same table for gateway and worker.

use std::time::Duration;

#[derive(Debug, Clone, PartialEq)]
pub struct Telemetry {
    /// `service.name` of every span.
    pub service_name: String,
    /// Where spans go; None: no traces leave the process.
    pub otlp: Option<Otlp>,
    /// Share of requests without a parent that are traced, 0.0 to 1.0; a parent's decision always wins.
    pub sampling_ratio: f64,
    /// `error`, `warn`, `info`, `debug` or `trace`; the `RUST_LOG` variable wins over it.
    pub log_level: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Otlp {
    /// `http://host:port`; for HTTP, `/v1/traces` is appended when no path is given.
    pub endpoint: String,
    pub protocol: OtlpProtocol,
    /// Of one export; spans of a failed export are dropped.
    pub timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtlpProtocol {
    /// Protobuf over HTTP, port 4318 by custom.
    Http,
    /// gRPC, port 4317 by custom.
    Grpc,
}
