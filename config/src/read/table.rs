//! One table of the tree: unknown keys are recorded when it is opened, known ones are asked for by name.

use toml::de::DeTable;

use super::document::Document;
use super::{Read, Value, Wrong, nearest};

pub(super) type Keys = &'static [&'static str];

pub(super) struct Table<'a> {
    document: &'a Document<'a>,
    path: String,
    /// Where something missing is reported; None in the root.
    line: Option<usize>,
    /// None: the table is not written, so every key has its default.
    entries: Option<&'a DeTable<'a>>,
    keys: Keys,
    /// Keys that an unknown one probably means; their absence is already told, with a `Wrong` to show for it.
    misspelt: Vec<(&'static str, Wrong)>,
}

impl<'a> Table<'a> {
    pub(super) fn root(document: &'a Document<'a>, entries: &'a DeTable<'a>, keys: Keys) -> Self {
        Self {
            document,
            path: String::new(),
            line: None,
            entries: Some(entries),
            keys,
            misspelt: Vec::new(),
        }
        .opened()
    }

    pub(super) fn new(value: &Value<'a>, entries: &'a DeTable<'a>, keys: Keys) -> Self {
        let (document, path, line) = (
            value.document(),
            value.path().to_owned(),
            Some(value.line()),
        );
        Self {
            document,
            path,
            line,
            entries: Some(entries),
            keys,
            misspelt: Vec::new(),
        }
        .opened()
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn get(&self, key: &'static str) -> Option<Value<'a>> {
        debug_assert!(
            self.keys.contains(&key),
            "{key} is read but not among the known keys of {}",
            self.path
        );
        let value = self.entries?.get(key)?;
        Some(Value::new(self.document, join(&self.path, key), value))
    }

    pub(super) fn optional<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(Value<'a>) -> Read<T>,
    ) -> Read<Option<T>> {
        self.get(key).map(read).transpose()
    }

    pub(super) fn or<T>(
        &self,
        key: &'static str,
        default: T,
        read: impl FnOnce(Value<'a>) -> Read<T>,
    ) -> Read<T> {
        self.get(key).map_or(Ok(default), read)
    }

    pub(super) fn required<T>(
        &self,
        key: &'static str,
        expected: &str,
        read: impl FnOnce(Value<'a>) -> Read<T>,
    ) -> Read<T> {
        self.get(key)
            .map_or_else(|| Err(self.missing(key, expected)), read)
    }

    pub(super) fn missing(&self, key: &'static str, expected: &str) -> Wrong {
        let told = self.misspelt.iter().find(|(misspelt, _)| *misspelt == key);
        told.map_or_else(
            || {
                self.document.record(
                    join(&self.path, key),
                    self.line,
                    "nothing".into(),
                    expected.into(),
                )
            },
            |(_, wrong)| *wrong,
        )
    }

    /// The elements of an array of tables; empty when it is absent.
    pub(super) fn tables(&self, key: &'static str) -> Read<Vec<Value<'a>>> {
        self.or(key, Vec::new(), |value| {
            value.array(&format!("tables, each under [[{key}]]"))
        })
    }

    /// A table that may be absent: then all its keys are.
    pub(super) fn table(&self, key: &'static str, keys: Keys) -> Read<Table<'a>> {
        self.get(key)
            .map_or_else(|| Ok(self.absent(key, keys)), |value| value.table(keys))
    }

    /// A table that may be absent or `true` (every key has its default) or `false` (`None`: it is off).
    pub(super) fn switch(&self, key: &'static str, keys: Keys) -> Read<Option<Table<'a>>> {
        match self.get(key) {
            None => Ok(Some(self.absent(key, keys))),
            Some(value) => match value.as_bool() {
                Some(true) => Ok(Some(self.absent(key, keys))),
                Some(false) => Ok(None),
                None if value.is_table() => value.table(keys).map(Some),
                None => value.wrong("a table, or false to turn it off"),
            },
        }
    }

    fn absent(&self, key: &'static str, keys: Keys) -> Table<'a> {
        let (document, path) = (self.document, join(&self.path, key));
        Table {
            document,
            path,
            line: self.line,
            entries: None,
            keys,
            misspelt: Vec::new(),
        }
    }

    fn opened(mut self) -> Self {
        for (key, _) in self.entries.into_iter().flatten() {
            let name: &str = key.get_ref();
            if !self.keys.contains(&name) {
                let meant = nearest::nearest(name, self.keys.iter().copied());
                let hint = nearest::hint(name, self.keys.iter().copied());
                let line = Some(self.document.source().line(key.span().start));
                let expected = format!("one of {}{hint}", self.keys.join(", "));
                let wrong = self.document.record(
                    join(&self.path, name),
                    line,
                    "an unknown key".into(),
                    expected,
                );
                self.misspelt.extend(meant.map(|meant| (meant, wrong)));
            }
        }
        self
    }
}

/// `parent.key`, the key quoted where TOML wants it quoted.
pub(super) fn join(parent: &str, key: &str) -> String {
    let bare = !key.is_empty()
        && key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    let key = if bare {
        key.to_owned()
    } else {
        format!("{key:?}")
    };
    if parent.is_empty() {
        key
    } else {
        format!("{parent}.{key}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::document::read;

    #[test]
    fn unknown_keys_are_all_told_and_a_misspelt_one_is_not_missed_too() {
        let text = "adress = 1\ncolour = 2\n";
        let problems = read(text, &["address", "name"], |table| {
            let address = table.required("address", "an address", |_| Ok(()));
            let name = table.required("name", "a name", |_| Ok(()));
            address.and(name)
        });
        let told: Vec<String> = problems
            .unwrap_err()
            .0
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            told,
            [
                "line 1: adress: found an unknown key, expected one of address, name; did you mean address?",
                "line 2: colour: found an unknown key, expected one of address, name",
                "name: found nothing, expected a name",
            ]
        );
    }

    #[test]
    fn keys_that_need_quotes_get_them() {
        assert_eq!(join("", "a-b_1"), "a-b_1");
        assert_eq!(join("models", "a b"), "models.\"a b\"");
        assert_eq!(join("models", ""), "models.\"\"");
    }
}
