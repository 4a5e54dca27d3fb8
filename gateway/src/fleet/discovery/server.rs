//! Connections to the servers of sources, and the secrets that they ask for.
//!
//! Files are read at each connection, so that rotated certificates, passwords and tokens are used without a reload.

use std::path::Path;
use std::time::Duration;

use forebay_config::gateway::{SourceTls, UpstreamTls};

use crate::security::tls::{self, UpstreamTrust};
use crate::upstream::{ClientTls, Target, Transport};

const CONNECT: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

/// Opens a connection to `host:port`; of several addresses the first that takes it.
pub async fn open(
    server: &str,
    tls: Option<&SourceTls>,
    protocol: Protocol,
) -> Result<Box<dyn Transport>, String> {
    let tls = match tls {
        Some(tls) => Some(client_tls(server, tls, protocol).await?),
        None => None,
    };
    let addresses = tokio::net::lookup_host(server).await;
    let addresses = addresses.map_err(|error| format!("the name does not resolve: {error}"))?;
    let mut reason = "the name has no address".to_owned();
    for address in addresses {
        let target = Target {
            address,
            tls: tls.clone(),
            timeout: CONNECT,
        };
        match target.open().await {
            Ok(transport) => return Ok(transport),
            Err(error) => reason = error.to_string(),
        }
    }
    Err(reason)
}

async fn client_tls(
    server: &str,
    tls: &SourceTls,
    protocol: Protocol,
) -> Result<ClientTls, String> {
    let host = server.rsplit_once(':').map_or(server, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let settings = UpstreamTls {
        server_name: tls.server_name.clone().unwrap_or_else(|| host.to_owned()),
        ca: tls.ca.clone(),
        identity: tls.identity.clone(),
    };
    let read = tokio::task::spawn_blocking(move || tls::upstream(&settings)).await;
    let trust: UpstreamTrust = read
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())?;
    Ok(match protocol {
        Protocol::Http1 => trust.http1,
        Protocol::Http2 => trust.http2,
    })
}

/// The first line of a file.
pub async fn secret(path: &Path) -> Result<String, String> {
    let text = tokio::fs::read_to_string(path).await;
    let text = text.map_err(|error| format!("cannot read '{}': {error}", path.display()))?;
    match text.lines().next().map(str::trim) {
        Some(secret) if !secret.is_empty() => Ok(secret.to_owned()),
        _ => Err(format!("'{}' is empty", path.display())),
    }
}
