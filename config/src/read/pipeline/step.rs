//! `[[models.NAME.steps]]`: what a step is, and which tensors it takes and makes.

use std::collections::BTreeMap;

use super::{image, tensor_name, text};
use crate::read::nearest;
use crate::read::{Keys, Read, Table, Value, all};
use crate::worker::{BuiltIn, Ports, Step, StepKind};

const KEYS: Keys = &[
    "model",
    "version",
    "tokenizer",
    "detokenizer",
    "pool",
    "image",
    "labels",
    "inputs",
    "outputs",
];
const KINDS: [&str; 6] = [
    "model",
    "tokenizer",
    "detokenizer",
    "pool",
    "image",
    "labels",
];

pub(super) fn step(value: &Value<'_>) -> Read<Step> {
    let table = value.table(KEYS)?;
    let version = table.optional("version", |value| value.integer(1..=u64::MAX));
    let model = table.optional("model", |value| {
        let name = value.string_that("the name of a model", |name| !name.is_empty());
        Ok(StepKind::Model {
            name: name?.to_owned(),
            version: version.ok().flatten(),
        })
    });
    let kinds = [
        model,
        table.optional("tokenizer", |value| text::tokenizer(&value)),
        table.optional("detokenizer", |value| text::detokenizer(&value)),
        table.optional("pool", |value| text::pool(&value)),
        table.optional("image", |value| image::image(&value)),
        table.optional("labels", |value| text::labels(&value)),
    ];
    let said: Vec<Value<'_>> = KINDS.iter().filter_map(|key| table.get(key)).collect();
    let one = match said.len() {
        0 => value.wrong(format!("one of the keys {}", KINDS.join(", "))),
        1 => Ok(()),
        _ => said[1].wrong(format!(
            "nothing, as this step has {} already",
            said[0].path()
        )),
    };
    let inputs = ports(&table, "inputs");
    let outputs = ports(&table, "outputs");
    version?;
    one?;
    let mut kind = None;
    for read in kinds {
        kind = kind.or(read?);
    }
    let Some(kind) = kind else {
        return value.wrong(format!("one of the keys {}", KINDS.join(", ")));
    };
    if let (Some(version), false) = (table.get("version"), said[0].path().ends_with(".model")) {
        return version.wrong("nothing, as only models have versions");
    }
    let ports = Ports {
        inputs: inputs?,
        outputs: outputs?,
    };
    if let Some(built_in) = kind.built_in() {
        check(&table, built_in, &ports)?;
    }
    Ok(Step { kind, ports })
}

fn ports(table: &Table<'_>, key: &'static str) -> Read<BTreeMap<String, String>> {
    const EXPECTED: &str =
        r#"a table from the step's own names to tensors, such as { input_ids = "ids" }"#;
    table.required(key, EXPECTED, |value| {
        let entries = value.entries(EXPECTED)?;
        if entries.is_empty() {
            return value.wrong("at least one tensor");
        }
        let named = all(entries
            .iter()
            .map(|(port, tensor)| Ok(((*port).to_owned(), tensor_name(tensor)?))));
        Ok(named?.into_iter().collect())
    })
}

/// The names on the side of a built-in step are given.
fn check(table: &Table<'_>, built_in: BuiltIn, ports: &Ports) -> Read<()> {
    let known_inputs = [built_in.needs, built_in.takes].concat();
    let sides = [
        ("inputs", &ports.inputs, known_inputs.as_slice()),
        ("outputs", &ports.outputs, built_in.makes),
    ];
    let mut outcome = Ok(());
    for (key, given, known) in sides {
        for port in given.keys().filter(|port| !known.contains(&port.as_str())) {
            let Some(value) = table.get(key).and_then(|side| side.peek(port)) else {
                continue;
            };
            let hint = nearest::hint(port, known.iter().copied());
            outcome = value.wrong(format!(
                "one of the {key} of a {} step, {}{hint}",
                built_in.name,
                known.join(", ")
            ));
        }
    }
    outcome?;
    for port in built_in.needs {
        if let (false, Some(value)) = (ports.inputs.contains_key(*port), table.get("inputs")) {
            return value.wrong(format!(
                "{port} among the inputs, as a {} step needs it",
                built_in.name
            ));
        }
    }
    Ok(())
}
