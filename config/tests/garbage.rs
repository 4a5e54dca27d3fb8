//! Whatever text comes in: a configuration or at least one problem, and never a panic.

mod shared;

use std::fs;

use forebay_config::Problems;
use forebay_config::gateway::Gateway;
use forebay_config::worker::Worker;
use proptest::prelude::*;

fn parse_both(text: &str) {
    let told = |problems: &Problems| {
        assert!(!problems.0.is_empty());
        assert_eq!(
            problems.to_string().lines().count(),
            problems.0.len(),
            "one line each: {problems}"
        );
    };
    let _ = Gateway::parse(text).inspect_err(told);
    let _ = Worker::parse(text).inspect_err(told);
}

fn examples() -> Vec<String> {
    let files = shared::toml_files("../deploy/examples");
    files
        .iter()
        .map(|path| fs::read_to_string(path).expect("a readable file"))
        .collect()
}

/// Right TOML with the known keys and any kind of value.
fn plausible() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        Just("1".to_owned()),
        Just("-0.5".to_owned()),
        Just("true".to_owned()),
        Just("[]".to_owned()),
        Just("[[1], {}]".to_owned()),
        Just("1979-05-27T07:32:00Z".to_owned()),
        Just("{ a.b = 'c' }".to_owned()),
        "\"[ -~&&[^\"\\\\]]{0,12}\"",
        "'''\n[a-z\n]{0,6}'''",
    ];
    let key = prop::sample::select(vec![
        "threads",
        "listen",
        "repository",
        "name",
        "address",
        "endpoints",
        "match",
        "path",
        "headers",
        "health",
        "retry",
        "timeout",
        "max_request_size",
        "models",
        "provider",
        "preferred_batch_sizes",
        "priority_levels",
        "default_priority",
        "devices",
        "versions",
        "padding",
        "labels",
        "inputs",
        "buckets",
        "cuda",
        "openvino",
        "model_control",
        "load_at_start",
        "tls",
        "cluster",
        "\"a b\"",
    ]);
    let header = prop::sample::select(vec![
        "",
        "[admin]",
        "[telemetry.otlp]",
        "[[listeners]]",
        "[listeners.tls]",
        "[[routes]]",
        "[routes.match]",
        "[[clusters]]",
        "[clusters.health]",
        "[[clusters.endpoints]]",
        "[defaults]",
        "[models.a]",
        "[models.a.padding]",
        "[models.a.tensorrt]",
        "[tls]",
    ]);
    let line = prop_oneof![4 => (key, value).prop_map(|(key, value)| format!("{key} = {value}")), 1 => header.prop_map(str::to_owned)];
    prop::collection::vec(line, 0..12).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #[test]
    fn any_text(text in any::<String>()) {
        parse_both(&text);
    }

    #[test]
    fn plausible_text(text in plausible()) {
        parse_both(&text);
    }

    #[test]
    fn damaged_examples(which: prop::sample::Index, from: prop::sample::Index, length in 0usize..40, with in "\\PC{0,4}") {
        let examples = examples();
        let chars: Vec<char> = which.get(&examples).chars().collect();
        let from = from.index(chars.len());
        let rest = &chars[(from + length).min(chars.len())..];
        let damaged: String = chars[..from].iter().copied().chain(with.chars()).chain(rest.iter().copied()).collect();
        parse_both(&damaged);
    }
}
