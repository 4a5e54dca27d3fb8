//! `[defaults]` and `[models.NAME]` of the worker.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{Keys, Read, Table, Value, all, batching, names, padding, pipeline, provider};
use crate::worker::{Model, Overrides, VersionPolicy};

const KEYS: Keys = &[
    "max_batch_size",
    "dynamic_batching",
    "preferred_batch_sizes",
    "max_queue_delay",
    "latency_target",
    "max_queue_size",
    "priority_levels",
    "default_priority",
    "default_timeout",
    "learn_batch_size",
    "padding",
    "threads",
    "instances",
    "provider",
    "devices",
    "cuda",
    "tensorrt",
    "openvino",
    "versions",
    "warm_up",
    "response_cache",
    "labels",
];

const VERSIONS: &str =
    r#""all", the number of the highest ones, such as { latest = 2 }, or some, such as [1, 3]"#;
const LARGEST_CACHE: u64 = 1 << 40;

/// What a table may say, and what it stands on.
#[derive(Clone, Copy)]
enum Place<'a> {
    Defaults,
    Model { below: &'a Model },
}

pub(super) fn defaults(root: &Table<'_>) -> Read<Model> {
    let table = root.table("defaults", KEYS)?;
    Ok(overrides(&table, Place::Defaults)?.over(Model::default()))
}

/// `below`: what `[defaults]` says, for comparison only.
pub(super) fn models(root: &Table<'_>, below: &Model) -> Read<BTreeMap<String, Overrides>> {
    let Some(models) = root.get("models") else {
        return Ok(BTreeMap::new());
    };
    let entries = models.entries("a table for each model, such as [models.minilm]")?;
    let entries = entries
        .iter()
        .filter(|(_, value)| !pipeline::is_ensemble(value));
    let named = all(entries.map(|(name, value)| named(name, value, below)));
    Ok(named?.into_iter().collect())
}

fn named(name: &str, value: &Value<'_>, below: &Model) -> Read<(String, Overrides)> {
    let name = self::name(name, value)?;
    let overrides = overrides(&value.table(KEYS)?, Place::Model { below })?;
    Ok((name, overrides))
}

/// The key of an entry of `models`.
pub(super) fn name(key: &str, entry: &Value<'_>) -> Read<String> {
    match names::is_folder(key) {
        true => Ok(key.to_owned()),
        false => entry.wrong("the name of a model's directory as its key"),
    }
}

fn overrides(table: &Table<'_>, place: Place<'_>) -> Read<Overrides> {
    let built_in = Model::default();
    let below = match place {
        Place::Defaults => &built_in,
        Place::Model { below } => below,
    };
    let batching = batching::batching(table, below);
    let padding = table.optional("padding", |value| match place {
        Place::Defaults => value.wrong(
            "no padding here, as the names of tensors are a model's own: say it in [models.NAME.padding]",
        ),
        Place::Model { .. } => padding::padding(&value),
    });
    let threads = table.optional("threads", |value| value.integer(1..=1024));
    let placement = provider::placement(table);
    let versions = table.optional("versions", |value| versions(&value));
    let warm_up = table.optional("warm_up", |value| value.boolean());
    let response_cache_bytes = table.optional("response_cache", |value| response_cache(&value));
    let labels = table.or("labels", BTreeMap::new(), |value| match place {
        Place::Defaults => value.wrong(
            "no labels here, as the names of outputs are a model's own: say it in [models.NAME]",
        ),
        Place::Model { .. } => labels(&value),
    });
    let (batching, placement) = (batching?, placement?);
    Ok(Overrides {
        max_batch_size: batching.max_batch_size,
        dynamic_batching: batching.dynamic_batching,
        preferred_batch_sizes: batching.preferred_batch_sizes,
        max_queue_delay: batching.max_queue_delay,
        latency_target: batching.latency_target,
        max_queue_size: batching.max_queue_size,
        priority_levels: batching.priority_levels,
        default_priority: batching.default_priority,
        default_timeout: batching.default_timeout,
        learn_batch_size: batching.learn_batch_size,
        padding: padding?,
        threads: threads?,
        instances: placement.instances,
        provider: placement.provider,
        devices: placement.devices,
        cuda: placement.cuda,
        tensorrt: placement.tensorrt,
        openvino: placement.openvino,
        versions: versions?,
        warm_up: warm_up?,
        response_cache_bytes: response_cache_bytes?,
        labels: labels?,
    })
}

pub(super) fn response_cache(value: &Value<'_>) -> Read<u64> {
    match value.as_bool() {
        Some(false) => Ok(0),
        _ => value.bytes(0..=LARGEST_CACHE),
    }
}

fn labels(value: &Value<'_>) -> Read<BTreeMap<String, PathBuf>> {
    let expected = r#"a table of outputs and files, such as { scores = "labels.txt" }"#;
    let entries = value.entries(expected)?.into_iter();
    let read = all(entries.map(|(name, value)| Ok((name.to_owned(), value.file()?))));
    Ok(read?.into_iter().collect())
}

fn versions(value: &Value<'_>) -> Read<VersionPolicy> {
    if value.is_table() {
        let table = value.table(&["latest"])?;
        let latest = table.required("latest", "how many versions, such as latest = 2", |value| {
            value.integer(1..=1_000_000)
        });
        return latest.map(VersionPolicy::Latest);
    }
    if let Some(items) = value.peek_items() {
        if items.is_empty() {
            return value.wrong("at least one version");
        }
        let mut numbers = all(items.iter().map(|item| item.integer(1..=u64::MAX)))?;
        let written = items.iter().cloned().zip(numbers.iter().copied());
        names::unique("a number", written)?;
        numbers.sort_unstable();
        return Ok(VersionPolicy::Specific(numbers));
    }
    match value.as_str() {
        Some("all") => Ok(VersionPolicy::All),
        _ => value.wrong(VERSIONS),
    }
}
