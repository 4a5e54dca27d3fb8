//! `[routes.cache]`.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Keys, Read, Table, Value, http};
use crate::gateway::{Cache, Mode, Protocol, Retry};
use crate::units;

const KEYS: Keys = &["size", "ttl", "max_entry_size", "vary", "shared"];

const SHORTEST_TTL: Duration = Duration::from_millis(1);
const LONGEST_TTL: Duration = Duration::from_secs(24 * 3600);
const SMALLEST: u64 = 1 << 10;
const LARGEST: u64 = 1 << 40;
/// Larger answers to gRPC calls are never held in memory as a whole.
const LARGEST_ENTRY: u64 = 4 << 20;

/// What a cache asks of its route; None where that could not be read.
pub(super) struct Around<'a> {
    pub(super) mode: Option<Mode>,
    pub(super) protocol: Option<Protocol>,
    pub(super) retry: Option<&'a Retry>,
}

pub(super) fn cache(route: &Table<'_>, around: &Around<'_>) -> Read<Option<Cache>> {
    let Some(value) = route.get("cache") else {
        return Ok(None);
    };
    let Some(table) = route.switch("cache", KEYS)? else {
        return Ok(None);
    };
    if around.mode == Some(Mode::Stream) {
        return value.wrong("no cache beside mode = \"stream\": what streams is not kept");
    }
    if around.protocol == Some(Protocol::Http) {
        return value.wrong("no cache on a route to a cluster with protocol = \"http\", as only gRPC calls are kept");
    }
    if around.retry.is_some_and(|retry| !retry.idempotent) {
        return value.wrong("no cache beside retry.idempotent = false: a call that is not to be repeated has effects");
    }
    let default = Cache::default();
    let bytes = table.or("size", default.bytes, |value| {
        value.bytes(SMALLEST..=LARGEST)
    });
    let ttl = table.or("ttl", default.ttl, |value| {
        value.duration(SHORTEST_TTL..=LONGEST_TTL)
    });
    let most = bytes.unwrap_or(LARGEST);
    let max_entry_bytes = table.or(
        "max_entry_size",
        default.max_entry_bytes.min(most),
        |value| match value.bytes(1..=LARGEST_ENTRY)? {
            bytes if bytes <= most => Ok(bytes),
            _ => value.wrong(format!(
                "at most {}, the size of the cache",
                units::format_bytes(most)
            )),
        },
    );
    let vary = table.or("vary", default.vary, |value| vary(&value));
    let shared = table.or("shared", default.shared, |value| value.boolean());
    Ok(Some(Cache {
        bytes: bytes?,
        ttl: ttl?,
        max_entry_bytes: max_entry_bytes?,
        vary: vary?,
        shared: shared?,
    }))
}

/// Hosts are told apart by routes: what a call is sent to has none of its own.
fn vary(value: &Value<'_>) -> Read<Vec<String>> {
    const EXPECTED: &str = "the name of a header other than host";
    let mut names = BTreeSet::new();
    let mut outcome = Ok(());
    for item in value.array("names of headers")? {
        let name = item.string_that(EXPECTED, |name| {
            http::is_token(name) && !name.eq_ignore_ascii_case("host")
        });
        match name.map(str::to_ascii_lowercase) {
            Ok(name) if names.contains(&name) => outcome = item.wrong("each header once"),
            Ok(name) => drop(names.insert(name)),
            Err(wrong) => outcome = Err(wrong),
        }
    }
    outcome.map(|()| names.into_iter().collect())
}
