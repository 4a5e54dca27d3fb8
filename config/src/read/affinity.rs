//! `[clusters.affinity]`, which stands beside `policy = "ring_hash"` and nowhere else.

use super::{Keys, Read, Table, Value, http};
use crate::defaults;
use crate::gateway::{Affinity, Policy};

const KEYS: Keys = &["parameter", "header", "cookie", "model", "source", "bound"];

const SOURCE: &str =
    r#"one or more of parameter, header, cookie, model and source, such as header = "x-session""#;
const PARAMETER: &str = r#"the name of a request's parameter, such as "sequence_id""#;
const HEADER: &str = r#"the name of a header, such as "x-session""#;
const COOKIE: &str = r#"the name of a cookie, such as "session""#;
const LEAST_BOUND: f64 = 1.0;
const MOST_BOUND: f64 = 100.0;

/// `policy` is None where it could not be read.
pub(super) fn affinity(cluster: &Table<'_>, policy: Option<Policy>) -> Read<Option<Affinity>> {
    let Some(value) = cluster.get("affinity") else {
        return match policy {
            Some(Policy::RingHash) => Err(cluster.missing(
                "affinity",
                &format!(r#"what policy = "ring_hash" goes by: {SOURCE}"#),
            )),
            _ => Ok(None),
        };
    };
    if policy.is_some_and(|policy| policy != Policy::RingHash) {
        return value.wrong(r#"no such key without policy = "ring_hash""#);
    }
    let table = value.table(KEYS)?;
    let parameter = table.optional("parameter", |value| {
        let is_name = |text: &str| !text.is_empty() && !text.contains(char::is_control);
        value.string_that(PARAMETER, is_name).map(str::to_owned)
    });
    let header = table.optional("header", |value| header(&value));
    let cookie = table.optional("cookie", |value| {
        value.string_that(COOKIE, http::is_token).map(str::to_owned)
    });
    let model = table.or("model", false, |value| value.boolean());
    let source = table.or("source", false, |value| value.boolean());
    let bound = table.or("bound", defaults::AFFINITY_BOUND, |value| {
        match value.number()? {
            bound if (LEAST_BOUND..=MOST_BOUND).contains(&bound) => Ok(bound),
            _ => value.wrong("a number from 1.0 to 100.0"),
        }
    });
    let affinity = Affinity {
        parameter: parameter?,
        header: header?,
        cookie: cookie?,
        model: model?,
        source: source?,
        bound: bound?,
    };
    let written = [&affinity.parameter, &affinity.header, &affinity.cookie];
    if written.iter().all(|source| source.is_none()) && !affinity.model && !affinity.source {
        return value.wrong(SOURCE);
    }
    Ok(Some(affinity))
}

fn header(value: &Value<'_>) -> Read<String> {
    let name = value.string_that(HEADER, http::is_token)?;
    Ok(name.to_ascii_lowercase())
}
