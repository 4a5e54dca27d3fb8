//! `[defaults]` and `[models.NAME]` of the worker.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Keys, Read, Table, Value, all};
use crate::worker::{Model, Provider};

const KEYS: Keys = &[
    "max_batch_size",
    "max_queue_delay",
    "max_queue_size",
    "instances",
    "provider",
    "default_timeout",
    "learn_batch_size",
];

const PROVIDERS: [(&str, Provider); 3] = [
    ("cpu", Provider::Cpu),
    ("cuda", Provider::Cuda),
    ("auto", Provider::Auto),
];

const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

pub(super) fn defaults(root: &Table<'_>) -> Read<Model> {
    model(&root.table("defaults", KEYS)?, Model::default())
}

/// Each over `base`: what a model does not say, `[defaults]` says.
pub(super) fn models(root: &Table<'_>, base: &Model) -> Read<BTreeMap<String, Model>> {
    let Some(models) = root.get("models") else {
        return Ok(BTreeMap::new());
    };
    let entries = models.entries("a table for each model, such as [models.minilm]")?;
    let named = all(entries.iter().map(|(name, value)| named(name, value, base)));
    Ok(named?.into_iter().collect())
}

fn named(name: &str, value: &Value<'_>, base: &Model) -> Read<(String, Model)> {
    let is_directory = !matches!(name, "" | "." | "..")
        && !name.contains(['/', '\\'])
        && !name.contains(char::is_control);
    if !is_directory {
        return value.wrong("the name of a model's directory as its key");
    }
    let model = model(&value.table(KEYS)?, base.clone())?;
    Ok((name.to_owned(), model))
}

fn model(table: &Table<'_>, base: Model) -> Read<Model> {
    let max_batch_size = table.or("max_batch_size", base.max_batch_size, |value| {
        value.integer(1..=65_536)
    });
    let max_queue_delay = table.or("max_queue_delay", base.max_queue_delay, |value| {
        value.duration(Duration::ZERO..=Duration::from_secs(60))
    });
    let max_queue_size = table.or("max_queue_size", base.max_queue_size, |value| {
        value.integer(1..=1_000_000)
    });
    let instances = table.or("instances", base.instances, |value| value.integer(1..=1024));
    let provider = table.or("provider", base.provider, |value| value.choice(&PROVIDERS));
    let default_timeout = table.or("default_timeout", base.default_timeout, |value| match value
        .as_bool()
    {
        Some(false) => Ok(None),
        _ => value
            .duration(Duration::from_millis(1)..=LONGEST_TIMEOUT)
            .map(Some),
    });
    let learn_batch_size = table.or("learn_batch_size", base.learn_batch_size, |value| {
        value.boolean()
    });
    Ok(Model {
        max_batch_size: max_batch_size?,
        max_queue_delay: max_queue_delay?,
        max_queue_size: max_queue_size?,
        instances: instances?,
        provider: provider?,
        default_timeout: default_timeout?,
        learn_batch_size: learn_batch_size?,
        ..base
    })
}
