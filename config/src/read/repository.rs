//! The keys of the worker's root that say who loads models, and how many of them fit.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Read, Table, Value, all, names};
use crate::defaults;
use crate::worker::ModelControl;

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    None,
    Poll,
    Explicit,
}

const MODES: [(&str, Mode); 3] = [
    ("none", Mode::None),
    ("poll", Mode::Poll),
    ("explicit", Mode::Explicit),
];

pub(super) fn model_control(root: &Table<'_>) -> Read<ModelControl> {
    let mode = root.or("model_control", Mode::None, |value| value.choice(&MODES));
    let interval = root.or("poll_interval", defaults::POLL_INTERVAL, |value| {
        let interval =
            value.duration(Duration::from_millis(100)..=Duration::from_secs(24 * 3600))?;
        only_with(&value, mode, Mode::Poll).and(Ok(interval))
    });
    let at_start = root.optional("load_at_start", |value| {
        let models = model_names(&value)?;
        only_with(&value, mode, Mode::Explicit).and(Ok(models))
    });
    let (mode, interval, at_start) = (mode?, interval?, at_start?);
    Ok(match mode {
        Mode::None => ModelControl::None,
        Mode::Poll => ModelControl::Poll { interval },
        Mode::Explicit => ModelControl::Explicit { at_start },
    })
}

/// A mode that could not be read has been told, and nothing is missed beside it.
fn only_with(value: &Value<'_>, mode: Read<Mode>, needed: Mode) -> Read<()> {
    let name = MODES.iter().find(|(_, mode)| *mode == needed);
    match mode {
        Ok(mode) if mode != needed => value.wrong(format!(
            r#"model_control = "{}" beside it, or no such key"#,
            name.map_or("", |(name, _)| name)
        )),
        _ => Ok(()),
    }
}

fn model_names(value: &Value<'_>) -> Read<BTreeSet<String>> {
    let items = value.array(r#"names of models, such as ["minilm"]"#)?;
    let read = all(items.iter().map(|item| {
        let name = item.string_that("the name of a model's directory", names::is_folder)?;
        Ok((item.clone(), name.to_owned()))
    }))?;
    names::unique("a name", read.clone())?;
    Ok(read.into_iter().map(|(_, name)| name).collect())
}
