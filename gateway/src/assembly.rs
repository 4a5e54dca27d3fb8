//! From a validated configuration to a running snapshot: names resolved, TLS read, endpoints made or kept.
//!
//! Blocking (files, name resolution): called at start and on reload, never while a request waits.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Instant;

use forebay_config::gateway as config;
use http::uri::Authority;
use tokio::runtime::Handle;

use crate::fleet::{Cluster, Endpoint, EndpointBlueprint};
use crate::gateway::Snapshot;
use crate::security::tls::{self, TlsError, UpstreamTrust};
use crate::telemetry::metrics::RouteMetrics;
use crate::upstream::Target;

#[derive(Debug, thiserror::Error)]
pub enum AssemblyError {
    #[error(
        "clusters[{cluster}].endpoints[{endpoint}].address: '{address}' does not resolve: {reason}"
    )]
    Unresolved {
        cluster: usize,
        endpoint: usize,
        address: String,
        reason: String,
    },
    #[error("clusters[{cluster}].tls: {source}")]
    Tls { cluster: usize, source: TlsError },
    #[error("listeners[{listener}].tls: {source}")]
    ListenerTls { listener: usize, source: TlsError },
}

/// Builds a snapshot; endpoints and route metrics of `previous` live on where they are the same. Health checks
/// of new endpoints run on `runtime`. Every problem is reported, not only the first.
pub fn assemble(
    config: config::Gateway,
    previous: Option<&Snapshot>,
    runtime: &Handle,
    shards: usize,
) -> Result<Snapshot, Vec<AssemblyError>> {
    let mut problems = Vec::new();
    let mut planned = Vec::new();
    for (number, cluster) in config.clusters.iter().enumerate() {
        let trust = match cluster.tls.as_ref().map(tls::upstream).transpose() {
            Ok(trust) => trust,
            Err(source) => {
                let cluster = number;
                problems.push(AssemblyError::Tls { cluster, source });
                continue;
            }
        };
        let mut blueprints = Vec::new();
        for (place, endpoint) in cluster.endpoints.iter().enumerate() {
            match blueprint(cluster, endpoint, trust.as_ref()) {
                Ok(blueprint) => blueprints.push(blueprint),
                Err(reason) => problems.push(AssemblyError::Unresolved {
                    cluster: number,
                    endpoint: place,
                    address: endpoint.address.clone(),
                    reason,
                }),
            }
        }
        planned.push((cluster.clone(), trust, blueprints));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let clusters = planned
        .into_iter()
        .map(|(cluster, trust, blueprints)| {
            let endpoints = blueprints
                .into_iter()
                .map(|blueprint| keep_or_make(blueprint, trust.clone(), previous, runtime, shards))
                .collect();
            Arc::new(Cluster::new(cluster, endpoints))
        })
        .collect();
    let metrics = config
        .routes
        .iter()
        .map(|route| route_metrics(&route.name, previous))
        .collect();
    Ok(Snapshot::new(config, clusters, metrics))
}

/// Reads every file that the configuration names and reports what is wrong with them; resolves no names.
pub fn check_files(config: &config::Gateway) -> Vec<AssemblyError> {
    let mut problems = check_listeners(config);
    for (cluster, config) in config.clusters.iter().enumerate() {
        if let Some(Err(source)) = config.tls.as_ref().map(tls::upstream) {
            problems.push(AssemblyError::Tls { cluster, source });
        }
    }
    problems
}

fn check_listeners(config: &config::Gateway) -> Vec<AssemblyError> {
    let broken = |(listener, config): (usize, &config::Listener)| {
        let source = tls::check_listener(config.tls.as_ref()?).err()?;
        Some(AssemblyError::ListenerTls { listener, source })
    };
    config
        .listeners
        .iter()
        .enumerate()
        .filter_map(broken)
        .collect()
}

fn blueprint(
    cluster: &config::Cluster,
    endpoint: &config::Endpoint,
    trust: Option<&UpstreamTrust>,
) -> Result<EndpointBlueprint, String> {
    let parsed: Result<Authority, _> = endpoint.address.parse();
    let authority = parsed.map_err(|e: http::uri::InvalidUri| e.to_string())?;
    Ok(EndpointBlueprint {
        cluster: cluster.name.clone(),
        address: endpoint.address.clone(),
        resolved: resolve(&endpoint.address)?,
        protocol: cluster.protocol,
        health: cluster.health.clone(),
        breaker: cluster.breaker,
        tls: cluster.tls.clone(),
        trust: trust.map(|trust| trust.fingerprint),
        connect_timeout: cluster.connect_timeout,
        authority: match &cluster.tls {
            Some(tls) => authority_for(&tls.server_name, authority),
            None => authority,
        },
    })
}

/// Behind TLS the authority is the verified name, with the endpoint's port.
fn authority_for(name: &str, address: Authority) -> Authority {
    let port = address
        .port()
        .map(|port| format!(":{port}"))
        .unwrap_or_default();
    format!("{name}{port}").parse().unwrap_or(address)
}

/// IPv4 first, as most workers listen there only.
fn resolve(address: &str) -> Result<SocketAddr, String> {
    let found: Vec<SocketAddr> = address
        .to_socket_addrs()
        .map_err(|e| e.to_string())?
        .collect();
    found
        .iter()
        .find(|address| address.is_ipv4())
        .or(found.first())
        .copied()
        .ok_or_else(|| "the name has no address".to_owned())
}

fn keep_or_make(
    blueprint: EndpointBlueprint,
    trust: Option<UpstreamTrust>,
    previous: Option<&Snapshot>,
    runtime: &Handle,
    shards: usize,
) -> Arc<Endpoint> {
    let former = || {
        let clusters = previous.into_iter().flat_map(|snapshot| &snapshot.clusters);
        clusters.flat_map(|cluster| cluster.endpoints())
    };
    if let Some(endpoint) = former().find(|endpoint| endpoint.blueprint.same_as(&blueprint)) {
        return endpoint.clone();
    }
    let same_server = former()
        .find(|endpoint| endpoint.blueprint.same_place_as(&blueprint))
        .cloned();
    let roots = trust.as_ref().and_then(|trust| trust.roots.clone());
    let tls = trust.map(|trust| match blueprint.protocol {
        config::Protocol::Grpc => trust.http2,
        config::Protocol::Http => trust.http1,
    });
    let target = Target {
        address: blueprint.resolved,
        tls,
        timeout: blueprint.connect_timeout,
    };
    let endpoint = Endpoint::new(blueprint, target, roots, shards, Instant::now());
    if let Some(former) = same_server {
        endpoint.inherit(&former);
    }
    crate::fleet::watch_health(&endpoint, runtime);
    endpoint
}

fn route_metrics(name: &str, previous: Option<&Snapshot>) -> Arc<RouteMetrics> {
    previous
        .and_then(|snapshot| {
            snapshot
                .routes
                .iter()
                .find(|route| route.config.name == name)
        })
        .map(|route| route.metrics.clone())
        .unwrap_or_default()
}
