//! Which data path a request takes, decided from its head alone.

use std::net::IpAddr;

use forebay_config::gateway::{Mode, Protocol};
use forebay_proto::rest;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use pingora::http::RequestHeader;
use pingora::protocols::http::ServerSession;

use crate::gateway::Snapshot;
use crate::protocol::method::Method;
use crate::protocol::rest_model::RestModel;
use crate::traffic::route::RequestHead;

pub enum Plan {
    /// A unary gRPC call.
    Grpc(Method),
    /// REST of the Open Inference Protocol, to be answered by gRPC workers.
    Rest,
    /// Everything else: streamed through pingora's proxy.
    Proxy,
}

/// A route may be looked for without the model here. A call whose model stands in its body is unary whatever
/// `mode` its route has: the body has to be read before the route is known.
pub fn of(snapshot: &Snapshot, head: &RequestHeader, http2: bool) -> Plan {
    let path = head.uri.path();
    let is_grpc = is_grpc(&head.headers);
    if is_grpc && http2 {
        let method = Method::of(path);
        if snapshot.routes_by_model() && method.is_unary() && method.model_fields().is_some() {
            return Plan::Grpc(method);
        }
        return match route_mode(snapshot, head, None, None) {
            Some((Protocol::Grpc, Mode::Unary)) => Plan::Grpc(method),
            Some((Protocol::Grpc, Mode::Auto)) if method.is_unary() => Plan::Grpc(method),
            Some(_) => Plan::Proxy,
            // The unary path says "no route" in gRPC's own terms.
            None => Plan::Grpc(method),
        };
    }
    if is_grpc {
        return Plan::Proxy;
    }
    if matches!(rest::Call::parse(&head.method, path), Ok(None)) {
        return Plan::Proxy;
    }
    let named = RestModel::of(path);
    let (model, version) = named
        .as_ref()
        .map_or((None, None), RestModel::name_and_version);
    match route_mode(snapshot, head, model, version) {
        Some((Protocol::Grpc, Mode::Auto | Mode::Unary)) => Plan::Rest,
        _ => Plan::Proxy,
    }
}

/// `application/grpc`, alone or with a subtype or parameters; grpc-web is something else.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(|value| value.as_bytes());
    let rest = kind.and_then(|kind| kind.strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

fn route_mode(
    snapshot: &Snapshot,
    head: &RequestHeader,
    model: Option<&str>,
    version: Option<&str>,
) -> Option<(Protocol, Mode)> {
    let route = snapshot.route(&request_head(head, model, version))?;
    Some((route.cluster.config.protocol, route.config.mode))
}

/// The client's address; None where no cluster goes by it.
pub fn source(snapshot: &Snapshot, session: &ServerSession) -> Option<IpAddr> {
    if !snapshot.reads_source {
        return None;
    }
    let address = session.client_addr()?.as_inet()?;
    Some(address.ip())
}

/// What routes are matched against.
pub fn request_head<'a>(
    head: &'a RequestHeader,
    model: Option<&'a str>,
    version: Option<&'a str>,
) -> RequestHead<'a> {
    let host = head
        .uri
        .host()
        .or_else(|| head.headers.get("host").and_then(|host| host.to_str().ok()));
    RequestHead {
        host,
        path: head.uri.path(),
        method: &head.method,
        headers: &head.headers,
        model,
        version,
    }
}
