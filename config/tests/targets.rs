//! What right files mean by routes that have more than one cluster.

#![expect(clippy::panic, reason = "tests fail by panicking")]

use std::time::Duration;

use forebay_config::gateway::*;

const LISTENER: &str = "[[listeners]]\naddress = \"127.0.0.1:0\"\n";
const CLUSTER: &str = "[[clusters]]\nname = \"workers\"\nendpoints = [\"127.0.0.1:8001\"]\n";

/// A route of a configuration with the clusters `workers`, `canary` and `spare`.
fn route_of_three(keys: &str) -> Route {
    let more = "[[clusters]]\nname = \"canary\"\nendpoints = [\"127.0.0.1:8002\"]\n\
                [[clusters]]\nname = \"spare\"\nendpoints = [\"127.0.0.1:8003\"]\n";
    let text = [LISTENER, CLUSTER, more, "[[routes]]\n", keys].concat();
    let mut gateway = Gateway::parse(&text).unwrap_or_else(|problems| panic!("{problems}"));
    gateway.routes.remove(0)
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
