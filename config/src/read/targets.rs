//! Which clusters a route leads to: `cluster` or `[[routes.split]]`, `[routes.sticky]` and `[routes.fallback]`.

use super::route::{Clusters, known};
use super::{Keys, Read, Table, Value, all, http, names};
use crate::defaults;
use crate::gateway::{Fallback, Protocol, Side, Split, StaticAnswer, StaticBody, Sticky};

const SIDE_KEYS: Keys = &["cluster", "weight"];
const STICKY_KEYS: Keys = &["header", "cookie", "source"];
const FALLBACK_KEYS: Keys = &[
    "cluster",
    "status",
    "content_type",
    "body",
    "grpc_code",
    "grpc_message",
];

const STICKY: &str =
    r#"exactly one of { header = "x-user" }, { cookie = "session" }, { source = true }"#;
const FALLBACK: &str = r#"the name of a cluster, or a table such as { status = 503, body = "{}" }"#;
const HEAVIEST: u32 = 1_000_000;
/// HTTP statuses that never have a body.
const BODILESS: [u16; 3] = [204, 205, 304];

/// Where a route's requests go.
pub(super) struct Targets {
    /// The only cluster, or that of the first side.
    pub cluster: String,
    pub split: Option<Split>,
}

/// Either the `cluster` or the `split`.
pub(super) fn targets(route: &Table<'_>, clusters: &Clusters) -> Read<Targets> {
    let split = route.optional("split", |value| sides(&value, clusters));
    let sticky = route.optional("sticky", |value| {
        let sticky = sticky(&value)?;
        match route.get("split") {
            Some(_) => Ok(sticky),
            None => value.wrong("no sticky without a split: there is but one side"),
        }
    });
    if split == Ok(None) {
        let cluster = route.required("cluster", &known(clusters, ""), |value| {
            named(&value, clusters)
        });
        sticky?;
        return Ok(Targets {
            cluster: cluster?,
            split: None,
        });
    }
    let alone = route.optional("cluster", |value| {
        value.wrong::<()>("no cluster beside a split, which names its clusters itself")
    });
    let (sides, sticky) = (split?.unwrap_or_default(), sticky?);
    alone?;
    Ok(Targets {
        cluster: sides
            .first()
            .map(|side| side.cluster.clone())
            .unwrap_or_default(),
        split: Some(Split { sides, sticky }),
    })
}

/// The protocol that the route's clusters speak, as far as it can be told, without a word about what is wrong.
pub(super) fn peek_protocol(route: &Table<'_>, clusters: &Clusters) -> Option<Protocol> {
    let named = match route.get("cluster") {
        Some(cluster) => cluster,
        None => route.get("split")?.peek_items()?.first()?.peek("cluster")?,
    };
    clusters.get(named.as_str()?).copied().flatten()
}

pub(super) fn named(value: &Value<'_>, clusters: &Clusters) -> Read<String> {
    let cluster = value.string(&known(clusters, ""))?;
    // With no cluster at all, that is the problem, and has been told.
    if clusters.is_empty() || clusters.contains_key(cluster) {
        Ok(cluster.to_owned())
    } else {
        value.wrong(known(clusters, cluster))
    }
}

/// The same, but of a cluster that speaks what the route's others do.
fn named_alike(value: &Value<'_>, clusters: &Clusters, protocol: Option<Protocol>) -> Read<String> {
    let name = named(value, clusters)?;
    match (clusters.get(&name).copied().flatten(), protocol) {
        (Some(own), Some(wanted)) if own != wanted => value.wrong(
            "a cluster with the protocol of the route's others: a request is sent to any of them",
        ),
        _ => Ok(name),
    }
}

fn sides(value: &Value<'_>, clusters: &Clusters) -> Read<Vec<Side>> {
    let tables = value.array("tables, each under [[routes.split]]")?;
    if tables.is_empty() {
        return value.wrong("at least one side: [[routes.split]] with a cluster and a weight");
    }
    let first = tables[0].peek("cluster").and_then(|name| name.as_str());
    let protocol = first.and_then(|name| clusters.get(name).copied().flatten());
    let read = all(tables.iter().map(|side| {
        let table = side.table(SIDE_KEYS)?;
        let cluster = table.required("cluster", &known(clusters, ""), |value| {
            named_alike(&value, clusters, protocol)
        });
        let weight = table.or("weight", defaults::SIDE_WEIGHT, |value| {
            value.integer(0..=HEAVIEST)
        });
        Ok(Side {
            cluster: cluster?,
            weight: weight?,
        })
    }));
    let read = read?;
    let named = tables.iter().filter_map(|table| table.peek("cluster"));
    names::unique(
        "a cluster",
        named.zip(read.iter().map(|side| &side.cluster)),
    )?;
    if read.iter().all(|side| side.weight == 0) {
        return value.wrong("a side with a weight above 0: nothing would take the requests");
    }
    Ok(read)
}

fn sticky(value: &Value<'_>) -> Read<Sticky> {
    if !value.is_table() {
        return value.wrong(STICKY);
    }
    let table = value.table(STICKY_KEYS)?;
    let header = table.optional("header", |value| {
        let name = value.string_that("the name of a header, such as \"x-user\"", http::is_token)?;
        Ok(name.to_ascii_lowercase())
    });
    let cookie = table.optional("cookie", |value| {
        value.string_that("the name of a cookie, such as \"session\"", http::is_token)
    });
    let source = table.optional("source", |value| match value.boolean()? {
        true => Ok(()),
        false => value.wrong("true, or no such key"),
    });
    match (header?, cookie?, source?) {
        (Some(header), None, None) => Ok(Sticky::Header(header)),
        (None, Some(cookie), None) => Ok(Sticky::Cookie(cookie.to_owned())),
        (None, None, Some(())) => Ok(Sticky::Source),
        _ => value.wrong(STICKY),
    }
}

/// `targets`: where the route's requests go otherwise.
pub(super) fn fallback(
    route: &Table<'_>,
    clusters: &Clusters,
    targets: Option<&Targets>,
) -> Read<Option<Fallback>> {
    let protocol = peek_protocol(route, clusters);
    let cluster = |value: &Value<'_>| {
        let name = named_alike(value, clusters, protocol)?;
        match targets {
            Some(own) if own.split.is_none() && own.cluster == name => {
                value.wrong("another cluster than the one that it stands in for")
            }
            _ => Ok(name),
        }
    };
    route.optional("fallback", |value| {
        if value.as_str().is_some() {
            return Ok(Fallback {
                cluster: Some(cluster(&value)?),
                answer: None,
            });
        }
        if !value.is_table() {
            return value.wrong(FALLBACK);
        }
        let table = value.table(FALLBACK_KEYS)?;
        let cluster = table.optional("cluster", |value| cluster(&value));
        let answer = static_answer(&table);
        match (cluster?, answer?) {
            (None, None) => value.wrong(FALLBACK),
            (cluster, answer) => Ok(Fallback { cluster, answer }),
        }
    })
}

/// None: no key says anything about one.
fn static_answer(table: &Table<'_>) -> Read<Option<StaticAnswer>> {
    let status = table.optional("status", |value| match value.integer(200..=599)? {
        status if BODILESS.contains(&status) => {
            value.wrong("a status whose answers have a body, such as 200 or 503")
        }
        status => Ok(status),
    });
    let body = table.optional("body", |value| value.string("the body as a string"));
    let content_type = table.optional("content_type", |value| {
        let of_header = |text: &str| !text.is_empty() && http::is_field_value(text);
        let kind = value.string_that("a media type such as \"application/json\"", of_header)?;
        match table.get("body") {
            Some(_) => Ok(kind),
            None => value.wrong("no content_type without a body"),
        }
    });
    let grpc_code = table.optional("grpc_code", |value| value.choice(&GRPC_CODES));
    let grpc_message = table.optional("grpc_message", |value| value.string("a message"));
    let (status, body, content_type) = (status?, body?, content_type?);
    let (grpc_code, grpc_message) = (grpc_code?, grpc_message?);
    if status.is_none() && body.is_none() && grpc_code.is_none() && grpc_message.is_none() {
        return Ok(None);
    }
    Ok(Some(StaticAnswer {
        status: status.unwrap_or(defaults::FALLBACK_STATUS),
        body: body.map(|text| StaticBody {
            content_type: content_type
                .unwrap_or(defaults::FALLBACK_CONTENT_TYPE)
                .to_owned(),
            text: text.to_owned(),
        }),
        grpc_code: grpc_code.unwrap_or(defaults::FALLBACK_GRPC_CODE),
        grpc_message: grpc_message
            .unwrap_or(defaults::FALLBACK_GRPC_MESSAGE)
            .to_owned(),
    }))
}

/// All but OK: a gRPC answer that is OK has a message, which text cannot be.
const GRPC_CODES: [(&str, u8); 16] = [
    ("CANCELLED", 1),
    ("UNKNOWN", 2),
    ("INVALID_ARGUMENT", 3),
    ("DEADLINE_EXCEEDED", 4),
    ("NOT_FOUND", 5),
    ("ALREADY_EXISTS", 6),
    ("PERMISSION_DENIED", 7),
    ("RESOURCE_EXHAUSTED", 8),
    ("FAILED_PRECONDITION", 9),
    ("ABORTED", 10),
    ("OUT_OF_RANGE", 11),
    ("UNIMPLEMENTED", 12),
    ("INTERNAL", 13),
    ("UNAVAILABLE", 14),
    ("DATA_LOSS", 15),
    ("UNAUTHENTICATED", 16),
];
