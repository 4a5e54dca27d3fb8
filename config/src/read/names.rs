//! Names of listeners, routes, clusters and models: their form, and that each is used once.

use std::collections::BTreeMap;
use std::fmt::Display;

use super::{Read, Table, Value};

/// What metrics labels, logs and file names take without quoting.
const NAME: &str = "a name of 1 to 64 letters, digits, dots, hyphens or underscores";

pub(super) fn name(value: &Value<'_>) -> Read<String> {
    let is_name = |text: &str| {
        (1..=64).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    value.string_that(NAME, is_name).map(str::to_owned)
}

/// Whether it can name a folder of a model repository and leads nowhere else.
pub(super) fn is_folder(name: &str) -> bool {
    !matches!(name, "" | "." | "..")
        && !name.contains(['/', '\\'])
        && !name.contains(char::is_control)
}

/// The name, or `listener-1` for the first listener, and so on.
pub(super) fn numbered_name(table: &Table<'_>, kind: &str, index: usize) -> Read<String> {
    table.or("name", default_name(kind, index), |value| name(&value))
}

pub(super) fn required_name(table: &Table<'_>) -> Read<String> {
    table.required("name", NAME, |value| name(&value))
}

/// Names of `tables` that a `default` makes up where none is written; ones that are no string are left out.
pub(super) fn peek_names<'a>(
    tables: &[Value<'a>],
    default: Option<&str>,
) -> Vec<(Value<'a>, String)> {
    let peek_name = |(index, table): (usize, &Value<'a>)| match table.peek("name") {
        Some(name) => name.as_str().map(|text| (name.clone(), text.to_owned())),
        None => default.map(|kind| (table.clone(), default_name(kind, index))),
    };
    tables.iter().enumerate().filter_map(peek_name).collect()
}

/// Records every item whose key an earlier one has.
pub(super) fn unique<'a, K: Ord>(
    what: &str,
    items: impl IntoIterator<Item = (Value<'a>, K)>,
) -> Read<()> {
    let mut first = BTreeMap::new();
    let mut outcome = Ok(());
    for (value, key) in items {
        if let Some(path) = first.get(&key) {
            outcome = value.wrong(taken(what, path));
        } else {
            first.insert(key, value.path().to_owned());
        }
    }
    outcome
}

/// What would be right where `first` has it already.
pub(super) fn taken(what: &str, first: impl Display) -> String {
    format!("{what} of its own, as {first} has the same")
}

fn default_name(kind: &str, index: usize) -> String {
    format!("{kind}-{}", index + 1)
}
