//! The root of a gateway configuration, and what its tables demand of each other.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::route::Clusters;
use super::{
    Keys, Read, Table, Value, Wrong, address, all, cluster, document, listener, names, redis,
    route, telemetry,
};
use crate::defaults;
use crate::gateway::{Cluster, Gateway, Listener, Match, Route};
use crate::problem::Problems;
use crate::units;

const KEYS: Keys = &[
    "threads",
    "drain_delay",
    "drain_timeout",
    "upgrade_socket",
    "max_buffered",
    "admin",
    "telemetry",
    "redis",
    "listeners",
    "routes",
    "clusters",
];
const ADMIN_KEYS: Keys = &["listen"];

/// `sockaddr_un` has room for 107; the gateway adds a dot and the number of its process.
const LONGEST_SOCKET_PATH: usize = 96;
const LONGEST_DRAIN: Duration = Duration::from_secs(24 * 3600);

pub(crate) fn gateway(text: &str) -> Result<Gateway, Problems> {
    document::read(text, KEYS, root)
}

fn root(table: &Table<'_>) -> Read<Gateway> {
    let threads = table.optional("threads", |value| value.integer(1..=1024));
    let drain_delay = table.or("drain_delay", defaults::DRAIN_DELAY, |value| {
        value.duration(Duration::ZERO..=LONGEST_DRAIN)
    });
    let drain_timeout = table.or("drain_timeout", defaults::DRAIN_TIMEOUT, |value| {
        value.duration(Duration::ZERO..=LONGEST_DRAIN)
    });
    let upgrade_socket = table.optional("upgrade_socket", upgrade_socket);
    let max_buffered = table.optional("max_buffered", |value| value.bytes(1..=1 << 50));
    let admin = table.optional("admin", admin);
    let telemetry = telemetry::telemetry(table, defaults::GATEWAY_SERVICE_NAME);
    let listeners = listeners(table);
    let redis = redis::redis(table);
    let apart = addresses_apart(table);
    let (clusters, routes) = clusters_and_routes(table);
    let sharing = sharing_somewhere(table);
    apart?;
    sharing?;
    let roomy = room_for_two(table, &max_buffered, &routes);
    roomy?;
    Ok(Gateway {
        threads: threads?,
        drain_delay: drain_delay?,
        drain_timeout: drain_timeout?,
        upgrade_socket: upgrade_socket?,
        max_buffered: max_buffered?,
        admin: admin?,
        telemetry: telemetry?,
        redis: redis?,
        listeners: listeners?,
        routes: routes?,
        clusters: clusters?,
    })
}

fn upgrade_socket(value: Value<'_>) -> Read<PathBuf> {
    let fits = |text: &str| (1..=LONGEST_SOCKET_PATH).contains(&text.len()) && !text.contains('\0');
    let expected = format!("the path of a socket, at most {LONGEST_SOCKET_PATH} bytes long");
    value.string_that(&expected, fits).map(PathBuf::from)
}

/// A body and what is made of it must both find room, or the largest ones would never get through.
fn room_for_two(
    root: &Table<'_>,
    max_buffered: &Read<Option<u64>>,
    routes: &Read<Vec<Route>>,
) -> Read<()> {
    let (Ok(Some(most)), Ok(routes)) = (max_buffered, routes) else {
        return Ok(());
    };
    let largest = routes.iter().map(|route| route.max_request_bytes).max();
    let least = largest.unwrap_or_default().saturating_mul(2);
    match root.get("max_buffered") {
        Some(value) if *most < least => value.wrong(format!(
            "at least {}, twice the largest max_request_size",
            units::format_bytes(least)
        )),
        _ => Ok(()),
    }
}

fn admin(value: Value<'_>) -> Read<SocketAddr> {
    let table = value.table(ADMIN_KEYS)?;
    table.required(
        "listen",
        r#"where to listen, such as "127.0.0.1:9901""#,
        |value| address::socket_address(&value),
    )
}

fn listeners(root: &Table<'_>) -> Read<Vec<Listener>> {
    let tables = root.tables("listeners")?;
    if tables.is_empty() {
        return Err(root.missing(
            "listeners",
            "at least one listener: [[listeners]] with an address",
        ));
    }
    let unique = names::unique("a name", names::peek_names(&tables, Some("listener")));
    let listeners = all(tables
        .iter()
        .enumerate()
        .map(|(index, value)| listener::listener(index, value)));
    unique.and(listeners)
}

/// Of the listeners and the admin interface, no two may ask for the same port of the same host.
fn addresses_apart(root: &Table<'_>) -> Read<()> {
    let listeners = root
        .get("listeners")
        .and_then(|value| value.peek_items())
        .unwrap_or_default();
    let addresses = listeners
        .iter()
        .filter_map(|listener| listener.peek("address"));
    let admin = root.get("admin").and_then(|admin| admin.peek("listen"));
    let mut taken: Vec<(SocketAddr, Value<'_>)> = Vec::new();
    let mut outcome = Ok(());
    for value in addresses.chain(admin) {
        let Some(address) = value.as_str().and_then(|text| text.parse().ok()) else {
            continue;
        };
        let other = taken
            .iter()
            .find(|(other, _)| address::overlap(*other, address));
        if let Some((_, other)) = other {
            outcome = value.wrong(names::taken("an address", other.path()));
        }
        taken.push((address, value));
    }
    outcome
}

/// What is to be shared needs a Redis to be shared in.
fn sharing_somewhere(root: &Table<'_>) -> Read<()> {
    let routes = root.get("routes").and_then(|value| value.peek_items());
    let wanted = routes.iter().flatten().flat_map(what_is_shared);
    let wanted = wanted.filter(|shared| shared.as_bool() == Some(true));
    all(wanted.map(|shared| redis::is_there_for(root, &shared))).map(drop::<Vec<()>>)
}

/// `shared` of the route's cache and of its rate limits, as far as it is written.
fn what_is_shared<'a>(route: &Value<'a>) -> impl Iterator<Item = Value<'a>> {
    let limits = route
        .peek("rate_limits")
        .and_then(|value| value.peek_items());
    let tables = route
        .peek("cache")
        .into_iter()
        .chain(limits.into_iter().flatten());
    tables
        .filter_map(|table| table.peek("shared"))
        .collect::<Vec<_>>()
        .into_iter()
}

fn clusters_and_routes(root: &Table<'_>) -> (Read<Vec<Cluster>>, Read<Vec<Route>>) {
    let tables = match root.tables("clusters") {
        Ok(tables) if tables.is_empty() => Err(root.missing(
            "clusters",
            "at least one cluster: [[clusters]] with a name and endpoints",
        )),
        read => read,
    };
    match tables {
        Ok(tables) => {
            let named = names::peek_names(&tables, None);
            let unique = names::unique("a name", named);
            let clusters = all(tables.iter().map(cluster::cluster));
            (unique.and(clusters), routes(root, &tables))
        }
        Err(wrong) => (Err(wrong), routes(root, &[])),
    }
}

fn routes(root: &Table<'_>, clusters: &[Value<'_>]) -> Read<Vec<Route>> {
    let protocol_by_name: Clusters = clusters
        .iter()
        .filter_map(|value| {
            Some((
                value.peek("name")?.as_str()?.to_owned(),
                cluster::peek_protocol(value),
            ))
        })
        .collect();
    let tables = root.tables("routes")?;
    if tables.is_empty() {
        return match clusters {
            [only] => sole_route(only),
            [] => Ok(Vec::new()),
            _ => Err(root.missing(
                "routes",
                "at least one route, as there are several clusters to choose from",
            )),
        };
    }
    let unique = names::unique("a name", names::peek_names(&tables, Some("route")));
    let read: Vec<_> = tables
        .iter()
        .enumerate()
        .map(|(index, value)| route::route(index, value, &protocol_by_name))
        .collect();
    let matches = read.iter().map(|read| {
        read.as_ref()
            .ok()
            .and_then(|(matches, _)| matches.as_ref().ok())
    });
    let apart = matches_apart(&tables, &matches.collect::<Vec<_>>());
    let routes = all(read
        .into_iter()
        .map(|read| read.and_then(|(_, route)| route)));
    unique.and(apart).and(routes)
}

/// A cluster whose name is wrong has no route, and has been told about.
fn sole_route(cluster: &Value<'_>) -> Read<Vec<Route>> {
    let name = cluster.peek("name").and_then(|name| name.as_str());
    Ok(name.map(route::catch_all).into_iter().collect())
}

/// Routes with equal conditions: the first would take every request of the second.
fn matches_apart(routes: &[Value<'_>], matches: &[Option<&Match>]) -> Read<()> {
    let named = |index: usize| {
        let path = routes[index].path();
        let name = routes[index].peek("name").and_then(|name| name.as_str());
        name.map_or_else(|| path.to_owned(), |name| format!("{path} ({name:?})"))
    };
    let mut outcome = Ok(());
    for (index, later) in matches.iter().enumerate() {
        let earlier = matches[..index]
            .iter()
            .position(|earlier| later.is_some() && earlier == later);
        if let Some(earlier) = earlier {
            outcome = Err(equal_matches(
                &routes[index],
                &named(index),
                &named(earlier),
            ));
        }
    }
    outcome
}

fn equal_matches(route: &Value<'_>, later: &str, earlier: &str) -> Wrong {
    route.record(format!(
        "a match of its own: {earlier} and {later} have equal conditions, so no request could ever tell them apart"
    ))
}
