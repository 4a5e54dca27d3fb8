//! `[[routes]]`, apart from the match.

use std::collections::BTreeMap;
use std::time::Duration;

use super::cache::{self, Around};
use super::{
    Keys, Read, Table, Value, adaptive_limit, matches, names, nearest, rate_limit, shadow, subset,
    targets,
};
use crate::defaults;
use crate::gateway::{Hedge, Match, Mode, Protocol, Retry, Route};
use crate::units;

const KEYS: Keys = &[
    "name",
    "cluster",
    "split",
    "sticky",
    "fallback",
    "subset",
    "mode",
    "timeout",
    "max_request_size",
    "max_rows",
    "max_concurrent",
    "adaptive_limit",
    "rate_limits",
    "match",
    "retry",
    "hedge",
    "cache",
    "shadow",
];
const RETRY_KEYS: Keys = &[
    "attempts",
    "per_try_timeout",
    "backoff",
    "backoff_max",
    "budget_ratio",
    "budget_min",
    "idempotent",
];

const HEDGE_KEYS: Keys = &["quantile", "min_delay"];

const MODES: [(&str, Mode); 3] = [
    ("auto", Mode::Auto),
    ("unary", Mode::Unary),
    ("stream", Mode::Stream),
];

const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_secs(24 * 3600);
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
/// Protobuf refuses messages of 2 GiB and more.
const LARGEST_MESSAGE: u64 = 2047 << 20;

/// Clusters by name; the protocol is None where it could not be read.
pub(super) type Clusters = BTreeMap<String, Option<Protocol>>;

/// The match comes apart from the route: routes are compared by it even if something else is wrong.
pub(super) fn route(
    index: usize,
    value: &Value<'_>,
    clusters: &Clusters,
) -> Read<(Read<Match>, Read<Route>)> {
    let table = value.table(KEYS)?;
    let matches = matches::matches(&table);
    let route = settings(index, &table, matches.clone(), clusters);
    Ok((matches, route))
}

/// What is routed where when nothing is said about it.
pub(super) fn catch_all(cluster: &str) -> Route {
    Route {
        name: defaults::CATCH_ALL_ROUTE.to_owned(),
        matches: Match::default(),
        cluster: cluster.to_owned(),
        split: None,
        fallback: None,
        subset: None,
        mode: Mode::Auto,
        timeout: defaults::ROUTE_TIMEOUT,
        max_request_bytes: defaults::MAX_REQUEST_BYTES,
        max_rows: None,
        max_concurrent: 0,
        adaptive_limit: None,
        rate_limits: Vec::new(),
        retry: Retry::default(),
        hedge: None,
        cache: None,
        shadow: None,
    }
}

fn settings(
    index: usize,
    table: &Table<'_>,
    matches: Read<Match>,
    clusters: &Clusters,
) -> Read<Route> {
    let name = names::numbered_name(table, "route", index);
    let targets = targets::targets(table, clusters);
    let protocol = targets::peek_protocol(table, clusters);
    let fallback = targets::fallback(table, clusters, targets.as_ref().ok());
    let subset = subset::subset(table);
    let mode = table.or("mode", Mode::Auto, |value| value.choice(&MODES));
    let timeout = table.or("timeout", defaults::ROUTE_TIMEOUT, |value| {
        value.duration(SHORTEST..=LONGEST)
    });
    let max_request_bytes = table.or("max_request_size", defaults::MAX_REQUEST_BYTES, |value| {
        value.bytes(1..=LARGEST_MESSAGE)
    });
    let max_rows = table.optional("max_rows", |value| {
        let rows = value.integer(1..=1_000_000)?;
        match (mode, protocol) {
            (Ok(Mode::Stream), _) => {
                value.wrong(r#"no max_rows beside mode = "stream": only unary calls are cut"#)
            }
            (_, Some(Protocol::Http)) => {
                value.wrong(r#"no max_rows, as the cluster has protocol = "http""#)
            }
            _ => Ok(rows),
        }
    });
    let max_concurrent = table.or("max_concurrent", 0, |value| {
        value.integer(0..=adaptive_limit::MOST_CONCURRENT)
    });
    let adaptive_limit = adaptive_limit::adaptive_limit(table, protocol, max_concurrent.ok());
    let rate_limits = rate_limit::rate_limits(table);
    let retry = retry(table, timeout.unwrap_or(LONGEST));
    let around = Around {
        mode: mode.ok(),
        protocol,
        retry: retry.as_ref().ok(),
    };
    let hedge = hedge(table, &around);
    let cache = cache::cache(table, &around);
    let shadow = shadow::shadow(
        table,
        clusters,
        targets.as_ref().ok(),
        fallback.as_ref().ok().and_then(Option::as_ref),
        mode.ok(),
    );
    let targets = targets?;
    Ok(Route {
        name: name?,
        matches: matches?,
        cluster: targets.cluster,
        split: targets.split,
        fallback: fallback?,
        subset: subset?,
        mode: mode?,
        timeout: timeout?,
        max_request_bytes: max_request_bytes?,
        max_rows: max_rows?,
        max_concurrent: max_concurrent?,
        adaptive_limit: adaptive_limit?,
        rate_limits: rate_limits?,
        retry: retry?,
        hedge: hedge?,
        cache: cache?,
        shadow: shadow?,
    })
}

/// What would be right where a cluster is named.
pub(super) fn known(clusters: &Clusters, found: &str) -> String {
    if clusters.is_empty() {
        return "the name of a cluster".to_owned();
    }
    let names: Vec<String> = clusters.keys().map(|name| format!("{name:?}")).collect();
    let hint = nearest::hint(found, clusters.keys().map(String::as_str));
    format!("the name of a cluster ({}){hint}", names.join(", "))
}

fn retry(route: &Table<'_>, timeout: Duration) -> Read<Retry> {
    let default = Retry::default();
    let Some(table) = route.switch("retry", RETRY_KEYS)? else {
        return Ok(Retry {
            attempts: 1,
            ..default
        });
    };
    let attempts = table.or("attempts", default.attempts, |value| value.integer(1..=10));
    let per_try_timeout = table.optional("per_try_timeout", |value| {
        let per_try = value.duration(SHORTEST..=LONGEST)?;
        if per_try <= timeout {
            Ok(per_try)
        } else {
            value.wrong(format!(
                "at most {}, the timeout of the route",
                units::format_duration(timeout)
            ))
        }
    });
    let backoff = table.optional("backoff", |value| {
        value.duration(Duration::ZERO..=LONGEST_BACKOFF)
    });
    let backoff_max = table.optional("backoff_max", |value| {
        let longest = value.duration(Duration::ZERO..=LONGEST_BACKOFF)?;
        match backoff {
            Ok(Some(first)) if first > longest => value.wrong(format!(
                "at least {}, the backoff",
                units::format_duration(first)
            )),
            _ => Ok(longest),
        }
    });
    let budget_ratio = table.or("budget_ratio", default.budget_ratio, |value| value.ratio());
    let budget_min = table.or("budget_min", default.budget_min, |value| {
        value.integer(0..=1_000_000)
    });
    let idempotent = table.or("idempotent", default.idempotent, |value| value.boolean());
    // Of the two, one that is left out gives way to the one that is written.
    let (backoff, backoff_max) = match (backoff?, backoff_max?) {
        (Some(first), longest) => (first, longest.unwrap_or(default.backoff_max.max(first))),
        (None, Some(longest)) => (default.backoff.min(longest), longest),
        (None, None) => (default.backoff, default.backoff_max),
    };
    Ok(Retry {
        attempts: attempts?,
        per_try_timeout: per_try_timeout?,
        backoff,
        backoff_max,
        budget_ratio: budget_ratio?,
        budget_min: budget_min?,
        idempotent: idempotent?,
    })
}

fn hedge(route: &Table<'_>, around: &Around<'_>) -> Read<Option<Hedge>> {
    let Some(value) = route.get("hedge") else {
        return Ok(None);
    };
    let is_http = around.protocol == Some(Protocol::Http);
    let is_whole = around.mode.is_none_or(|mode| mode == Mode::Unary);
    if is_http && !is_whole && value.as_bool() != Some(false) {
        return value.wrong(
            r#"mode = "unary" beside it: to a cluster with protocol = "http" only requests that are read whole are hedged"#,
        );
    }
    if around.retry.is_some_and(|retry| !retry.idempotent) {
        return value
            .wrong("no hedge beside retry.idempotent = false: both attempts may be executed");
    }
    let Some(table) = route.switch("hedge", HEDGE_KEYS)? else {
        return Ok(None);
    };
    let default = Hedge::default();
    let quantile = table.or("quantile", default.quantile, |value| {
        match value.ratio()? {
            quantile if (0.5..=0.999).contains(&quantile) => Ok(quantile),
            _ => value.wrong("a ratio from 0.5 to 0.999"),
        }
    });
    let min_delay = table.or("min_delay", default.min_delay, |value| {
        value.duration(Duration::ZERO..=LONGEST_BACKOFF)
    });
    Ok(Some(Hedge {
        quantile: quantile?,
        min_delay: min_delay?,
    }))
}
