//! `[[listeners]]`.

use std::time::Duration;

use super::{Keys, Read, Table, Value, address, names};
use crate::defaults;
use crate::gateway::{Listener, ListenerTls};

const KEYS: Keys = &[
    "name",
    "address",
    "header_timeout",
    "max_concurrent_streams",
    "tls",
];
const TLS_KEYS: Keys = &["certificate", "key"];

/// RFC 9113 section 6.5.2 allows 2^32 - 1; flow control and stream identifiers end at 2^31 - 1.
const MOST_STREAMS: u32 = (1 << 31) - 1;

pub(super) fn listener(index: usize, value: &Value<'_>) -> Read<Listener> {
    let table = value.table(KEYS)?;
    let name = names::numbered_name(&table, "listener", index);
    let address = table.required(
        "address",
        r#"where to listen, such as "0.0.0.0:8080""#,
        |value| address::socket_address(&value),
    );
    let header_timeout = table.or("header_timeout", defaults::HEADER_TIMEOUT, |value| {
        value.duration(Duration::from_millis(1)..=Duration::from_secs(3600))
    });
    let max_concurrent_streams = table.or(
        "max_concurrent_streams",
        defaults::MAX_CONCURRENT_STREAMS,
        |value| value.integer(1..=MOST_STREAMS),
    );
    let tls = table.optional("tls", |value| tls(&value.table(TLS_KEYS)?));
    Ok(Listener {
        name: name?,
        address: address?,
        tls: tls?,
        header_timeout: header_timeout?,
        max_concurrent_streams: max_concurrent_streams?,
    })
}

fn tls(table: &Table<'_>) -> Read<ListenerTls> {
    let certificate = table.required(
        "certificate",
        "the path of a PEM file, leaf certificate first",
        |value| value.file(),
    );
    let key = table.required(
        "key",
        "the path of a PEM file with the private key",
        |value| value.file(),
    );
    Ok(ListenerTls {
        certificate: certificate?,
        key: key?,
    })
}
