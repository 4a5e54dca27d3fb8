//! `[clusters.slow_start]`.

use std::time::Duration;

use super::{Keys, Read, Table};
use crate::gateway::SlowStart;

const KEYS: Keys = &["window", "aggression", "least"];

/// None: not written, or turned off.
pub(super) fn slow_start(cluster: &Table<'_>) -> Read<Option<SlowStart>> {
    if cluster.get("slow_start").is_none() {
        return Ok(None);
    }
    let Some(table) = cluster.switch("slow_start", KEYS)? else {
        return Ok(None);
    };
    let default = SlowStart::default();
    let window = table.or("window", default.window, |value| {
        value.duration(Duration::from_millis(1)..=Duration::from_secs(3600))
    });
    let aggression = table.or("aggression", default.aggression, |value| {
        match value.number()? {
            number if (0.1..=10.0).contains(&number) => Ok(number),
            _ => value.wrong("a number from 0.1 to 10.0"),
        }
    });
    let least = table.or("least", default.least, |value| match value.ratio()? {
        share if share >= 0.01 => Ok(share),
        _ => value.wrong("a ratio from 0.01 to 1.0"),
    });
    Ok(Some(SlowStart {
        window: window?,
        aggression: aggression?,
        least: least?,
    }))
}
