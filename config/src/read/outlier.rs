//! `[clusters.outlier]`.

use std::time::Duration;

use super::{Keys, Read, Table};
use crate::gateway::Outlier;
use crate::units;

const KEYS: Keys = &[
    "window",
    "minimum_requests",
    "margin",
    "eject_for",
    "eject_max",
    "max_ejected",
];

const LONGEST: Duration = Duration::from_secs(24 * 3600);

pub(super) fn outlier(cluster: &Table<'_>) -> Read<Option<Outlier>> {
    let default = Outlier::default();
    let Some(table) = cluster.switch("outlier", KEYS)? else {
        return Ok(None);
    };
    let window = table.or("window", default.window, |value| {
        value.duration(Duration::from_millis(100)..=Duration::from_secs(3600))
    });
    let minimum_requests = table.or("minimum_requests", default.minimum_requests, |value| {
        value.integer(1..=1_000_000)
    });
    let margin = table.or("margin", default.margin, |value| value.ratio());
    let eject_for = table.optional("eject_for", |value| {
        value.duration(Duration::from_millis(100)..=LONGEST)
    });
    let eject_max = table.optional("eject_max", |value| {
        let longest = value.duration(Duration::from_millis(100)..=LONGEST)?;
        match eject_for {
            Ok(Some(first)) if first > longest => value.wrong(format!(
                "at least {}, the eject_for",
                units::format_duration(first)
            )),
            _ => Ok(longest),
        }
    });
    let max_ejected = table.or("max_ejected", default.max_ejected, |value| value.ratio());
    // Of the two, one that is left out gives way to the one that is written.
    let (eject_for, eject_max) = match (eject_for?, eject_max?) {
        (Some(first), longest) => (first, longest.unwrap_or(default.eject_max.max(first))),
        (None, Some(longest)) => (default.eject_for.min(longest), longest),
        (None, None) => (default.eject_for, default.eject_max),
    };
    Ok(Some(Outlier {
        window: window?,
        minimum_requests: minimum_requests?,
        margin: margin?,
        eject_for,
        eject_max,
        max_ejected: max_ejected?,
    }))
}
