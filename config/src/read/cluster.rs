//! `[[clusters]]`, apart from health checks.

use std::time::Duration;

use super::{
    Keys, Read, Table, Value, address, affinity, discovery, endpoints, health, limit, names,
    outlier, prefer, slow_start,
};
use crate::defaults;
use crate::gateway::{
    Breaker, Cluster, Endpoint, Identity, LoadReports, Policy, Protocol, UpstreamTls,
};

const KEYS: Keys = &[
    "name",
    "protocol",
    "policy",
    "load_reports",
    "affinity",
    "prefer",
    "endpoints",
    "discovery",
    "connect_timeout",
    "max_requests",
    "queue",
    "health",
    "panic_below",
    "breaker",
    "outlier",
    "slow_start",
    "tls",
];
const BREAKER_KEYS: Keys = &[
    "consecutive_failures",
    "success_rate",
    "window",
    "minimum_requests",
    "open_for",
];
const TLS_KEYS: Keys = &["server_name", "ca", "certificate", "key"];

const PROTOCOLS: [(&str, Protocol); 2] = [("grpc", Protocol::Grpc), ("http", Protocol::Http)];
/// What balancers call `weighted` is round robin here, which heeds the weights.
const POLICIES: [(&str, Policy); 7] = [
    ("round_robin", Policy::RoundRobin),
    ("random", Policy::Random),
    ("least_request", Policy::LeastRequest),
    ("peak_ewma", Policy::PeakEwma),
    ("least_work", Policy::LeastWork),
    ("ring_hash", Policy::RingHash),
    ("weighted", Policy::RoundRobin),
];

const LOAD_REPORTS: [(&str, LoadReports); 3] = [
    ("answers", LoadReports::Answers),
    ("stream", LoadReports::Stream),
    ("ignore", LoadReports::Ignore),
];

const SERVER_NAME: &str = "the name or IP address that the certificate is verified against (verification cannot be turned off)";
const HIGHEST_COUNT: u32 = 1_000_000;

pub(super) fn cluster(value: &Value<'_>) -> Read<Cluster> {
    let table = value.table(KEYS)?;
    let name = names::required_name(&table);
    let protocol = table.or("protocol", Protocol::Grpc, |value| value.choice(&PROTOCOLS));
    let policy = table.or("policy", Policy::LeastWork, |value| value.choice(&POLICIES));
    let load_reports = table.or("load_reports", LoadReports::Ignore, |value| {
        match value.choice(&LOAD_REPORTS)? {
            LoadReports::Stream if protocol == Ok(Protocol::Http) => {
                value.wrong("answers or ignore: reports are streamed over gRPC")
            }
            LoadReports::Stream if policy.is_ok_and(|policy| policy != Policy::LeastWork) => {
                value.wrong("answers or ignore: least_work alone goes by reports")
            }
            reports => Ok(reports),
        }
    });
    let affinity = affinity::affinity(&table, policy.ok());
    let prefer = prefer::prefer(&table);
    let discovery = discovery::discovery(&table);
    let endpoints = written(&table, discovery != Ok(None));
    let connect_timeout = table.or("connect_timeout", defaults::CONNECT_TIMEOUT, |value| {
        value.duration(Duration::from_millis(1)..=Duration::from_secs(300))
    });
    let limit = limit::limit(&table);
    let health = health::health(&table, protocol.ok());
    let panic_below = table.or("panic_below", defaults::PANIC_BELOW, |value| value.ratio());
    let breaker = breaker(&table);
    let outlier = outlier::outlier(&table);
    let slow_start = slow_start::slow_start(&table);
    let tls = table.optional("tls", |value| tls(&value.table(TLS_KEYS)?));
    Ok(Cluster {
        name: name?,
        protocol: protocol?,
        policy: policy?,
        load_reports: load_reports?,
        affinity: affinity?,
        prefer: prefer?,
        endpoints: endpoints?,
        discovery: discovery?,
        connect_timeout: connect_timeout?,
        limit: limit?,
        health: health?,
        panic_below: panic_below?,
        breaker: breaker?,
        outlier: outlier?,
        slow_start: slow_start?,
        tls: tls?,
    })
}

/// The protocol of a cluster if it is right, without a word if it is not.
pub(super) fn peek_protocol(cluster: &Value<'_>) -> Option<Protocol> {
    let Some(value) = cluster.peek("protocol") else {
        return Some(Protocol::Grpc);
    };
    PROTOCOLS
        .iter()
        .find(|(name, _)| value.as_str() == Some(name))
        .map(|(_, protocol)| *protocol)
}

/// Written ones, at least one unless a discovery may bring them.
fn written(table: &Table<'_>, discovered: bool) -> Read<Vec<Endpoint>> {
    let expected = format!("an array of {}", endpoints::EXPECTED);
    match table.get("endpoints") {
        None if discovered => Ok(Vec::new()),
        None => Err(table.missing("endpoints", &expected)),
        Some(value) => match endpoints::list(&value)? {
            none if none.is_empty() && !discovered => value.wrong("at least one endpoint"),
            endpoints => Ok(endpoints),
        },
    }
}

fn breaker(cluster: &Table<'_>) -> Read<Option<Breaker>> {
    let default = Breaker::default();
    let Some(table) = cluster.switch("breaker", BREAKER_KEYS)? else {
        return Ok(None);
    };
    let success_rate = table.or("success_rate", default.success_rate, |value| value.ratio());
    let consecutive_failures = table.or(
        "consecutive_failures",
        default.consecutive_failures,
        |value| match value.integer(0..=HIGHEST_COUNT)? {
            0 if success_rate == Ok(0.0) => value.wrong(
                "1 or more, or a success_rate above 0.0, or breaker = false: nothing would trip it",
            ),
            failures => Ok(failures),
        },
    );
    let window = table.or("window", default.window, |value| {
        value.duration(Duration::from_millis(100)..=Duration::from_secs(3600))
    });
    let minimum_requests = table.or("minimum_requests", default.minimum_requests, |value| {
        value.integer(1..=HIGHEST_COUNT)
    });
    let open_for = table.or("open_for", default.open_for, |value| {
        value.duration(Duration::from_millis(1)..=Duration::from_secs(3600))
    });
    Ok(Some(Breaker {
        consecutive_failures: consecutive_failures?,
        success_rate: success_rate?,
        window: window?,
        minimum_requests: minimum_requests?,
        open_for: open_for?,
    }))
}

fn tls(table: &Table<'_>) -> Read<UpstreamTls> {
    let server_name = table.required("server_name", SERVER_NAME, |value| {
        value
            .string_that(SERVER_NAME, is_verifiable)
            .map(str::to_owned)
    });
    let ca = table.optional("ca", |value| value.file());
    let identity = identity(table);
    Ok(UpstreamTls {
        server_name: server_name?,
        ca: ca?,
        identity: identity?,
    })
}

/// What a certificate can be verified against.
pub(super) fn is_verifiable(name: &str) -> bool {
    address::is_name(name) || name.parse::<std::net::IpAddr>().is_ok()
}

/// Both files or neither.
pub(super) fn identity(table: &Table<'_>) -> Read<Option<Identity>> {
    let certificate = table.optional("certificate", |value| value.file());
    let key = table.optional("key", |value| value.file());
    match (certificate?, key?) {
        (None, None) => Ok(None),
        (Some(certificate), Some(key)) => Ok(Some(Identity { certificate, key })),
        (Some(_), None) => Err(table.missing(
            "key",
            "the path of a PEM file with the certificate's private key",
        )),
        (None, Some(_)) => Err(table.missing(
            "certificate",
            "the path of a PEM file with the key's certificate, leaf first",
        )),
    }
}
