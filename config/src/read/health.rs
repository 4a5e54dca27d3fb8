//! `[clusters.health]`.

use std::time::Duration;

use super::{Keys, Read, Table, Value, all, http, names};
use crate::defaults;
use crate::gateway::{Health, HealthProbe, Protocol};
use crate::units;

const KEYS: Keys = &[
    "probe",
    "service",
    "path",
    "models",
    "interval",
    "timeout",
    "healthy_threshold",
    "unhealthy_threshold",
];

const PATH: &str = r#"the path that is asked for, such as "/v2/health/ready""#;
const MODELS: &str = r#"names of models, such as ["minilm", "resnet"]"#;
const MOST_MODELS: usize = 64;
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);
const LONGEST_INTERVAL: Duration = Duration::from_secs(3600);

#[derive(Clone, Copy, PartialEq)]
enum Probe {
    Grpc,
    Http,
    Tcp,
}

/// None: checks are off. `protocol` is None where the cluster's could not be read.
pub(super) fn health(cluster: &Table<'_>, protocol: Option<Protocol>) -> Read<Option<Health>> {
    let Some(table) = cluster.switch("health", KEYS)? else {
        return Ok(None);
    };
    let probe = probe(&table, protocol);
    let models = table.or("models", Vec::new(), |value| {
        models(&value, probe.as_ref().ok())
    });
    let interval = table.or("interval", defaults::HEALTH_INTERVAL, |value| {
        value.duration(SHORTEST_INTERVAL..=LONGEST_INTERVAL)
    });
    let longest = interval.unwrap_or(LONGEST_INTERVAL);
    let timeout = table.or("timeout", defaults::HEALTH_TIMEOUT.min(longest), |value| {
        let timeout = value.duration(Duration::from_millis(1)..=LONGEST_INTERVAL)?;
        if timeout <= longest {
            Ok(timeout)
        } else {
            value.wrong(format!(
                "at most {}, the interval",
                units::format_duration(longest)
            ))
        }
    });
    let healthy_threshold = table.or("healthy_threshold", defaults::HEALTHY_THRESHOLD, |value| {
        value.integer(1..=1000)
    });
    let unhealthy_threshold = table.or(
        "unhealthy_threshold",
        defaults::UNHEALTHY_THRESHOLD,
        |value| value.integer(1..=1000),
    );
    Ok(Some(Health {
        probe: probe?,
        models: models?,
        interval: interval?,
        timeout: timeout?,
        healthy_threshold: healthy_threshold?,
        unhealthy_threshold: unhealthy_threshold?,
    }))
}

fn models(value: &Value<'_>, probe: Option<&HealthProbe>) -> Read<Vec<String>> {
    if matches!(probe, Some(HealthProbe::Http { .. } | HealthProbe::Tcp)) {
        return value.wrong(r#"no such key, as only probe = "grpc" asks about models"#);
    }
    let items = value.array(MODELS)?;
    if items.len() > MOST_MODELS {
        return value.wrong("at most 64 models");
    }
    let is_name = |text: &str| !text.is_empty() && !text.contains(char::is_control);
    let read = all(items.iter().map(|item| {
        item.string_that("the name of a model", is_name)
            .map(str::to_owned)
    }))?;
    names::unique("a model", items.iter().cloned().zip(read.iter()))?;
    Ok(read)
}

fn probe(table: &Table<'_>, protocol: Option<Protocol>) -> Read<HealthProbe> {
    let by_protocol = if protocol == Some(Protocol::Http) {
        Probe::Tcp
    } else {
        Probe::Grpc
    };
    let probe = table.or("probe", by_protocol, |value| {
        match value.choice(&[
            ("grpc", Probe::Grpc),
            ("http", Probe::Http),
            ("tcp", Probe::Tcp),
        ])? {
            Probe::Grpc if protocol == Some(Protocol::Http) => value.wrong(
                r#""http" or "tcp", as the cluster has protocol = "http" and gRPC needs HTTP/2"#,
            ),
            probe => Ok(probe),
        }
    });
    let service = table.or("service", String::new(), |value| match probe {
        Ok(Probe::Http | Probe::Tcp) => {
            value.wrong(r#"no such key, as only probe = "grpc" asks for a service"#)
        }
        _ => value
            .string(r#"the name of a gRPC service, or "" for the whole server"#)
            .map(str::to_owned),
    });
    let path = table.optional("path", |value| match probe {
        Ok(Probe::Grpc | Probe::Tcp) => {
            value.wrong(r#"no such key, as only probe = "http" asks for a path"#)
        }
        _ => value
            .string_that(PATH, http::is_path_and_query)
            .map(str::to_owned),
    });
    match probe? {
        Probe::Grpc => path
            .and(service)
            .map(|service| HealthProbe::Grpc { service }),
        Probe::Http => match (service, path?) {
            (_, Some(path)) => Ok(HealthProbe::Http { path }),
            (_, None) => Err(table.missing("path", PATH)),
        },
        Probe::Tcp => service.and(path).map(|_| HealthProbe::Tcp),
    }
}
