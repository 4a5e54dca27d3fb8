//! `[[listeners]]`: one address that speaks HTTP/1.1, HTTP/2 and gRPC.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    pub name: String,
    pub address: SocketAddr,
    /// TLS with ALPN h2 and http/1.1; plain text when `None`.
    pub tls: Option<ListenerTls>,
    /// How long a new connection may be silent, and each read of a request's head may take.
    pub header_timeout: Duration,
    /// HTTP/2 streams that one client connection may have open; 1 to 2^31 - 1.
    pub max_concurrent_streams: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ListenerTls {
    /// PEM, leaf first.
    pub certificate: PathBuf,
    /// PEM: PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
}
