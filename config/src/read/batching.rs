//! The keys of a model that say how requests wait and go together, except padding.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::{Read, Table, Value, all};
use crate::worker::{Model, Overrides};

const LARGEST_BATCH: u32 = 65_536;
const MOST_LEVELS: u32 = 1000;
const LONGEST_DELAY: Duration = Duration::from_secs(60);
const TARGETS: RangeInclusive<Duration> = Duration::from_micros(100)..=Duration::from_secs(3600);
const TIMEOUTS: RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(24 * 3600);

/// The fields that are read here; the others say nothing. `below` is for comparison only.
pub(super) fn batching(table: &Table<'_>, below: &Model) -> Read<Overrides> {
    let max_batch_size = table.optional("max_batch_size", |value| value.integer(1..=LARGEST_BATCH));
    let most = max_batch_size.map(|own| own.unwrap_or(below.max_batch_size));
    let dynamic_batching = table.optional("dynamic_batching", |value| value.boolean());
    let preferred_batch_sizes = table.optional("preferred_batch_sizes", |value| {
        preferred(&value, most.unwrap_or(LARGEST_BATCH))
    });
    let max_queue_delay = table.optional("max_queue_delay", |value| {
        value.duration(Duration::ZERO..=LONGEST_DELAY)
    });
    let latency_target = table.optional("latency_target", |value| duration_or_off(&value, TARGETS));
    let max_queue_size = table.optional("max_queue_size", |value| value.integer(1..=1_000_000));
    let priority_levels = table.optional("priority_levels", |value| value.integer(0..=MOST_LEVELS));
    let levels = priority_levels.map(|own| own.unwrap_or(below.priority_levels));
    let default_priority = table.optional("default_priority", |value| {
        priority(&value, levels.unwrap_or(MOST_LEVELS))
    });
    let default_timeout = table.optional("default_timeout", |value| default_timeout(&value));
    let learn_batch_size = table.optional("learn_batch_size", |value| value.boolean());
    Ok(Overrides {
        max_batch_size: max_batch_size?,
        dynamic_batching: dynamic_batching?,
        preferred_batch_sizes: preferred_batch_sizes?,
        max_queue_delay: max_queue_delay?,
        latency_target: latency_target?,
        max_queue_size: max_queue_size?,
        priority_levels: priority_levels?,
        default_priority: default_priority?,
        default_timeout: default_timeout?,
        learn_batch_size: learn_batch_size?,
        ..Overrides::default()
    })
}

/// Of models and ensembles alike.
pub(super) fn default_timeout(value: &Value<'_>) -> Read<Option<Duration>> {
    duration_or_off(value, TIMEOUTS)
}

fn duration_or_off(value: &Value<'_>, range: RangeInclusive<Duration>) -> Read<Option<Duration>> {
    match value.as_bool() {
        Some(false) => Ok(None),
        _ => value.duration(range).map(Some),
    }
}

fn preferred(value: &Value<'_>, most: u32) -> Read<Vec<u32>> {
    let sizes = ascending(value, "batch sizes, such as [4, 16]", LARGEST_BATCH)?;
    let too_large = sizes.iter().find(|(_, size)| *size > most);
    if let Some((item, _)) = too_large {
        return item.wrong(format!("at most {most}, the max_batch_size"));
    }
    Ok(sizes.into_iter().map(|(_, size)| size).collect())
}

fn priority(value: &Value<'_>, levels: u32) -> Read<u32> {
    match value.integer(0..=MOST_LEVELS)? {
        0 if levels == 0 => Ok(0),
        _ if levels == 0 => value.wrong("priority_levels beside it, as there are none"),
        priority if (1..=levels).contains(&priority) => Ok(priority),
        _ => value.wrong(format!(
            "a priority from 1 to {levels}, the priority_levels"
        )),
    }
}

/// Integers from 1, each larger than the one before.
pub(super) fn ascending<'a>(
    value: &Value<'a>,
    expected: &str,
    most: u32,
) -> Read<Vec<(Value<'a>, u32)>> {
    let items = value.array(expected)?;
    let numbers = all(items.iter().map(|item| item.integer(1..=most)))?;
    for (index, pair) in numbers.windows(2).enumerate() {
        if let [earlier, later] = pair
            && later <= earlier
        {
            return items[index + 1].wrong(format!("more than {earlier}, as the numbers ascend"));
        }
    }
    Ok(items.into_iter().zip(numbers).collect())
}
