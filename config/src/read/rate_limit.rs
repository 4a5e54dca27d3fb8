//! `[[routes.rate_limits]]`.

use std::time::Duration;

use super::{Keys, Read, Table, Value, all, http, names};
use crate::defaults;
use crate::gateway::{RateKey, RateLimit};

const KEYS: Keys = &["requests", "per", "burst", "by", "shared"];
const BY_KEYS: Keys = &["header"];

const BY: &str = r#""route", "client" or a header such as { header = "x-api-key" }"#;
const MOST: u32 = 1_000_000_000;

pub(super) fn rate_limits(route: &Table<'_>) -> Read<Vec<RateLimit>> {
    let tables = route.or("rate_limits", Vec::new(), |value| {
        value.array("tables, each under [[routes.rate_limits]]")
    })?;
    let limits = all(tables.iter().map(rate_limit))?;
    let keys = tables.iter().cloned().zip(
        limits
            .iter()
            .map(|limit| (&limit.by, limit.requests, limit.per)),
    );
    names::unique("a key, a number or a time", keys)?;
    Ok(limits)
}

fn rate_limit(value: &Value<'_>) -> Read<RateLimit> {
    let table = value.table(KEYS)?;
    let requests = table.required("requests", "how many requests there may be", |value| {
        value.integer(1..=MOST)
    });
    let per = table.or("per", defaults::RATE_PER, |value| {
        value.duration(Duration::from_millis(1)..=Duration::from_secs(24 * 3600))
    });
    let burst = table.optional("burst", |value| value.integer(1..=MOST));
    let by = table.or("by", RateKey::Route, |value| by(&value));
    let shared = table.or("shared", false, |value| value.boolean());
    let requests = requests?;
    Ok(RateLimit {
        requests,
        per: per?,
        burst: burst?.unwrap_or(requests),
        by: by?,
        shared: shared?,
    })
}

fn by(value: &Value<'_>) -> Read<RateKey> {
    match value.as_str() {
        Some("route") => Ok(RateKey::Route),
        Some("client") => Ok(RateKey::Client),
        None if value.is_table() => {
            let table = value.table(BY_KEYS)?;
            let name = table.required(
                "header",
                r#"the name of a header, such as "x-api-key""#,
                |value| http::header_name(&value),
            );
            name.map(RateKey::Header)
        }
        _ => value.wrong(BY),
    }
}
