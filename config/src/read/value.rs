//! One value of the tree, with typed readers that record what is wrong with it.

use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::document::Document;
use super::table::join;
use super::{Keys, Read, Table, Wrong, nearest};
use crate::units;

#[derive(Clone)]
pub(super) struct Value<'a> {
    document: &'a Document<'a>,
    path: String,
    span: Range<usize>,
    value: &'a DeValue<'a>,
}

impl<'a> Value<'a> {
    pub(super) fn new(
        document: &'a Document<'a>,
        path: String,
        value: &'a Spanned<DeValue<'a>>,
    ) -> Self {
        Self {
            document,
            path,
            span: value.span(),
            value: value.get_ref(),
        }
    }

    pub(super) fn document(&self) -> &'a Document<'a> {
        self.document
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn line(&self) -> usize {
        self.document.source().line(self.span.start)
    }

    /// Records that something else should stand here.
    pub(super) fn wrong<T>(&self, expected: impl Display) -> Read<T> {
        Err(self.record(expected))
    }

    pub(super) fn record(&self, expected: impl Display) -> Wrong {
        let found = match self.value {
            DeValue::Table(_) => "a table".to_owned(),
            DeValue::Array(items) if items.is_empty() => "an empty array".to_owned(),
            DeValue::Array(_) => "an array".to_owned(),
            _ => self.document.source().excerpt(self.span.clone()),
        };
        self.document.record(
            self.path.clone(),
            Some(self.line()),
            found,
            expected.to_string(),
        )
    }

    /// The value of a key of this table, without a word about what is wrong.
    pub(super) fn peek(&self, key: &str) -> Option<Value<'a>> {
        let value = self.value.as_table()?.get(key)?;
        Some(Value::new(self.document, join(&self.path, key), value))
    }

    /// The elements of this array, without a word about what is wrong.
    pub(super) fn peek_items(&self) -> Option<Vec<Value<'a>>> {
        let at = |(index, item)| Value::new(self.document, format!("{}[{index}]", self.path), item);
        self.value
            .as_array()
            .map(|items| items.iter().enumerate().map(at).collect())
    }

    pub(super) fn as_str(&self) -> Option<&'a str> {
        match self.value {
            DeValue::String(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn as_bool(&self) -> Option<bool> {
        self.value.as_bool()
    }

    pub(super) fn is_table(&self) -> bool {
        self.value.is_table()
    }

    pub(super) fn boolean(&self) -> Read<bool> {
        self.as_bool()
            .map_or_else(|| self.wrong("true or false"), Ok)
    }

    /// `expected` says what the string stands for.
    pub(super) fn string(&self, expected: &str) -> Read<&'a str> {
        self.as_str().map_or_else(|| self.wrong(expected), Ok)
    }

    /// A string that `holds`.
    pub(super) fn string_that(
        &self,
        expected: &str,
        holds: impl FnOnce(&str) -> bool,
    ) -> Read<&'a str> {
        let text = self.string(expected)?;
        if holds(text) {
            Ok(text)
        } else {
            self.wrong(expected)
        }
    }

    pub(super) fn file(&self) -> Read<PathBuf> {
        let names_a_file = |text: &str| !text.is_empty() && !text.contains('\0');
        self.string_that("a path in the file system", names_a_file)
            .map(PathBuf::from)
    }

    pub(super) fn integer<T>(&self, range: RangeInclusive<T>) -> Read<T>
    where
        T: TryFrom<u64> + PartialOrd + Display,
    {
        let number = self
            .value
            .as_integer()
            .and_then(|number| u64::from_str_radix(number.as_str(), number.radix()).ok());
        match number.and_then(|number| T::try_from(number).ok()) {
            Some(number) if range.contains(&number) => Ok(number),
            _ => self.wrong(format!(
                "an integer from {} to {}",
                range.start(),
                range.end()
            )),
        }
    }

    /// 0.0 to 1.0.
    pub(super) fn ratio(&self) -> Read<f64> {
        match self.as_number() {
            Some(number) if (0.0..=1.0).contains(&number) => Ok(number),
            _ => self.wrong("a number from 0.0 to 1.0"),
        }
    }

    /// Neither infinite nor NaN.
    pub(super) fn number(&self) -> Read<f64> {
        match self.as_number() {
            Some(number) if number.is_finite() => Ok(number),
            _ => self.wrong("a number"),
        }
    }

    fn as_number(&self) -> Option<f64> {
        match self.value {
            DeValue::Float(number) => number.as_str().parse().ok(),
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().parse().ok(),
            _ => None,
        }
    }

    /// What a library takes as text: a string, or a number or truth value as it is written.
    pub(super) fn option(&self) -> Read<String> {
        match self.value {
            DeValue::String(text) if !text.contains('\0') => Ok(text.clone().into_owned()),
            DeValue::Boolean(flag) => Ok(flag.to_string()),
            DeValue::Integer(number) if number.radix() == 10 => Ok(number.as_str().to_owned()),
            DeValue::Float(number) => Ok(number.as_str().to_owned()),
            _ => self.wrong("a string, a decimal number, true or false"),
        }
    }

    /// A size of a tensor's shape.
    pub(super) fn size(&self) -> Read<i64> {
        let number = self.value.as_integer();
        let size =
            number.and_then(|number| i64::from_str_radix(number.as_str(), number.radix()).ok());
        match size {
            Some(size) if size >= -1 => Ok(size),
            _ => self.wrong("a size of 0 or more, or -1 for any"),
        }
    }

    pub(super) fn duration(&self, range: RangeInclusive<Duration>) -> Read<Duration> {
        let duration = self.quantity(units::parse_duration, units::duration_without_unit)?;
        if range.contains(&duration) {
            return Ok(duration);
        }
        let [least, most] =
            [range.start(), range.end()].map(|bound| units::format_duration(*bound));
        self.wrong(format!("a duration from {least} to {most}"))
    }

    pub(super) fn bytes(&self, range: RangeInclusive<u64>) -> Read<u64> {
        let bytes = self.quantity(units::parse_bytes, units::size_without_unit)?;
        if range.contains(&bytes) {
            return Ok(bytes);
        }
        let [least, most] = [range.start(), range.end()].map(|bound| units::format_bytes(*bound));
        self.wrong(format!("a size from {least} to {most}"))
    }

    pub(super) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Read<T> {
        let names = || choices.iter().map(|(name, _)| *name);
        let listed = || {
            names()
                .map(|name| format!("{name:?}"))
                .collect::<Vec<_>>()
                .join(", ")
        };
        let text = self.string(&format!("one of {}", listed()))?;
        let chosen = choices.iter().find(|(name, _)| *name == text);
        chosen.map_or_else(
            || {
                self.wrong(format!(
                    "one of {}{}",
                    listed(),
                    nearest::hint(text, names())
                ))
            },
            |(_, choice)| Ok(*choice),
        )
    }

    pub(super) fn array(&self, expected: &str) -> Read<Vec<Value<'a>>> {
        self.peek_items()
            .map_or_else(|| self.wrong(format!("an array of {expected}")), Ok)
    }

    pub(super) fn table(&self, keys: Keys) -> Read<Table<'a>> {
        match self.value {
            DeValue::Table(entries) => Ok(Table::new(self, entries, keys)),
            _ => self.wrong(format!("a table with the keys {}", keys.join(", "))),
        }
    }

    /// The entries of this table, without a word about what is wrong.
    pub(super) fn peek_entries(&self) -> Option<Vec<(&'a str, Value<'a>)>> {
        self.is_table().then(|| self.entries("").ok()).flatten()
    }

    /// The entries of a table whose keys the user chooses, in the order of the keys.
    pub(super) fn entries(&self, expected: &str) -> Read<Vec<(&'a str, Value<'a>)>> {
        let DeValue::Table(entries) = self.value else {
            return self.wrong(expected);
        };
        let at = |(key, value): (
            &'a Spanned<toml::de::DeString<'a>>,
            &'a Spanned<DeValue<'a>>,
        )| {
            let name: &'a str = key.get_ref();
            (
                name,
                Value::new(self.document, join(&self.path, name), value),
            )
        };
        Ok(entries.iter().map(at).collect())
    }

    /// A number with a unit, in a string; a bare number is told what it lacks.
    fn quantity<T>(
        &self,
        parse: fn(&str) -> Result<T, String>,
        without_unit: fn(&str) -> String,
    ) -> Read<T> {
        match self.value {
            DeValue::String(text) => parse(text).or_else(|expected| self.wrong(expected)),
            DeValue::Integer(number)
                if number.as_str().bytes().all(|byte| byte.is_ascii_digit()) =>
            {
                self.wrong(without_unit(number.as_str()))
            }
            // Any text that is no quantity yields the general advice.
            _ => parse("").or_else(|expected| self.wrong(expected)),
        }
    }
}
