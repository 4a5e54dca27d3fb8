//! `[routes.shadow]`.

use std::time::Duration;

use super::route::{Clusters, known};
use super::targets::{Targets, named};
use super::{Keys, Read, Table, Value};
use crate::defaults;
use crate::gateway::{Fallback, Mode, Protocol, Shadow};

const KEYS: Keys = &[
    "cluster",
    "share",
    "timeout",
    "max_requests",
    "max_bytes",
    "model",
    "version",
];

const LONGEST: Duration = Duration::from_secs(3600);
const MOST_BYTES: u64 = 16 << 30;

/// Clusters that the route sends requests to, by name.
fn own_clusters<'t>(targets: &'t Targets, fallback: Option<&'t Fallback>) -> Vec<&'t str> {
    let sides = targets.split.iter().flat_map(|split| &split.sides);
    let spare = fallback.and_then(|fallback| fallback.cluster.as_deref());
    sides
        .map(|side| side.cluster.as_str())
        .chain([targets.cluster.as_str()])
        .chain(spare)
        .collect()
}

pub(super) fn shadow(
    route: &Table<'_>,
    clusters: &Clusters,
    targets: Option<&Targets>,
    fallback: Option<&Fallback>,
    mode: Option<Mode>,
) -> Read<Option<Shadow>> {
    let own = targets.map(|targets| own_clusters(targets, fallback));
    route.optional("shadow", |value| {
        if mode == Some(Mode::Stream) {
            return value.wrong(r#"no shadow beside mode = "stream": only unary calls are copied"#);
        }
        let table = value.table(KEYS)?;
        let cluster = table.required("cluster", &known(clusters, ""), |value| {
            let name = named(&value, clusters)?;
            if clusters.get(&name).copied().flatten() == Some(Protocol::Http) {
                return value.wrong(r#"a cluster with protocol = "grpc""#);
            }
            if own.as_ref().is_some_and(|own| own.contains(&name.as_str())) {
                return value.wrong(
                    "a cluster that the route sends no requests to; it may name the same endpoints",
                );
            }
            Ok(name)
        });
        let share = table.or("share", defaults::SHADOW_SHARE, |value| value.ratio());
        let timeout = table.or("timeout", defaults::SHADOW_TIMEOUT, |value| {
            value.duration(Duration::from_millis(1)..=LONGEST)
        });
        let max_requests = table.or("max_requests", defaults::SHADOW_MAX_REQUESTS, |value| {
            value.integer(1..=10_000)
        });
        let max_bytes = table.or("max_bytes", defaults::SHADOW_MAX_BYTES, |value| {
            value.bytes(1..=MOST_BYTES)
        });
        let model = table.optional("model", |value| text(&value, "the name of a model"));
        let version = table.optional("version", |value| {
            text(&value, r#"the version of a model as a string, such as "2""#)
        });
        Ok(Shadow {
            cluster: cluster?,
            share: share?,
            timeout: timeout?,
            max_requests: max_requests?,
            max_bytes: max_bytes?,
            model: model?,
            version: version?,
        })
    })
}

fn text(value: &Value<'_>, expected: &str) -> Read<String> {
    let is_name = |text: &str| !text.is_empty() && !text.contains(char::is_control);
    value.string_that(expected, is_name).map(str::to_owned)
}
