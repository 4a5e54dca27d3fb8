//! Where the server of a source is, and the TLS that it is spoken to with.

use super::{Keys, Read, Value, address};
use crate::gateway::SourceTls;
use crate::read::cluster;

const TLS_KEYS: Keys = &["server_name", "ca", "certificate", "key"];

pub(super) const SERVER: &str = r#"host:port of a server, such as "10.0.0.2:2379""#;
const SERVER_NAME: &str =
    "the name or IP address that the certificate is verified against (default: the server's host)";

pub(super) fn address(value: &Value<'_>, expected: &str) -> Read<String> {
    let text = value.string(expected)?;
    address::host_and_port(text).or_else(|expected| value.wrong(expected))?;
    Ok(text.to_owned())
}

pub(super) fn tls(value: &Value<'_>) -> Read<SourceTls> {
    let table = value.table(TLS_KEYS)?;
    let server_name = table.optional("server_name", |value| {
        value
            .string_that(SERVER_NAME, cluster::is_verifiable)
            .map(str::to_owned)
    });
    let ca = table.optional("ca", |value| value.file());
    let identity = cluster::identity(&table);
    Ok(SourceTls {
        server_name: server_name?,
        ca: ca?,
        identity: identity?,
    })
}
