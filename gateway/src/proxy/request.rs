//! What changes in a streamed request's headers on its way to an endpoint.

use http::header;
use pingora::Result;
use pingora::http::RequestHeader;
use pingora::proxy::Session;

/// Headers that end at this hop (RFC 9110, section 7.6.1); an upgrade keeps those that make it one.
pub fn end_hop(session: &Session, upstream: &mut RequestHeader) {
    if is_websocket(session.req_header()) {
        return;
    }
    for name in [header::CONNECTION, header::UPGRADE] {
        upstream.remove_header(&name);
    }
    for name in ["keep-alive", "proxy-connection"] {
        upstream.remove_header(name);
    }
}

/// Asks to become a WebSocket. Other upgrades (h2c) end at this hop.
pub fn is_websocket(head: &RequestHeader) -> bool {
    let upgrade = head.headers.get(header::UPGRADE);
    upgrade.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// `X-Forwarded-*`, as reverse proxies add them for the application behind.
pub fn add_forwarded(session: &Session, upstream: &mut RequestHeader) -> Result<()> {
    let client = session.client_addr().and_then(|address| address.as_inet());
    if let Some(client) = client {
        let client = client.ip().to_string();
        let before = upstream.headers.get("x-forwarded-for");
        let chain = match before.and_then(|value| value.to_str().ok()) {
            Some(before) => format!("{before}, {client}"),
            None => client,
        };
        upstream.insert_header("x-forwarded-for", chain)?;
    }
    if !upstream.headers.contains_key("x-forwarded-proto") {
        let tls = session
            .digest()
            .is_some_and(|digest| digest.ssl_digest.is_some());
        upstream.insert_header("x-forwarded-proto", if tls { "https" } else { "http" })?;
    }
    if !upstream.headers.contains_key("x-forwarded-host")
        && let Some(host) = upstream.headers.get(header::HOST).cloned()
    {
        upstream.insert_header("x-forwarded-host", host)?;
    }
    Ok(())
}
