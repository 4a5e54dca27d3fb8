//! Each condition alone, then the order among them.

use std::time::Duration;

use forebay_config::gateway::{Match, Mode, ModelMatch, Retry};
use http::HeaderValue;
use proptest::prelude::*;

use super::*;

fn route(matches: Match) -> Route {
    Route {
        name: String::new(),
        matches,
        cluster: String::new(),
        split: None,
        fallback: None,
        subset: None,
        mode: Mode::Auto,
        timeout: Duration::from_secs(1),
        max_concurrent: 0,
        adaptive_limit: None,
        rate_limits: Vec::new(),
        max_request_bytes: 1,
        max_rows: None,
        retry: Retry {
            attempts: 1,
            per_try_timeout: None,
            backoff: Duration::ZERO,
            backoff_max: Duration::ZERO,
            budget_ratio: 0.0,
            budget_min: 0,
            idempotent: false,
        },
        hedge: None,
        cache: None,
        shadow: None,
    }
}

fn router(matches: impl IntoIterator<Item = Match>) -> Router {
    Router::new(&matches.into_iter().map(route).collect::<Vec<_>>())
}

fn exact_host(host: &str) -> Match {
    Match {
        host: Some(HostMatch::Exact(host.into())),
        ..Match::default()
    }
}

fn suffix(host: &str) -> Match {
    Match {
        host: Some(HostMatch::Suffix(host.into())),
        ..Match::default()
    }
}

fn exact(path: &str) -> Match {
    Match {
        path: Some(PathMatch::Exact(path.into())),
        ..Match::default()
    }
}

fn prefix(path: &str) -> Match {
    Match {
        path: Some(PathMatch::Prefix(path.into())),
        ..Match::default()
    }
}

fn regex(pattern: &str) -> Match {
    Match {
        path: Some(PathMatch::Regex(regex::Regex::new(pattern).unwrap())),
        ..Match::default()
    }
}

fn model(name: &str, version: Option<&str>) -> Match {
    let version = version.map(Into::into);
    Match {
        model: Some(ModelMatch {
            name: name.into(),
            version,
        }),
        ..Match::default()
    }
}

fn headers(conditions: &[(&str, Option<&str>)]) -> Match {
    let condition = |&(name, value): &(&str, Option<&str>)| HeaderMatch {
        name: name.into(),
        value: value.map_or(HeaderValueMatch::Present, |value| {
            HeaderValueMatch::Exact(value.into())
        }),
    };
    Match {
        headers: conditions.iter().map(condition).collect(),
        ..Match::default()
    }
}

fn methods(names: &[&str]) -> Match {
    Match {
        methods: names.iter().map(ToString::to_string).collect(),
        ..Match::default()
    }
}

#[derive(Default)]
struct Request {
    host: Option<&'static str>,
    path: &'static str,
    method: Method,
    headers: HeaderMap,
    model: Option<&'static str>,
    version: Option<&'static str>,
}

impl Request {
    fn through(&self, router: &Router) -> Option<usize> {
        router.find(&RequestHead {
            host: self.host,
            path: self.path,
            method: &self.method,
            headers: &self.headers,
            model: self.model,
            version: self.version,
        })
    }
}

fn at_host(host: &'static str) -> Request {
    Request {
        host: Some(host),
        path: "/",
        ..Request::default()
    }
}

fn at_path(path: &'static str) -> Request {
    Request {
        path,
        ..Request::default()
    }
}

fn with_headers(pairs: &[(&'static str, &'static str)]) -> Request {
    let pair = |&(name, value)| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )
    };
    Request {
        path: "/",
        headers: pairs.iter().map(pair).collect(),
        ..Request::default()
    }
}

#[test]
fn hosts_match_without_case_and_port() {
    let router = router([
        exact_host("api.example.com"),
        exact_host("::1"),
        exact_host("[fe80::2]"),
    ]);
    for (host, found) in [
        ("api.example.com", Some(0)),
        ("API.Example.com:8080", Some(0)),
        ("api.example.com.evil.org", None),
        ("xapi.example.com", None),
        ("[::1]", Some(1)),
        ("[::1]:443", Some(1)),
        ("::1", Some(1)),
        ("[FE80::2]:443", Some(2)),
        ("[", None),
        ("", None),
        (":80", None),
    ] {
        assert_eq!(at_host(host).through(&router), found, "{host}");
    }
    assert_eq!(at_path("/").through(&router), None, "no host, no match");
}

#[test]
fn suffixes_demand_a_label_before_them() {
    let router = router([suffix(".example.com")]);
    for (host, found) in [
        ("a.example.com", Some(0)),
        ("A.B.EXAMPLE.COM:1", Some(0)),
        ("example.com", None),
        (".example.com", None),
        ("aexample.com", None),
        ("ä.example.com", Some(0)),
    ] {
        assert_eq!(at_host(host).through(&router), found, "{host}");
    }
}

#[test]
fn prefixes_match_whole_segments() {
    let router = router([prefix("/v2")]);
    for (path, found) in [
        ("/v2", Some(0)),
        ("/v2/", Some(0)),
        ("/v2/models", Some(0)),
        ("/v2x", None),
        ("/v", None),
    ] {
        assert_eq!(at_path(path).through(&router), found, "{path}");
    }
    let everything = self::router([prefix("/")]);
    for path in ["/", "/x", "*", ""] {
        assert_eq!(at_path(path).through(&everything), Some(0), "{path}");
    }
}

#[test]
fn a_version_matches_only_itself() {
    let router = router([model("m", Some("2"))]);
    let request = |model, version| Request {
        path: "/",
        model,
        version,
        ..Request::default()
    };
    assert_eq!(request(Some("m"), Some("2")).through(&router), Some(0));
    assert_eq!(request(Some("m"), Some("3")).through(&router), None);
    assert_eq!(request(Some("m"), None).through(&router), None);
    assert_eq!(request(Some("n"), Some("2")).through(&router), None);
    assert_eq!(request(None, None).through(&router), None);
}

#[test]
fn headers_match_by_presence_or_by_any_value() {
    let router = router([headers(&[("x-tenant", Some("gold")), ("x-trace", None)])]);
    assert_eq!(
        with_headers(&[("x-tenant", "gold"), ("x-trace", "")]).through(&router),
        Some(0)
    );
    assert_eq!(
        with_headers(&[("x-tenant", "tin"), ("x-tenant", "gold"), ("x-trace", "1")])
            .through(&router),
        Some(0)
    );
    assert_eq!(
        with_headers(&[("x-tenant", "Gold"), ("x-trace", "1")]).through(&router),
        None
    );
    assert_eq!(with_headers(&[("x-tenant", "gold")]).through(&router), None);
    let impossible = self::router([headers(&[("no header", None)])]);
    assert_eq!(with_headers(&[("x-trace", "1")]).through(&impossible), None);
}

#[test]
fn methods_match_by_name() {
    let router = router([methods(&["GET", "PURGE"])]);
    let request = |method: &str| Request {
        path: "/",
        method: method.parse().unwrap(),
        ..Request::default()
    };
    assert_eq!(request("GET").through(&router), Some(0));
    assert_eq!(request("PURGE").through(&router), Some(0));
    assert_eq!(request("POST").through(&router), None);
}

/// One request that matches every condition below; each list goes from the most to the least specific.
#[test]
fn the_most_specific_route_wins() {
    let request = Request {
        host: Some("a.b.example.com:80"),
        path: "/v2/models",
        method: Method::GET,
        model: Some("m"),
        version: Some("1"),
        ..with_headers(&[("a", "1"), ("b", "2")])
    };
    let ladders = [
        vec![
            exact_host("a.b.example.com"),
            suffix(".b.example.com"),
            suffix(".example.com"),
            exact("/v2/models"),
            prefix("/v2/models"),
            prefix("/v2"),
            regex("^/v2/.*$"),
            model("m", Some("1")),
            model("m", None),
            headers(&[("a", None), ("b", None)]),
            headers(&[("a", Some("1"))]),
            methods(&["GET"]),
            Match::default(),
        ],
        vec![
            Match {
                path: prefix("/v2").path,
                ..model("m", Some("1"))
            },
            Match {
                path: prefix("/v2").path,
                ..headers(&[("a", None), ("b", None)])
            },
            Match {
                path: regex("^/v2/.*$").path,
                ..model("m", Some("1"))
            },
            Match {
                model: model("m", None).model,
                ..headers(&[("a", None), ("b", None)])
            },
            Match {
                model: model("m", None).model,
                ..methods(&["GET"])
            },
            model("m", None),
        ],
    ];
    for ladder in ladders {
        for better in 0..ladder.len() {
            for worse in better + 1..ladder.len() {
                let pair = [ladder[worse].clone(), ladder[better].clone()];
                assert_eq!(
                    request.through(&router(pair)),
                    Some(1),
                    "{better} against {worse}"
                );
            }
        }
        let reversed = router(ladder.iter().rev().cloned());
        assert_eq!(request.through(&reversed), Some(ladder.len() - 1));
    }
}

#[test]
fn equals_are_taken_in_the_order_of_the_file() {
    let router = router([
        regex("^/x/.*$"),
        regex("^/x/y$"),
        Match::default(),
        Match::default(),
    ]);
    assert_eq!(at_path("/x/y").through(&router), Some(0));
    assert_eq!(at_path("/").through(&router), Some(2));
}

#[test]
fn a_less_specific_route_takes_what_a_better_one_refuses() {
    let router = router([
        Match::default(),
        model("m", Some("1")),
        Match {
            path: exact("/only").path,
            ..model("m", Some("1"))
        },
    ]);
    let request = |version| Request {
        path: "/",
        model: Some("m"),
        version,
        ..Request::default()
    };
    assert_eq!(request(Some("1")).through(&router), Some(1));
    assert_eq!(request(Some("2")).through(&router), Some(0));
}

#[test]
fn the_model_is_needed_only_if_a_route_names_one() {
    assert!(!router([]).needs_model());
    assert!(!router([prefix("/v2"), exact_host("a")]).needs_model());
    assert!(router([prefix("/v2"), model("m", None)]).needs_model());
    assert_eq!(at_path("/").through(&router([])), None);
}

proptest! {
    /// The map by model finds what trying every route in order of specificity finds.
    #[test]
    fn the_index_agrees_with_a_plain_search(
        choices in prop::collection::vec((0_usize..4, 0_usize..3, 0_usize..3, 0_usize..3), 0..30),
        (path, requested, version) in (0_usize..3, 0_usize..3, 0_usize..3),
    ) {
        const NAMES: [&str; 2] = ["a", "b"];
        let choose = |(path, name, version, method): (usize, usize, usize, usize)| Match {
            path: [None, exact("/v2/x").path, prefix("/v2").path, prefix("/").path][path].clone(),
            model: NAMES.get(name).and_then(|name| model(name, ["1", "2"].get(version).copied()).model),
            methods: [vec![], vec!["GET".to_owned()], vec!["POST".to_owned()]][method].clone(),
            ..Match::default()
        };
        let routes: Vec<_> = choices.into_iter().map(choose).map(route).collect();
        let request = Request {
            path: ["/v2/x", "/v2", "/"][path],
            model: NAMES.get(requested).copied(),
            version: ["1", "2"].get(version).copied(),
            ..Request::default()
        };
        let matches = |route: &Route| {
            let matches = &route.matches;
            matches.path.as_ref().is_none_or(|rule| path_matches(rule, request.path))
                && matches.methods.iter().all(|method| method == "GET")
                && matches.model.as_ref().is_none_or(|model| {
                    Some(model.name.as_str()) == request.model
                        && (model.version.is_none() || model.version.as_deref() == request.version)
                })
        };
        let best = routes
            .iter()
            .enumerate()
            .filter(|(_, route)| matches(route))
            .min_by_key(|(_, route)| Reverse(specificity(route)))
            .map(|(index, _)| index);
        prop_assert_eq!(request.through(&Router::new(&routes)), best);
    }
}
