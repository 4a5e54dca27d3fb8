//! `[routes.subset]`, and the labels of endpoints that it selects by.

use std::collections::BTreeMap;

use super::{Keys, Read, Table, Value, all, http};
use crate::gateway::{LabelValue, Subset, SubsetFallback};

const KEYS: Keys = &["labels", "fallback"];
const HEADER_KEYS: Keys = &["header"];

const FALLBACKS: [(&str, SubsetFallback); 2] =
    [("none", SubsetFallback::None), ("any", SubsetFallback::Any)];

const LABELS: &str = r#"a table such as { zone = "a", gpu = "h100" }"#;
const LABEL_NAME: &str = "a label's name of letters, digits, dots, slashes, hyphens or underscores";
const LABEL_VALUE: &str = r#"the label's value as a string, such as "h100""#;
const WANTED: &str = r#"a table such as { gpu = "h100", zone = { header = "x-zone" } }"#;
const WANTED_VALUE: &str =
    r#"the label's value, such as "h100", or the header that has it, such as { header = "x-gpu" }"#;
const HEADER: &str = r#"the name of a header, such as "x-gpu""#;
/// Each combination of labels that requests may ask for has a list of endpoints.
const MOST_HEADERS: usize = 4;

/// `labels` of an endpoint.
pub(super) fn labels(value: &Value<'_>) -> Read<BTreeMap<String, String>> {
    let entries = value.entries(LABELS)?;
    let read = all(entries.iter().map(|(name, value)| {
        name_of(name, value)?;
        let text = value.string_that(LABEL_VALUE, is_value)?;
        Ok(((*name).to_owned(), text.to_owned()))
    }));
    Ok(read?.into_iter().collect())
}

/// Of an endpoint that is named outside of a document; the error is what would be right.
pub(crate) fn label(name: &str, value: &str) -> Result<(), String> {
    match (is_name(name), is_value(value)) {
        (true, true) => Ok(()),
        (false, _) => Err(format!("{LABEL_NAME}, not '{name}'")),
        (_, false) => Err(format!("a value of the label '{name}'")),
    }
}

pub(super) fn subset(route: &Table<'_>) -> Read<Option<Subset>> {
    let Some(value) = route.get("subset") else {
        return Ok(None);
    };
    let table = value.table(KEYS)?;
    let labels = table.required("labels", WANTED, |value| wanted(&value));
    let fallback = table.or("fallback", SubsetFallback::None, |value| {
        value.choice(&FALLBACKS)
    });
    Ok(Some(Subset {
        labels: labels?,
        fallback: fallback?,
    }))
}

fn wanted(value: &Value<'_>) -> Read<BTreeMap<String, LabelValue>> {
    let entries = value.entries(WANTED)?;
    if entries.is_empty() {
        return value.wrong(WANTED);
    }
    let read = all(entries.iter().map(|(name, value)| {
        name_of(name, value)?;
        Ok(((*name).to_owned(), wanted_value(value)?))
    }))?;
    let is_header = |(_, value): &&(String, LabelValue)| matches!(value, LabelValue::Header(_));
    if read.iter().filter(is_header).count() > MOST_HEADERS {
        return value.wrong("at most 4 labels that headers give");
    }
    Ok(read.into_iter().collect())
}

fn wanted_value(value: &Value<'_>) -> Read<LabelValue> {
    if !value.is_table() {
        let text = value.string_that(WANTED_VALUE, is_value)?;
        return Ok(LabelValue::Exact(text.to_owned()));
    }
    let table = value.table(HEADER_KEYS)?;
    table.required("header", HEADER, |value| {
        let name = value.string_that(HEADER, http::is_token)?;
        Ok(LabelValue::Header(name.to_ascii_lowercase()))
    })
}

fn name_of(name: &str, value: &Value<'_>) -> Read<()> {
    if is_name(name) {
        Ok(())
    } else {
        value.wrong(format!("{LABEL_NAME} as its key"))
    }
}

fn is_name(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"./-_".contains(&byte))
}

fn is_value(text: &str) -> bool {
    !text.is_empty() && !text.contains(char::is_control)
}
