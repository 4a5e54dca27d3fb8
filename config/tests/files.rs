//! Every example is right, and every fixture is refused for the reasons it names and no other.
//!
//! A fixture begins with lines `# expect: PATH: TEXT`, one for each problem: the path as a whole, and part of
//! the message. A problem of the document as such has the path `-`.

#![expect(clippy::panic, reason = "tests fail by panicking")]

mod shared;

use std::fs;
use std::path::Path;

use forebay_config::Problems;
use forebay_config::gateway::Gateway;
use forebay_config::worker::Worker;
use shared::toml_files;

/// A file whose name begins with `gateway` or `worker` is for that.
fn problems(path: &Path) -> Result<(), Problems> {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .expect("a file name in UTF-8");
    let text = fs::read_to_string(path).expect("a readable file");
    match name.split('-').next() {
        Some("gateway") => Gateway::parse(&text).map(drop),
        Some("worker") => Worker::parse(&text).map(drop),
        _ => panic!("{name} begins with neither gateway- nor worker-"),
    }
}

#[test]
fn every_example_is_right() {
    for path in toml_files("../deploy/examples") {
        let outcome = problems(&path);
        assert!(
            outcome.is_ok(),
            "{}:\n{}",
            path.display(),
            outcome.unwrap_err()
        );
    }
}

/// What a fixture lacks of its expectations; empty if nothing.
fn unmet(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("a readable file");
    let expectations: Vec<(&str, &str)> = text
        .lines()
        .map_while(|line| line.strip_prefix("# expect: "))
        .map(|line| line.split_once(": ").expect("PATH: TEXT"))
        .collect();
    let Err(problems) = problems(path) else {
        return format!("{}: nothing is refused\n", path.display());
    };
    let mut unmet = String::new();
    if problems.0.len() != expectations.len() || expectations.is_empty() {
        unmet.push_str(&format!(
            "{} problems for {} expectations\n",
            problems.0.len(),
            expectations.len()
        ));
    }
    for (at, part) in expectations {
        let at = if at == "-" { "" } else { at };
        if !problems
            .0
            .iter()
            .any(|problem| problem.path == at && problem.to_string().contains(part))
        {
            unmet.push_str(&format!("no problem at {at:?} has {part:?}\n"));
        }
    }
    // Only what is missing from the file as a whole has no line.
    for problem in problems
        .0
        .iter()
        .filter(|problem| problem.line.is_none() && problem.found != "nothing")
    {
        unmet.push_str(&format!("no line: {problem}\n"));
    }
    if unmet.is_empty() {
        unmet
    } else {
        format!("{}:\n{problems}\n{unmet}\n", path.display())
    }
}

#[test]
fn every_rejection_says_what_is_wrong_and_nothing_else() {
    let unmet: String = toml_files("tests/rejected")
        .iter()
        .map(|path| unmet(path))
        .collect();
    assert!(unmet.is_empty(), "{unmet}");
}
