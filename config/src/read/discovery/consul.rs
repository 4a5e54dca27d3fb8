//! `[clusters.discovery.consul]`.

use super::server::{self, SERVER};
use super::{Keys, Read, Value, all, names};
use crate::defaults;
use crate::gateway::{Consul, DiscoverySource};

const KEYS: Keys = &[
    "service",
    "server",
    "tags",
    "datacenter",
    "token_file",
    "tls",
];

const SERVICE: &str = r#"the name of a service, such as "workers""#;
const TAGS: &str = r#"tags that instances have, such as ["v2"]"#;
const DATACENTER: &str = r#"the name of a datacenter, such as "dc1""#;

pub(super) fn consul(value: &Value<'_>) -> Read<DiscoverySource> {
    let table = value.table(KEYS)?;
    let service = table.required("service", SERVICE, |value| text(&value, SERVICE));
    let server = table.or("server", defaults::CONSUL.to_owned(), |value| {
        server::address(&value, SERVER)
    });
    let tags = table.or("tags", Vec::new(), |value| tags(&value));
    let datacenter = table.optional("datacenter", |value| text(&value, DATACENTER));
    let token_file = table.optional("token_file", |value| value.file());
    let tls = table.optional("tls", |value| server::tls(&value));
    Ok(DiscoverySource::Consul(Consul {
        server: server?,
        service: service?,
        tags: tags?,
        datacenter: datacenter?,
        token_file: token_file?,
        tls: tls?,
    }))
}

fn tags(value: &Value<'_>) -> Read<Vec<String>> {
    let items = value.array(TAGS)?;
    let read = all(items.iter().map(|item| text(item, "a tag of a service")));
    let written = items
        .iter()
        .filter_map(|item| Some((item.clone(), item.as_str()?)));
    names::unique("a tag", written).and(read)
}

fn text(value: &Value<'_>, expected: &str) -> Read<String> {
    value
        .string_that(expected, |text| !text.is_empty())
        .map(str::to_owned)
}
