//! No key is known but ignored, each is documented with its true default, and each is in an example.
//!
//! A key that cannot exist makes each table list those that it knows; a value that no key takes must then be
//! refused for every one of them.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

mod cases;

use std::fs;
use std::path::Path;

use cases::{Case, cases};

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// What the table says it knows.
fn known_keys(case: &Case) -> Vec<String> {
    let problems = (case.parse)(&format!("{}no-such-key-anywhere = 1\n", case.before)).unwrap_err();
    let path = join(case.path, "no-such-key-anywhere");
    let problem = problems.0.iter().find(|problem| problem.path == path);
    let expected = &problem
        .unwrap_or_else(|| panic!("{path} is not refused: {problems}"))
        .expected;
    expected
        .strip_prefix("one of ")
        .unwrap()
        .split(", ")
        .map(str::to_owned)
        .collect()
}

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    fs::read_to_string(root.join(path)).unwrap()
}

/// Key and default of each row of the section's table, without the marks of Markdown.
fn documented(case: &Case) -> Vec<(String, String)> {
    let documentation = read("docs/configuration.md");
    let heading = |line: &str| {
        line.starts_with('#')
            .then(|| line.trim_start_matches('#').trim().to_owned())
    };
    let section = documentation
        .lines()
        .skip_while(|line| heading(line).is_none_or(|heading| heading != case.heading))
        .skip(1)
        .take_while(|line| heading(line).is_none());
    let row = |line: &str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let key = cells.get(1)?.strip_prefix('`')?.strip_suffix('`')?;
        Some((key.to_owned(), cells.get(3)?.to_string()))
    };
    section.filter_map(row).collect()
}

#[test]
fn every_key_is_read() {
    for case in cases() {
        for key in known_keys(&case) {
            // A date is the one kind of value that nothing here takes.
            let once = |line: &&str| !line.starts_with(&format!("{key} = "));
            let before: String = case.before.split_inclusive('\n').filter(once).collect();
            let problems = (case.parse)(&format!("{before}{key} = 1979-05-27\n")).unwrap_err();
            let path = join(case.path, &key);
            let refused = problems
                .0
                .iter()
                .any(|problem| problem.path == path && problem.found == "1979-05-27");
            assert!(refused, "{path} takes a date: {problems}");
        }
    }
}

#[test]
fn every_key_has_its_row_in_the_documentation_and_no_other_has() {
    for case in cases() {
        let rows: Vec<String> = documented(&case).into_iter().map(|(key, _)| key).collect();
        assert_eq!(
            rows,
            known_keys(&case),
            "docs/configuration.md, {}",
            case.heading
        );
    }
}

#[test]
fn every_documented_default_is_the_default() {
    let mut compared = 0;
    for case in cases() {
        let plain = format!("{}{}", case.before, case.required);
        let without = (case.parse)(&plain).unwrap_or_else(|problems| panic!("{plain}: {problems}"));
        for (key, default) in documented(&case) {
            // A default that is no value (`required`, `number of cores`) has no marks of code around it all.
            let Some(value) = default
                .strip_prefix('`')
                .and_then(|rest| rest.strip_suffix('`'))
            else {
                continue;
            };
            if value.contains('`') {
                continue;
            }
            let with = (case.parse)(&format!("{plain}{key} = {value}\n"));
            assert_eq!(
                with.unwrap_or_else(|problems| panic!("{problems}")),
                without,
                "{} = {value}",
                join(case.path, &key)
            );
            compared += 1;
        }
    }
    assert!(
        compared > 30,
        "only {compared} defaults were found in the documentation"
    );
}

#[test]
fn every_key_is_in_the_full_example() {
    for case in cases() {
        let example = read(&format!("deploy/examples/{}", case.example));
        for key in known_keys(&case) {
            let words = example.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            assert!(
                words.into_iter().any(|word| word == key),
                "{} is not in {}",
                join(case.path, &key),
                case.example
            );
        }
    }
}
