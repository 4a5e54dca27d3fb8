//! Rules about the tree that no lint can state.

#![expect(clippy::panic, reason = "tests fail by panicking")]

use std::path::{Path, PathBuf};

use forebay_config::gateway::Gateway;
use forebay_config::worker::Worker;

/// Decisions live here: no runtime, no clock.
const PURE: &[&str] = &[
    "config/src",
    "proto/src",
    "proto/cache/src",
    "gateway/src/fleet/discovery/consul",
    "gateway/src/fleet/discovery/etcd",
    "gateway/src/fleet/discovery/kubernetes",
    "gateway/src/fleet/discovery/patience.rs",
    "gateway/src/traffic",
    "gateway/src/protocol",
    "worker/src/batch/admission.rs",
    "worker/src/batch/curve.rs",
    "worker/src/batch/forming.rs",
    "worker/src/batch/queue.rs",
    "worker/src/batch/queue",
    "worker/src/batch/split.rs",
    "worker/src/batch/padding.rs",
    "worker/src/batch/padding",
    "worker/src/batch/gather.rs",
    "worker/src/batch/scatter.rs",
    "worker/src/cache/counts.rs",
    "worker/src/cache/key.rs",
    "worker/src/cache/store.rs",
    "worker/src/inference.rs",
    "worker/src/load/procfs.rs",
    "worker/src/load/report.rs",
    "worker/src/load/window.rs",
    "worker/src/pipeline/plan.rs",
    "worker/src/batch/memory/ledger.rs",
    "worker/src/repository/circle.rs",
    "worker/src/repository/layout.rs",
    "worker/src/repository/lifecycle.rs",
    "worker/src/repository/watch.rs",
    "worker/src/repository/pbtxt",
    "worker/src/service/classification.rs",
    "worker/src/service/settings/log.rs",
    "worker/src/service/settings/trace.rs",
    "worker/src/telemetry/sampling.rs",
];
const MOST_LINES: usize = 500;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Files below `path` with this ending, as paths from the root; build outputs and hidden folders left out.
fn files(path: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from(path)];
    while let Some(folder) = folders.pop() {
        let absolute = root().join(&folder);
        if absolute.is_file() {
            found.push(folder);
            continue;
        }
        let entries = std::fs::read_dir(&absolute)
            .unwrap_or_else(|error| panic!("{}: {error}", absolute.display()));
        for entry in entries {
            let name = entry
                .expect("a readable folder")
                .file_name()
                .into_string()
                .expect("names are UTF-8");
            let path = folder.join(&name);
            if root().join(&path).is_dir() {
                if !name.starts_with('.')
                    && !["target", "generated", "__pycache__"].contains(&name.as_str())
                {
                    folders.push(path);
                }
            } else if name.ends_with(ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(root().join(path))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn crates() -> Vec<PathBuf> {
    ["config", "proto", "gateway", "worker", "tests"]
        .iter()
        .flat_map(|name| files(name, ".rs"))
        .collect()
}

/// Whether a file is only compiled for tests: by its place, or since its module is declared so.
fn is_test(path: &Path) -> bool {
    if path
        .components()
        .any(|part| part.as_os_str() == "tests" || part.as_os_str() == "tests.rs")
    {
        return true;
    }
    let name = path
        .file_stem()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let declaration = format!("#[cfg(test)]\nmod {name};");
    let parents =
        ["lib.rs", "main.rs", "mod.rs"].map(|parent| root().join(path).with_file_name(parent));
    parents
        .iter()
        .any(|parent| std::fs::read_to_string(parent).is_ok_and(|text| text.contains(&declaration)))
}

/// Lines of code outside tests and comments, with their numbers.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text
        .lines()
        .enumerate()
        .take_while(|(_, line)| line.trim() != "#[cfg(test)]");
    lines.map(|(number, line)| (number + 1, line.split("//").next().unwrap_or_default()))
}

#[test]
fn pure_modules_name_no_runtime_and_no_clock() {
    let mut wrong = String::new();
    for path in PURE
        .iter()
        .flat_map(|path| files(path, ".rs"))
        .filter(|path| !is_test(path))
    {
        for (number, line) in code(&text(&path)) {
            for banned in [
                "tokio",
                "pingora",
                "::now()",
                "std::net::Tcp",
                "std::fs",
                "std::thread",
            ] {
                if line.contains(banned) {
                    wrong.push_str(&format!("{}:{number}: names {banned}\n", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn no_file_is_too_long() {
    let mut wrong = String::new();
    for path in crates() {
        let lines = text(&path).lines().count();
        if lines > MOST_LINES {
            wrong.push_str(&format!(
                "{}: {lines} lines, at most {MOST_LINES}\n",
                path.display()
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn every_module_says_what_it_is_for() {
    let silent: Vec<_> = crates()
        .into_iter()
        .filter(|path| path.file_name().is_none_or(|name| name != "tests.rs"))
        .filter(|path| !text(path).starts_with("//!"))
        .collect();
    assert!(silent.is_empty(), "no module documentation in {silent:?}");
}

#[test]
fn nothing_unwraps_outside_tests() {
    let mut wrong = String::new();
    for path in crates().into_iter().filter(|path| !is_test(path)) {
        for (number, line) in code(&text(&path)) {
            for banned in [".unwrap()", "todo!", "unimplemented!", "dbg!("] {
                if line.contains(banned) {
                    wrong.push_str(&format!("{}:{number}: {banned}\n", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn nothing_is_left_for_later() {
    let mut wrong = String::new();
    let own = Path::new("tests/tests/tidy.rs");
    for path in crates().into_iter().filter(|path| path != own) {
        for (number, line) in text(&path).lines().enumerate() {
            for banned in [
                "TODO",
                "FIXME",
                "XXX",
                "HACK",
                "for now",
                "placeholder",
                "#[allow(",
            ] {
                // Generated modules are included under an allow of their own.
                let generated = banned == "#[allow(" && path == Path::new("proto/src/lib.rs");
                if line.contains(banned) && !generated {
                    wrong.push_str(&format!("{}:{}: {banned}\n", path.display(), number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn gateway_and_worker_know_nothing_of_each_other() {
    for (own, other) in [("gateway", "forebay_worker"), ("worker", "forebay_gateway")] {
        for path in files(own, ".rs") {
            assert!(
                !text(&path).contains(other),
                "{} names {other}",
                path.display()
            );
        }
    }
}

/// Configurations in documents are right; one that is about clusters alone is completed by a listener. What has
/// neither clusters nor a repository is too small a part to be judged.
#[test]
fn configurations_in_documents_are_right() {
    let mut wrong = String::new();
    let mut count = 0;
    for path in files(".", ".md") {
        let text = text(&path);
        for block in text
            .split("```toml\n")
            .skip(1)
            .filter_map(|rest| rest.split("```").next())
        {
            let problems = if block.contains("[[clusters]]") {
                let listener = if block.contains("[[listeners]]") {
                    ""
                } else {
                    "[[listeners]]\naddress = '[::1]:0'\n"
                };
                Gateway::parse(&format!("{block}\n{listener}")).err()
            } else if block.lines().any(|line| line.starts_with("repository")) {
                Worker::parse(block).err()
            } else {
                continue;
            };
            count += 1;
            if let Some(problems) = problems {
                wrong.push_str(&format!("{}:\n{block}{problems}\n", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(count > 0, "no document shows a configuration");
}
