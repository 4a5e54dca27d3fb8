//! `[telemetry]`.

use std::time::Duration;

use super::{Keys, Read, Table, Value, address};
use crate::defaults;
use crate::telemetry::{Otlp, OtlpProtocol, Telemetry};

const KEYS: Keys = &["service_name", "otlp", "sampling_ratio", "log_level"];
const OTLP_KEYS: Keys = &["endpoint", "protocol", "timeout"];

const ENDPOINT: &str = r#"the URL of a collector without TLS, such as "http://127.0.0.1:4318""#;
const LEVELS: [(&str, &str); 5] = [
    ("error", "error"),
    ("warn", "warn"),
    ("info", "info"),
    ("debug", "debug"),
    ("trace", "trace"),
];

pub(super) fn telemetry(root: &Table<'_>, service_name: &str) -> Read<Telemetry> {
    let table = root.table("telemetry", KEYS)?;
    let default = defaults::telemetry(service_name);
    let service_name = table.or("service_name", default.service_name, |value| {
        value
            .string_that("a name that is not empty", |text| !text.trim().is_empty())
            .map(str::to_owned)
    });
    let otlp = table.optional("otlp", |value| otlp(&value));
    let sampling_ratio = table.or("sampling_ratio", default.sampling_ratio, |value| {
        value.ratio()
    });
    let log_level = table.or("log_level", default.log_level, |value| {
        value.choice(&LEVELS).map(str::to_owned)
    });
    Ok(Telemetry {
        service_name: service_name?,
        otlp: otlp?,
        sampling_ratio: sampling_ratio?,
        log_level: log_level?,
    })
}

fn otlp(value: &Value<'_>) -> Read<Otlp> {
    let table = value.table(OTLP_KEYS)?;
    let endpoint = table.required("endpoint", ENDPOINT, |value| {
        let text = value.string(ENDPOINT)?;
        let (port, path) = address::plain_url(text).map_or_else(|| value.wrong(ENDPOINT), Ok)?;
        Ok((value, text, port, path))
    });
    let protocol = table.optional("protocol", |value| {
        value.choice(&[("http", OtlpProtocol::Http), ("grpc", OtlpProtocol::Grpc)])
    });
    let longest = Duration::from_secs(60);
    let timeout = table.or("timeout", defaults::OTLP_TIMEOUT, |value| {
        value.duration(Duration::from_millis(1)..=longest)
    });
    let (written, endpoint, port, path) = endpoint?;
    let by_port = if port == defaults::OTLP_GRPC_PORT {
        OtlpProtocol::Grpc
    } else {
        OtlpProtocol::Http
    };
    let protocol = protocol?.unwrap_or(by_port);
    if protocol == OtlpProtocol::Grpc && !matches!(path, "" | "/") {
        return written.wrong(r#"a URL without a path, as the protocol is "grpc""#);
    }
    Ok(Otlp {
        endpoint: endpoint.to_owned(),
        protocol,
        timeout: timeout?,
    })
}
