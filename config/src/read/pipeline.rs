//! `[models.NAME]` with `steps`: ensembles.

mod image;
mod step;
mod text;

use std::collections::{BTreeMap, BTreeSet};

use super::{Keys, Read, Table, Value, Wrong, all, batching, model};
use crate::worker::{Declared, Ensemble, Ensembles, FlowError, Model, Place, Step, StepKind};

const KEYS: Keys = &[
    "inputs",
    "outputs",
    "steps",
    "default_timeout",
    "response_cache",
];
const TENSOR_KEYS: Keys = &["name", "datatype", "shape"];

const DATATYPES: [(&str, &str); 14] = [
    ("BOOL", "BOOL"),
    ("UINT8", "UINT8"),
    ("UINT16", "UINT16"),
    ("UINT32", "UINT32"),
    ("UINT64", "UINT64"),
    ("INT8", "INT8"),
    ("INT16", "INT16"),
    ("INT32", "INT32"),
    ("INT64", "INT64"),
    ("FP16", "FP16"),
    ("BF16", "BF16"),
    ("FP32", "FP32"),
    ("FP64", "FP64"),
    ("BYTES", "BYTES"),
];

/// Whether an entry of `models` is one.
pub(super) fn is_ensemble(entry: &Value<'_>) -> bool {
    entry.peek("steps").is_some()
}

/// The entries of `models` that are ensembles. `below`: what `[defaults]` says.
pub(super) fn ensembles(root: &Table<'_>, below: &Model) -> Read<Ensembles> {
    // What is wrong with the table itself, the reader of models says.
    let entries = root.get("models").and_then(|models| {
        let entries = models.peek_entries()?;
        Some(entries.into_iter().filter(|(_, entry)| is_ensemble(entry)))
    });
    let entries: Vec<(&str, Value<'_>)> = entries.into_iter().flatten().collect();
    let read = all(entries.iter().map(|(name, entry)| {
        let name = model::name(name, entry)?;
        Ok((name, ensemble(entry, below)?))
    }));
    let ensembles: Ensembles = read?.into_iter().collect();
    let circles = entries
        .iter()
        .map(|(name, entry)| circles(name, entry, &ensembles));
    all(circles)?;
    Ok(ensembles)
}

fn ensemble(entry: &Value<'_>, below: &Model) -> Read<Ensemble> {
    let table = entry.table(KEYS)?;
    let inputs = tensors(&table, "inputs");
    let outputs = tensors(&table, "outputs");
    let steps = table.required("steps", "at least one step", |value| {
        let steps = value.array("tables, each under [[models.NAME.steps]]")?;
        if steps.is_empty() {
            return value.wrong("at least one step");
        }
        all(steps.iter().map(step::step))
    });
    let default_timeout = table.or("default_timeout", below.default_timeout, |value| {
        batching::default_timeout(&value)
    });
    let response_cache_bytes = table.or("response_cache", below.response_cache_bytes, |value| {
        model::response_cache(&value)
    });
    let (inputs, outputs, steps): (_, _, Vec<Step>) = (inputs?, outputs?, steps?);
    let ensemble = Ensemble::new(inputs, outputs, steps);
    let ensemble = ensemble.map_err(|errors| refuse(entry, errors));
    Ok(Ensemble {
        default_timeout: default_timeout?,
        response_cache_bytes: response_cache_bytes?,
        ..ensemble?
    })
}

/// Told where it is written.
fn refuse(entry: &Value<'_>, errors: Vec<FlowError>) -> Wrong {
    let mut wrong = None;
    for error in errors {
        let step = |number| item(entry.peek("steps"), number);
        let port = |number, side: &str, port: &str| step(number)?.peek(side)?.peek(port);
        let found = match &error.place {
            Place::Input(number) => item(entry.peek("inputs"), *number),
            Place::Output(number) => item(entry.peek("outputs"), *number),
            Place::StepInput { step, port: name } => port(*step, "inputs", name),
            Place::StepOutput { step, port: name } => port(*step, "outputs", name),
            Place::Step(number) => step(*number),
        };
        wrong = Some(
            found
                .unwrap_or_else(|| entry.clone())
                .record(error.expected),
        );
    }
    wrong.unwrap_or_else(|| entry.record("steps that fit together"))
}

fn item<'a>(array: Option<Value<'a>>, number: usize) -> Option<Value<'a>> {
    array?.peek_items()?.into_iter().nth(number)
}

/// The tensors that an ensemble names as its own; empty when it leaves that to its steps.
fn tensors(table: &Table<'_>, key: &'static str) -> Read<Vec<Declared>> {
    table.or(key, Vec::new(), |value| {
        let items =
            value.array("names of tensors, or tables with the keys name, datatype, shape")?;
        if items.is_empty() {
            return value.wrong("at least one tensor, or no such key");
        }
        all(items.iter().map(tensor))
    })
}

fn tensor(value: &Value<'_>) -> Read<Declared> {
    if !value.is_table() {
        return Ok(Declared {
            name: tensor_name(value)?,
            datatype: None,
            shape: None,
        });
    }
    let table = value.table(TENSOR_KEYS)?;
    let name = table.required("name", "the name of a tensor", |value| tensor_name(&value));
    let datatype = table.optional("datatype", |value| value.choice(&DATATYPES));
    let shape = table.optional("shape", |value| {
        let sizes = value.array("sizes, such as [-1, 384]")?;
        all(sizes.iter().map(|size| size.size()))
    });
    Ok(Declared {
        name: name?,
        datatype: datatype?.map(str::to_owned),
        shape: shape?,
    })
}

fn tensor_name(value: &Value<'_>) -> Read<String> {
    let name = value.string_that("the name of a tensor", |name| !name.is_empty())?;
    Ok(name.to_owned())
}

/// An ensemble that has itself among its steps, or below them, would never come to an end.
fn circles(name: &str, entry: &Value<'_>, ensembles: &Ensembles) -> Read<()> {
    let items = entry.peek("steps").and_then(|steps| steps.peek_items());
    for item in items.into_iter().flatten() {
        let Some(model) = item.peek("model") else {
            continue;
        };
        let Some(used) = model.as_str() else { continue };
        if reaches(used, name, ensembles) {
            return model.wrong(format!("a model that is not made of '{name}' itself"));
        }
    }
    Ok(())
}

fn reaches(from: &str, target: &str, ensembles: &BTreeMap<String, Ensemble>) -> bool {
    let (mut seen, mut left) = (BTreeSet::new(), vec![from]);
    while let Some(name) = left.pop() {
        if name == target {
            return true;
        }
        if !seen.insert(name) {
            continue;
        }
        for step in ensembles.get(name).iter().flat_map(|found| &found.steps) {
            if let StepKind::Model { name, .. } = &step.kind {
                left.push(name);
            }
        }
    }
    false
}
