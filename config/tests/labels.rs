//! Labels of endpoints, and what goes by them: subsets, preferences, panic.

use std::collections::BTreeMap;

use forebay_config::gateway::{
    Cluster, Endpoint, Gateway, LabelValue, Prefer, Route, Subset, SubsetFallback,
};

const CLUSTER: &str = "[[listeners]]\naddress = \"127.0.0.1:8080\"\n\
    [[clusters]]\nname = \"workers\"\nendpoints = [\"127.0.0.1:8001\"]\n";

fn cluster(keys: &str) -> Cluster {
    let text = format!("{CLUSTER}{keys}");
    Gateway::parse(&text)
        .expect("a right configuration")
        .clusters
        .remove(0)
}

fn route(keys: &str) -> Route {
    let text = format!("{CLUSTER}[[routes]]\ncluster = \"workers\"\n{keys}");
    Gateway::parse(&text)
        .expect("a right configuration")
        .routes
        .remove(0)
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pairs = pairs.iter();
    pairs
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

#[test]
fn a_subset_is_asked_for_by_what_is_written_and_by_headers() {
    let subset = "subset = { labels = { gpu = \"h100\", zone = { header = \"X-Zone\" } }, fallback = \"any\" }\n";
    assert_eq!(
        route(subset).subset,
        Some(Subset {
            labels: [
                ("gpu".into(), LabelValue::Exact("h100".into())),
                ("zone".into(), LabelValue::Header("x-zone".into())),
            ]
            .into(),
            fallback: SubsetFallback::Any,
        })
    );
    let strict = route("subset = { labels = { gpu = \"h100\" } }\n").subset;
    assert_eq!(
        strict.map(|subset| subset.fallback),
        Some(SubsetFallback::None)
    );
}

#[test]
fn preferred_endpoints_have_labels() {
    let prefer = cluster("prefer = { labels = { zone = \"a\" } }\n").prefer;
    let expected = Prefer {
        labels: labels(&[("zone", "a")]),
        spill_below: 0.7,
    };
    assert_eq!(prefer, Some(expected));
}

#[test]
fn panic_is_off_unless_written() {
    assert_eq!(cluster("").panic_below, 0.0);
    assert_eq!(cluster("panic_below = 0.5\n").panic_below, 0.5);
}

#[test]
fn a_discovery_file_gives_labels() {
    let text =
        "endpoints = [\"10.0.0.7:8001\", { address = \"b:1\", labels = { gpu = \"h100\" } }]";
    let endpoints = Endpoint::parse_file(text).unwrap();
    assert_eq!(endpoints[0].labels, labels(&[]));
    assert_eq!(endpoints[1].labels, labels(&[("gpu", "h100")]));
}

#[test]
fn labels_of_other_sources_follow_the_same_rules() {
    let named = |pairs: &[(&str, &str)]| {
        Endpoint::named("b:1", None).and_then(|endpoint| endpoint.with_labels(labels(pairs)))
    };
    let endpoint = named(&[("topology.kubernetes.io/zone", "a b")]).unwrap();
    assert_eq!(endpoint.labels.len(), 1);
    for (pairs, part) in [
        ([("with space", "a")], "not 'with space'"),
        ([("zone", "")], "a value of the label 'zone'"),
        ([("zone", "a\n")], "a value of the label 'zone'"),
    ] {
        let error = named(&pairs).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
}
