//! What right files of the gateway mean: defaults, the two ways of writing things, and the forms that values are kept in.

#![expect(clippy::panic, reason = "tests fail by panicking")]

use std::time::Duration;

use forebay_config::gateway::*;
use forebay_config::telemetry::OtlpProtocol;

const LISTENER: &str = "[[listeners]]\naddress = \"127.0.0.1:0\"\n";
const CLUSTER: &str = "[[clusters]]\nname = \"workers\"\nendpoints = [\"127.0.0.1:8001\"]\n";

fn gateway(parts: &[&str]) -> Gateway {
    Gateway::parse(&parts.concat()).unwrap_or_else(|problems| panic!("{problems}"))
}

fn cluster(keys: &str) -> Cluster {
    gateway(&[LISTENER, CLUSTER, keys]).clusters.remove(0)
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
fn the_smallest_gateway_has_every_default() {
    let gateway = gateway(&[
        "[[listeners]]\naddress = \"0.0.0.0:8080\"\n",
        "[[clusters]]\nname = \"workers\"\nendpoints = [\"127.0.0.1:8001\", \"127.0.0.1:8002\"]\n",
    ]);
    assert_eq!((gateway.threads, gateway.admin), (None, None));
    assert_eq!(gateway.upgrade_socket, None);
    assert_eq!(gateway.max_buffered, None);
    assert_eq!(
        (gateway.drain_delay, gateway.drain_timeout),
        (Duration::ZERO, Duration::from_secs(30))
    );
    assert_eq!(gateway.telemetry.service_name, "forebay-gateway");
    assert_eq!(
        (gateway.telemetry.otlp, gateway.telemetry.sampling_ratio),
        (None, 0.01)
    );
    assert_eq!(gateway.telemetry.log_level, "info");
    assert_eq!(
        gateway.listeners,
        [Listener {
            name: "listener-1".into(),
            address: "0.0.0.0:8080".parse().unwrap(),
            tls: None,
            header_timeout: Duration::from_secs(10),
            max_concurrent_streams: 1000,
        }]
    );
    let retry = Retry {
        attempts: 3,
        per_try_timeout: None,
        backoff: Duration::from_millis(25),
        backoff_max: Duration::from_millis(250),
        budget_ratio: 0.2,
        budget_min: 3,
        idempotent: true,
    };
    assert_eq!(
        gateway.routes,
        [Route {
            name: "default".into(),
            matches: Match::default(),
            cluster: "workers".into(),
            split: None,
            fallback: None,
            subset: None,
            mode: Mode::Auto,
            timeout: Duration::from_secs(60),
            max_request_bytes: 64 << 20,
            max_rows: None,
            max_concurrent: 0,
            adaptive_limit: None,
            rate_limits: Vec::new(),
            retry,
            hedge: None,
            cache: None,
            shadow: None,
        }]
    );
    let endpoint = |address: &str| Endpoint::new(address, 1);
    assert_eq!(
        gateway.clusters,
        [Cluster {
            name: "workers".into(),
            protocol: Protocol::Grpc,
            policy: Policy::LeastWork,
            load_reports: LoadReports::Ignore,
            affinity: None,
            prefer: None,
            endpoints: vec![endpoint("127.0.0.1:8001"), endpoint("127.0.0.1:8002")],
            discovery: None,
            connect_timeout: Duration::from_millis(500),
            limit: None,
            health: Some(Health {
                probe: HealthProbe::Grpc {
                    service: String::new()
                },
                models: Vec::new(),
                interval: Duration::from_secs(1),
                timeout: Duration::from_millis(500),
                healthy_threshold: 1,
                unhealthy_threshold: 2,
            }),
            panic_below: 0.0,
            breaker: Some(Breaker {
                consecutive_failures: 5,
                success_rate: 0.0,
                window: Duration::from_secs(10),
                minimum_requests: 20,
                open_for: Duration::from_secs(5),
            }),
            outlier: Some(Outlier {
                window: Duration::from_secs(10),
                minimum_requests: 20,
                margin: 0.2,
                eject_for: Duration::from_secs(30),
                eject_max: Duration::from_secs(300),
                max_ejected: 0.5,
            }),
            slow_start: None,
            tls: None,
        }]
    );
}

#[test]
fn an_empty_table_means_what_no_table_means() {
    let plain = gateway(&[LISTENER, CLUSTER, "[[routes]]\ncluster = \"workers\"\n"]);
    let empty = gateway(&[
        "[telemetry]\n",
        LISTENER,
        CLUSTER,
        "health = {}\nbreaker = true\noutlier = {}\n",
        "[[routes]]\ncluster = \"workers\"\nmatch = {}\nretry = {}\n",
    ]);
    assert_eq!(plain, empty);
}

#[test]
fn health_follows_the_protocol_and_the_interval() {
    let probe = |keys: &str| cluster(keys).health.map(|health| health.probe);
    assert_eq!(probe("protocol = \"http\"\n"), Some(HealthProbe::Tcp));
    assert_eq!(
        probe("health = { probe = \"tcp\" }\n"),
        Some(HealthProbe::Tcp)
    );
    assert_eq!(
        probe("health = { service = \"a.B\" }\n"),
        Some(HealthProbe::Grpc {
            service: "a.B".into()
        })
    );
    assert_eq!(
        probe("protocol = \"http\"\nhealth = { probe = \"http\", path = \"/ready?full=1\" }\n"),
        Some(HealthProbe::Http {
            path: "/ready?full=1".into()
        })
    );
    assert_eq!(probe("health = false\n"), None);
    let quick = cluster("health = { interval = \"100ms\" }\n")
        .health
        .unwrap();
    assert_eq!(
        (quick.interval, quick.timeout),
        (Duration::from_millis(100), Duration::from_millis(100))
    );
}

#[test]
fn affinity_is_read_with_its_policy() {
    let sources = "[clusters.affinity]\nheader = \"X-Session\"\nsource = true\nbound = 2\n";
    let cluster = cluster(&format!("policy = \"ring_hash\"\n{sources}"));
    assert_eq!(cluster.policy, Policy::RingHash);
    assert_eq!(
        cluster.affinity,
        Some(Affinity {
            parameter: None,
            header: Some("x-session".into()),
            cookie: None,
            model: false,
            source: true,
            bound: 2.0,
        })
    );
}

#[test]
fn slow_start_is_off_unless_written() {
    let slow_start = |keys: &str| cluster(keys).slow_start;
    assert_eq!(slow_start(""), None);
    assert_eq!(slow_start("slow_start = false\n"), None);
    let default = SlowStart {
        window: Duration::from_secs(30),
        aggression: 1.0,
        least: 0.1,
    };
    assert_eq!(slow_start("slow_start = true\n"), Some(default));
    assert_eq!(
        slow_start("slow_start = { window = \"1m\", aggression = 2 }\n"),
        Some(SlowStart {
            window: Duration::from_secs(60),
            aggression: 2.0,
            ..default
        })
    );
}

#[test]
fn probes_ask_about_models() {
    let health = cluster("health = { models = [\"minilm\", \"resnet\"] }\n").health;
    assert_eq!(
        health.map(|health| health.models),
        Some(vec!["minilm".into(), "resnet".into()])
    );
}

#[test]
fn weighted_is_another_name_of_round_robin() {
    assert_eq!(
        cluster("policy = \"weighted\"\n").policy,
        Policy::RoundRobin
    );
}

#[test]
fn breaker_and_retry_can_be_turned_off() {
    assert_eq!(cluster("outlier = false\n").outlier, None);
    let short = cluster("outlier = { eject_max = \"10s\" }\n");
    let short = short.outlier.unwrap();
    assert_eq!(short.eject_for, short.eject_max);
    assert_eq!(cluster("breaker = false\n").breaker, None);
    let by_rate = cluster("breaker = { consecutive_failures = 0, success_rate = 0.9 }\n")
        .breaker
        .unwrap();
    assert_eq!(
        (by_rate.consecutive_failures, by_rate.success_rate),
        (0, 0.9)
    );
    assert_eq!(
        route("retry = false\n").retry,
        Retry {
            attempts: 1,
            ..Retry::default()
        }
    );
}

#[test]
fn a_limit_brings_its_queue() {
    assert_eq!(cluster("max_requests = 0\n").limit, None);
    let queue = Queue {
        size: 1024,
        max_wait: None,
        priority_header: None,
        tenant_header: None,
    };
    assert_eq!(
        cluster("max_requests = 8\n").limit,
        Some(Limit {
            max_requests: 8,
            queue: queue.clone()
        })
    );
    let none = cluster("max_requests = 8\nqueue = false\n").limit.unwrap();
    assert_eq!(none.queue, Queue { size: 0, ..queue });
    let keys =
        "max_requests = 1\n[clusters.queue]\nmax_wait = \"2s\"\npriority_header = \"Priority\"\n";
    let queue = cluster(keys).limit.unwrap().queue;
    assert_eq!(
        (queue.max_wait, queue.priority_header.as_deref()),
        (Some(Duration::from_secs(2)), Some("priority"))
    );
}

#[test]
fn a_rate_limit_needs_only_its_number() {
    let keys = "rate_limits = [{ requests = 5 }, { requests = 5, by = \"client\" }, \
                { requests = 5, per = \"1m\", burst = 2, by = { header = \"X-Key\" } }]\n";
    let limit = |per, burst, by| RateLimit {
        shared: false,
        requests: 5,
        per: Duration::from_secs(per),
        burst,
        by,
    };
    assert_eq!(
        route(keys).rate_limits,
        [
            limit(1, 5, RateKey::Route),
            limit(1, 5, RateKey::Client),
            limit(60, 2, RateKey::Header("x-key".into()))
        ]
    );
}

#[test]
fn an_adaptive_limit_has_bounds_that_fit() {
    let bounds = |keys: &str| {
        let limit = route(keys).adaptive_limit.unwrap();
        (limit.min, limit.max)
    };
    assert_eq!(bounds("adaptive_limit = true\n"), (4, 10_000));
    assert_eq!(bounds("adaptive_limit = { max = 2 }\n"), (2, 2));
    assert_eq!(
        bounds("adaptive_limit = { min = 20000 }\n"),
        (20_000, 20_000)
    );
    assert_eq!(route("adaptive_limit = false\n").adaptive_limit, None);
}

#[test]
fn otlp_speaks_what_its_port_suggests_unless_told() {
    let protocol = |keys: &str| {
        gateway(&["[telemetry.otlp]\n", keys, LISTENER, CLUSTER])
            .telemetry
            .otlp
            .map(|otlp| otlp.protocol)
    };
    assert_eq!(
        protocol("endpoint = \"http://jaeger:4317\"\n"),
        Some(OtlpProtocol::Grpc)
    );
    assert_eq!(
        protocol("endpoint = \"http://jaeger:4318\"\n"),
        Some(OtlpProtocol::Http)
    );
    assert_eq!(
        protocol("endpoint = \"http://jaeger:4317/x\"\nprotocol = \"http\"\n"),
        Some(OtlpProtocol::Http)
    );
    assert_eq!(
        protocol("endpoint = \"http://jaeger:9\"\nprotocol = \"grpc\"\n"),
        Some(OtlpProtocol::Grpc)
    );
}

#[test]
fn a_discovery_is_one_of_three_sources() {
    let source = |keys: &str| {
        let text = format!(
            "listeners = [{{ address = \"127.0.0.1:0\" }}]\n[[clusters]]\nname = \"a\"\n[clusters.discovery]\n{keys}\n"
        );
        let cluster = Gateway::parse(&text).unwrap().clusters.remove(0);
        assert!(cluster.endpoints.is_empty());
        cluster.discovery.unwrap()
    };
    assert_eq!(
        source("dns = \"workers:8001\"\ninterval = \"200ms\""),
        Discovery {
            source: DiscoverySource::Dns {
                host: "workers".into(),
                port: 8001
            },
            interval: Duration::from_millis(200),
            nameserver: None,
        }
    );
    assert_eq!(
        source("srv = \"_grpc._tcp.workers\"").source,
        DiscoverySource::Srv("_grpc._tcp.workers".into())
    );
    assert_eq!(
        source("file = \"endpoints.toml\"").source,
        DiscoverySource::File("endpoints.toml".into())
    );
}

#[test]
fn a_discovery_file_is_a_list_of_endpoints() {
    let text = "endpoints = [\"10.0.0.7:8001\", { address = \"b:1\", weight = 3 }]";
    let endpoints = Endpoint::parse_file(text).unwrap();
    assert_eq!(endpoints[1].weight, 3);
    assert_eq!(Endpoint::parse_file("endpoints = []").unwrap(), []);
    for (text, part) in [
        ("", "endpoints: found nothing"),
        ("endpoints = [\"b:1\", \"b:1\"]", "endpoints[1]"),
        ("endpoint = [\"b:1\"]", "did you mean endpoints?"),
        ("endpoints = [", "line 1"),
    ] {
        let problems = Endpoint::parse_file(text).unwrap_err().to_string();
        assert!(problems.contains(part), "{problems}");
    }
}
