//! `[clusters.discovery]`, and the file that one of its sources names.

mod consul;
mod etcd;
mod kubernetes;
mod server;

use std::time::Duration;

use super::{Keys, Read, Table, Value, address, all, document, endpoints, names};
use crate::defaults;
use crate::gateway::{Discovery, DiscoverySource, Endpoint};
use crate::problem::Problems;

const KEYS: Keys = &[
    "file",
    "dns",
    "srv",
    "etcd",
    "consul",
    "kubernetes",
    "interval",
    "nameserver",
];
const FILE_KEYS: Keys = &["endpoints"];

const SOURCES: &str =
    r#"one of file, dns, srv, etcd, consul and kubernetes, such as dns = "workers.internal:8001""#;
const DNS: &str = r#"a name and a port, such as "workers.internal:8001""#;
const SRV: &str = r#"the name of SRV records, such as "_grpc._tcp.workers.internal""#;

pub(super) fn discovery(cluster: &Table<'_>) -> Read<Option<Discovery>> {
    let Some(value) = cluster.get("discovery") else {
        return Ok(None);
    };
    let table = value.table(KEYS)?;
    let interval = table.or("interval", defaults::DISCOVERY_INTERVAL, |value| {
        value.duration(Duration::from_millis(100)..=Duration::from_secs(3600))
    });
    let file = table.optional("file", |value| value.file().map(DiscoverySource::File));
    let dns = table.optional("dns", |value| dns(&value));
    let srv = table.optional("srv", |value| srv(&value));
    let etcd = table.optional("etcd", |value| etcd::etcd(&value));
    let consul = table.optional("consul", |value| consul::consul(&value));
    let kubernetes = table.optional("kubernetes", |value| kubernetes::kubernetes(&value));
    let others = [
        ("file", &file),
        ("etcd", &etcd),
        ("consul", &consul),
        ("kubernetes", &kubernetes),
    ];
    let other = others.iter().find(|(_, read)| **read != Ok(None));
    let nameserver = table.optional("nameserver", |value| {
        let expected = r#"the IP address and port of a DNS server, such as "10.0.0.2:53""#;
        match (address::socket_address_of(&value, expected)?, other) {
            (address, _) if address.port() == 0 => value.wrong(expected),
            (_, Some((source, _))) => value.wrong(format!(
                "no such key beside {source}: it is for dns and srv"
            )),
            (address, None) => Ok(address),
        }
    });
    let written = [file, dns, srv, etcd, consul, kubernetes];
    if written.iter().filter(|source| **source != Ok(None)).count() != 1 {
        return value.wrong(SOURCES);
    }
    let mut source = None;
    for read in written {
        source = source.or(read?);
    }
    let Some(source) = source else {
        return value.wrong(SOURCES);
    };
    Ok(Some(Discovery {
        source,
        interval: interval?,
        nameserver: nameserver?,
    }))
}

fn dns(value: &Value<'_>) -> Read<DiscoverySource> {
    let text = value.string(DNS)?;
    match address::host_and_port(text) {
        Ok((host, port)) if address::is_name(host) => Ok(DiscoverySource::Dns {
            host: host.to_owned(),
            port,
        }),
        _ => value.wrong(DNS),
    }
}

fn srv(value: &Value<'_>) -> Read<DiscoverySource> {
    let text = value.string_that(SRV, address::is_name)?;
    Ok(DiscoverySource::Srv(text.to_owned()))
}

/// The file of a discovery; it may name no endpoints at all.
pub(crate) fn endpoints_file(text: &str) -> Result<Vec<Endpoint>, Problems> {
    document::read(text, FILE_KEYS, |table| {
        let expected = format!("an array of {}", endpoints::EXPECTED);
        table.required("endpoints", &expected, |value| endpoints::list(&value))
    })
}
