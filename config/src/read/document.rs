//! The text, what is wrong with it so far, and the proof that something was recorded.

use std::cell::RefCell;
use std::collections::BTreeSet;

use toml::de::{DeTable, Error};

use super::source::Source;
use super::{Keys, Table};
use crate::problem::{Problem, Problems};

/// A problem has been recorded. Only `Document::record` makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wrong(());

pub(super) type Read<T> = Result<T, Wrong>;

/// All of them, or `Wrong`; unlike `collect`, it reads on after the first wrong one.
pub(super) fn all<T>(items: impl IntoIterator<Item = Read<T>>) -> Read<Vec<T>> {
    let items: Vec<Read<T>> = items.into_iter().collect();
    items.into_iter().collect()
}

pub(super) struct Document<'a> {
    source: Source<'a>,
    problems: RefCell<Vec<Problem>>,
}

impl<'a> Document<'a> {
    pub(super) fn record(
        &self,
        path: String,
        line: Option<usize>,
        found: String,
        expected: String,
    ) -> Wrong {
        self.problems.borrow_mut().push(Problem {
            path,
            line,
            found,
            expected,
        });
        Wrong(())
    }

    pub(super) fn source(&self) -> &Source<'a> {
        &self.source
    }
}

/// Reads the whole text, `keys` being those of the root. Text that is not TOML yields its syntax errors
/// alone: what a broken file means would be a guess.
pub(super) fn read<T>(
    text: &str,
    keys: Keys,
    reader: impl FnOnce(&Table<'_>) -> Read<T>,
) -> Result<T, Problems> {
    let (root, errors) = DeTable::parse_recoverable(text);
    let source = Source::new(text);
    if !errors.is_empty() {
        return Err(syntax_problems(&source, &errors));
    }
    let document = Document {
        source,
        problems: RefCell::default(),
    };
    let outcome = reader(&Table::root(&document, root.get_ref(), keys));
    let mut problems = document.problems.take();
    match outcome {
        Ok(read) if problems.is_empty() => Ok(read),
        _ => {
            problems.sort_by_key(|problem| problem.line.unwrap_or(usize::MAX));
            Err(Problems(problems))
        }
    }
}

/// One per line: what follows on the same line is mostly an echo of the first.
fn syntax_problems(source: &Source<'_>, errors: &[Error]) -> Problems {
    let mut seen = BTreeSet::new();
    let mut problems = Vec::new();
    for error in errors {
        let span = error.span().unwrap_or_else(|| source.end());
        let line = source.line(span.start);
        if seen.insert(line) {
            let excerpt = source.excerpt(span);
            let found = if excerpt.trim().is_empty() {
                "the end of the line".to_owned()
            } else {
                format!("`{excerpt}`")
            };
            let expected = format!("valid TOML ({})", error.message());
            problems.push(Problem {
                path: String::new(),
                line: Some(line),
                found,
                expected,
            });
        }
    }
    problems.sort_by_key(|problem| problem.line);
    Problems(problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> String {
        read(text, &["known"], |_| Ok(()))
            .map_or_else(|problems| problems.to_string(), |()| String::new())
    }

    #[test]
    fn every_broken_line_is_told_once() {
        let told = problems("a = [1, 2\nb = = 3\n\nc == 4\n");
        let lines: Vec<&str> = told.lines().collect();
        assert!(lines.len() >= 2, "{told}");
        assert!(lines.iter().all(|line| line.starts_with("line ")), "{told}");
        assert!(told.contains("valid TOML"), "{told}");
        let mut numbers: Vec<&str> = lines
            .iter()
            .filter_map(|line| line.split(':').next())
            .collect();
        numbers.dedup();
        assert_eq!(numbers.len(), lines.len(), "{told}");
    }

    #[test]
    fn all_reads_on_after_a_wrong_item() {
        let mut read = 0;
        let items = [Ok(1), Err(Wrong(())), Ok(3)];
        let counted = items.into_iter().inspect(|_| read += 1);
        assert_eq!(all(counted), Err(Wrong(())));
        assert_eq!(read, 3);
    }
}
