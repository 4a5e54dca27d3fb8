//! `[models.NAME.padding]`.

use std::collections::BTreeMap;

use super::{Keys, Read, Value, all, batching, names};
use crate::worker::Padding;

const KEYS: Keys = &["inputs", "outputs", "buckets"];

const INPUTS: &str =
    "a table of inputs and what they are filled up with, such as { attention_mask = 0 }";
const LONGEST: u32 = 1 << 24;

pub(super) fn padding(value: &Value<'_>) -> Read<Padding> {
    let table = value.table(KEYS)?;
    let inputs = table.required("inputs", INPUTS, |value| inputs(&value));
    let outputs = table.or("outputs", Vec::new(), |value| outputs(&value));
    let buckets = table.or("buckets", Vec::new(), |value| {
        let lengths = batching::ascending(&value, "lengths, such as [32, 64, 128]", LONGEST)?;
        Ok(lengths.into_iter().map(|(_, length)| length).collect())
    });
    Ok(Padding {
        inputs: inputs?,
        outputs: outputs?,
        buckets: buckets?,
    })
}

fn inputs(value: &Value<'_>) -> Read<BTreeMap<String, f64>> {
    let entries = value.entries(INPUTS)?;
    if entries.is_empty() {
        return value.wrong(INPUTS);
    }
    let read = all(entries
        .iter()
        .map(|(name, value)| Ok(((*name).to_owned(), value.number()?))));
    Ok(read?.into_iter().collect())
}

fn outputs(value: &Value<'_>) -> Read<Vec<String>> {
    const EXPECTED: &str = "names of outputs";
    let items = value.array(EXPECTED)?;
    let read = all(items.iter().map(|item| {
        let name = item.string_that("the name of an output", |text| !text.is_empty())?;
        Ok((item.clone(), name.to_owned()))
    }))?;
    names::unique("a name", read.clone())?;
    Ok(read.into_iter().map(|(_, name)| name).collect())
}
