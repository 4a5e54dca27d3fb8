//! What right routes of the gateway mean: the two ways of writing things, and the forms that values are kept in.

#![expect(clippy::panic, reason = "tests fail by panicking")]

use std::time::Duration;

use forebay_config::gateway::*;

const LISTENER: &str = "[[listeners]]\naddress = \"127.0.0.1:0\"\n";
const CLUSTER: &str = "[[clusters]]\nname = \"workers\"\nendpoints = [\"127.0.0.1:8001\"]\n";

fn gateway(parts: &[&str]) -> Gateway {
    Gateway::parse(&parts.concat()).unwrap_or_else(|problems| panic!("{problems}"))
}

fn route(keys: &str) -> Route {
    gateway(&[
        LISTENER,
        CLUSTER,
        "[[routes]]\ncluster = \"workers\"\n",
        keys,
    ])
    .routes
    .remove(0)
}

#[test]
fn of_two_backoffs_the_written_one_wins() {
    let backoffs = |keys: &str| {
        let retry = route(keys).retry;
        (retry.backoff.as_millis(), retry.backoff_max.as_millis())
    };
    assert_eq!(backoffs("retry = { backoff = \"1s\" }\n"), (1000, 1000));
    assert_eq!(backoffs("retry = { backoff_max = \"10ms\" }\n"), (10, 10));
    assert_eq!(
        backoffs("retry = { backoff = \"5ms\", backoff_max = \"50ms\" }\n"),
        (5, 50)
    );
}

#[test]
fn conditions_take_their_one_form() {
    let matches = route(
        "[routes.match]\nhost = \"API.Example.com\"\npath = { prefix = \"/v2/\" }\nmethods = [\"post\", \"GET\"]\n\
         headers = { \"X-B\" = true, \"x-a\" = \"1\" }\nmodel = \"minilm\"\nversion = \"1\"\n",
    )
    .matches;
    let header = |name: &str, value| HeaderMatch {
        name: name.into(),
        value,
    };
    assert_eq!(
        matches,
        Match {
            host: Some(HostMatch::Exact("api.example.com".into())),
            path: Some(PathMatch::Prefix("/v2".into())),
            methods: vec!["GET".into(), "POST".into()],
            headers: vec![
                header("x-a", HeaderValueMatch::Exact("1".into())),
                header("x-b", HeaderValueMatch::Present)
            ],
            model: Some(ModelMatch {
                name: "minilm".into(),
                version: Some("1".into())
            }),
        }
    );
    let host = |host: &str| {
        route(&format!("match = {{ host = \"{host}\" }}\n"))
            .matches
            .host
    };
    assert_eq!(
        host("*.Example.com"),
        Some(HostMatch::Suffix(".example.com".into()))
    );
    assert_eq!(host("[::1]"), Some(HostMatch::Exact("[::1]".into())));
    let path = |path: &str| {
        route(&format!("match = {{ path = {path} }}\n"))
            .matches
            .path
    };
    assert_eq!(path("\"/v2/\""), Some(PathMatch::Exact("/v2/".into())));
    assert_eq!(
        path("{ exact = \"/\" }"),
        Some(PathMatch::Exact("/".into()))
    );
    assert_eq!(path("{ prefix = \"/\" }"), None);
}

#[test]
fn a_regex_matches_whole_paths_only() {
    let Some(PathMatch::Regex(regex)) = route("match = { path = { regex = '/a|/b[0-9]' } }\n")
        .matches
        .path
    else {
        panic!("a regex is expected");
    };
    assert!(regex.is_match("/a") && regex.is_match("/b7"));
    assert!(
        !regex.is_match("/ab7")
            && !regex.is_match("/a/")
            && !regex.is_match("x/a")
            && !regex.is_match("/a\n")
    );
}

#[test]
fn routes_that_differ_in_one_condition_are_told_apart() {
    let route =
        |condition: &str| format!("[[routes]]\ncluster = \"workers\"\nmatch = {{ {condition} }}\n");
    let conditions = [
        "",
        "host = \"a\"",
        "host = \"*.a\"",
        "path = \"/a\"",
        "path = { prefix = \"/a\" }",
        "path = { regex = \"/a\" }",
        "methods = [\"GET\"]",
        "headers = { \"x\" = true }",
        "headers = { \"x\" = \"1\" }",
        "model = \"m\"",
        "model = \"m\", version = \"1\"",
    ];
    let routes: String = conditions
        .iter()
        .map(|condition| route(condition))
        .collect();
    assert_eq!(
        gateway(&[LISTENER, CLUSTER, &routes]).routes.len(),
        conditions.len()
    );
}

/// A route of a configuration with the clusters `workers`, `canary` and `spare`.
fn route_of_three(keys: &str) -> Route {
    let more = "[[clusters]]\nname = \"canary\"\nendpoints = [\"127.0.0.1:8002\"]\n\
                [[clusters]]\nname = \"spare\"\nendpoints = [\"127.0.0.1:8003\"]\n";
    gateway(&[LISTENER, CLUSTER, more, "[[routes]]\n", keys])
        .routes
        .remove(0)
}

#[test]
fn a_split_names_its_sides_and_what_keeps_users_on_them() {
    let route = route_of_three(
        "sticky = { header = \"X-User\" }\n\
         split = [{ cluster = \"workers\", weight = 99 }, { cluster = \"canary\" }]\n",
    );
    let side = |cluster: &str, weight| Side {
        cluster: cluster.into(),
        weight,
    };
    assert_eq!(route.cluster, "workers");
    assert_eq!(
        route.split,
        Some(Split {
            sides: vec![side("workers", 99), side("canary", 1)],
            sticky: Some(Sticky::Header("x-user".into())),
        })
    );
    for (keys, sticky) in [
        ("{ cookie = \"Session\" }", Sticky::Cookie("Session".into())),
        ("{ source = true }", Sticky::Source),
    ] {
        let keys = format!("sticky = {keys}\n[[routes.split]]\ncluster = \"spare\"\n");
        let split = route_of_three(&keys).split.expect("a split");
        assert_eq!(split.sticky, Some(sticky));
    }
}

#[test]
fn a_fallback_is_a_cluster_or_an_answer_or_both() {
    let fallback = |keys: &str| {
        let keys = format!("cluster = \"workers\"\nfallback = {keys}\n");
        route_of_three(&keys).fallback.expect("a fallback")
    };
    assert_eq!(
        fallback("\"spare\""),
        Fallback {
            cluster: Some("spare".into()),
            answer: None
        }
    );
    let answer = StaticAnswer {
        status: 503,
        body: None,
        grpc_code: 14,
        grpc_message: "gone fishing".into(),
    };
    assert_eq!(
        fallback("{ grpc_message = \"gone fishing\" }").answer,
        Some(answer.clone())
    );
    let both = fallback(
        "{ cluster = \"spare\", status = 200, body = \"[]\", grpc_code = \"NOT_FOUND\", grpc_message = \"gone fishing\" }",
    );
    assert_eq!(both.cluster.as_deref(), Some("spare"));
    assert_eq!(
        both.answer,
        Some(StaticAnswer {
            status: 200,
            body: Some(StaticBody {
                content_type: "application/json".into(),
                text: "[]".into(),
            }),
            grpc_code: 5,
            ..answer
        })
    );
}

#[test]
fn a_shadow_may_ask_another_model() {
    let route = route_of_three(
        "cluster = \"workers\"\n[routes.shadow]\ncluster = \"canary\"\nshare = 0.25\n\
         model = \"minilm-int8\"\nversion = \"2\"\n",
    );
    assert_eq!(
        route.shadow,
        Some(Shadow {
            cluster: "canary".into(),
            share: 0.25,
            timeout: Duration::from_secs(10),
            max_requests: 16,
            max_bytes: 64 << 20,
            model: Some("minilm-int8".into()),
            version: Some("2".into()),
        })
    );
}
