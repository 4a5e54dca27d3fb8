//! How pingora is to connect to a leased endpoint.

use std::time::Duration;

use forebay_config::gateway::Protocol;
use pingora::prelude::HttpPeer;
use pingora::protocols::TcpKeepalive;

use crate::fleet::{Cluster, Lease};

/// Concurrent streams per pooled connection; part of pingora's reuse key, so one value for all.
const STREAMS: usize = 128;
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// A peer that vanished without a word is noticed after about this long, however quiet the stream may be.
const KEEPALIVE: TcpKeepalive = TcpKeepalive {
    idle: Duration::from_secs(60),
    interval: Duration::from_secs(10),
    count: 3,
    #[cfg(target_os = "linux")]
    user_timeout: Duration::from_secs(0),
};

/// `left`: of a gRPC stream's own deadline; plain HTTP is bounded by the head timer instead.
pub fn peer(cluster: &Cluster, lease: &Lease, left: Option<Duration>) -> Box<HttpPeer> {
    let cluster = &cluster.config;
    let endpoint = lease.endpoint();
    let tls = cluster.tls.as_ref();
    let name = tls.map(|tls| tls.server_name.clone()).unwrap_or_default();
    let mut peer = HttpPeer::new(endpoint.blueprint.resolved, tls.is_some(), name);
    if cluster.protocol == Protocol::Grpc {
        peer.options.set_http_version(2, 2);
        peer.options.max_h2_streams = STREAMS;
        peer.options.h2_stream_window_size = Some(1 << 20);
        peer.options.h2_connection_window_size = Some(4 << 20);
        // A worker that is stopped, not gone, still has a kernel that acknowledges.
        peer.options.h2_ping_interval = Some(PING_INTERVAL);
    }
    if let Some(trust) = &endpoint.trust {
        peer.options.ca = trust.roots.clone();
        peer.client_cert_key = trust.identity.clone();
        // Connections that were opened under other roots or with another certificate are not reused.
        peer.group_key = trust.fingerprint;
    }
    peer.options.connection_timeout = Some(cluster.connect_timeout);
    peer.options.total_connection_timeout = Some(cluster.connect_timeout);
    peer.options.tcp_keepalive = Some(KEEPALIVE);
    peer.options.read_timeout = left;
    Box::new(peer)
}
