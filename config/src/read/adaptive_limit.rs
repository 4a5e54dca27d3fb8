//! `[routes.adaptive_limit]`.

use super::{Keys, Read, Table};
use crate::gateway::{AdaptiveLimit, Protocol};

const KEYS: Keys = &["min", "max"];

pub(super) const MOST_CONCURRENT: u32 = 1_000_000;

/// `protocol` and `max_concurrent` are None where they could not be read.
pub(super) fn adaptive_limit(
    route: &Table<'_>,
    protocol: Option<Protocol>,
    max_concurrent: Option<u32>,
) -> Read<Option<AdaptiveLimit>> {
    let Some(value) = route.get("adaptive_limit") else {
        return Ok(None);
    };
    if protocol == Some(Protocol::Http) {
        return value.wrong(
            r#"no adaptive_limit on a route to a cluster with protocol = "http": it learns from unary gRPC calls"#,
        );
    }
    if max_concurrent.is_some_and(|most| most > 0) {
        return value.wrong("no adaptive_limit beside max_concurrent; its max is that bound");
    }
    let Some(table) = route.switch("adaptive_limit", KEYS)? else {
        return Ok(None);
    };
    let default = AdaptiveLimit::default();
    let min = table.optional("min", |value| value.integer(1..=MOST_CONCURRENT));
    let max = table.optional("max", |value| {
        let most = value.integer(1..=MOST_CONCURRENT)?;
        match min {
            Ok(Some(least)) if least > most => value.wrong(format!("at least {least}, the min")),
            _ => Ok(most),
        }
    });
    // Of the two, one that is left out gives way to the one that is written.
    let (min, max) = (min?, max?);
    Ok(Some(AdaptiveLimit {
        min: min.unwrap_or(default.min.min(max.unwrap_or(default.max))),
        max: max.unwrap_or(default.max.max(min.unwrap_or(default.min))),
    }))
}
