//! `[clusters.prefer]`.

use super::{Keys, Read, Table, subset};
use crate::defaults;
use crate::gateway::Prefer;

const KEYS: Keys = &["labels", "spill_below"];

const LABELS: &str = r#"the labels of the endpoints that come first, such as { zone = "a" }"#;

pub(super) fn prefer(cluster: &Table<'_>) -> Read<Option<Prefer>> {
    let Some(value) = cluster.get("prefer") else {
        return Ok(None);
    };
    let table = value.table(KEYS)?;
    let labels = table.required("labels", LABELS, |value| match subset::labels(&value)? {
        none if none.is_empty() => value.wrong(LABELS),
        labels => Ok(labels),
    });
    let spill_below = table.or("spill_below", defaults::SPILL_BELOW, |value| {
        match value.ratio()? {
            share if share > 0.0 => Ok(share),
            _ => value.wrong("a number above 0.0, up to 1.0"),
        }
    });
    Ok(Some(Prefer {
        labels: labels?,
        spill_below: spill_below?,
    }))
}
