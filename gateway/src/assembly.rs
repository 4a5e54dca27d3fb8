//! From a validated configuration to a running snapshot: names resolved, TLS read, endpoints made or kept.
//!
//! Blocking (files, name resolution): called at start and on reload, never while a request waits.

use std::collections::HashMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Instant;

use forebay_config::gateway as config;
use forebay_config::telemetry::Telemetry;
use forebay_otlp::OtlpError;
use http::uri::Authority;
use tokio::runtime::Handle;

use crate::fleet::{Cluster, Endpoint, EndpointBlueprint};
use crate::gateway::Snapshot;
use crate::redis::{Access, Redis, RedisError};
use crate::security::tls::{self, TlsError, UpstreamTrust};
use crate::telemetry::trace::Tracing;
use crate::traffic::subset::Selector;
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
    #[error("redis: {0}")]
    Redis(#[from] RedisError),
    #[error(transparent)]
    Otlp(#[from] OtlpError),
}

/// What endpoints are made with.
pub struct Assembly {
    /// Where health checks of new endpoints run.
    pub runtime: Handle,
    /// Serving threads, each with connections of its own.
    pub shards: usize,
}

/// A cluster whose names are resolved and whose files are read.
pub struct Plan {
    /// Its place in the configuration.
    number: usize,
    /// With those endpoints that resolve.
    cluster: config::Cluster,
    trust: Option<UpstreamTrust>,
    blueprints: Vec<EndpointBlueprint>,
    /// The others.
    unresolved: Vec<Unresolved>,
}

/// An endpoint whose name does not resolve.
#[derive(Debug, thiserror::Error)]
#[error("'{address}' does not resolve: {reason}")]
pub struct Unresolved {
    /// Its place in the cluster.
    place: usize,
    pub address: String,
    pub reason: String,
}

impl Plan {
    pub fn unresolved(&self) -> &[Unresolved] {
        &self.unresolved
    }
}

impl Assembly {
    /// Builds a snapshot; endpoints and route metrics of `previous` live on where they are the same. Every problem
    /// is reported, not only the first. `is_written`, of a cluster and an address: it is an error if that does not resolve;
    /// others are left out.
    pub fn assemble(
        &self,
        mut config: config::Gateway,
        previous: Option<&Snapshot>,
        is_written: impl Fn(&str, &str) -> bool,
    ) -> Result<Snapshot, Vec<AssemblyError>> {
        let mut problems = Vec::new();
        let mut plans = Vec::new();
        for (number, cluster) in config.clusters.iter_mut().enumerate() {
            let mut former = previous.into_iter().flat_map(|former| &former.clusters);
            let former = former.find(|former| former.config.name == cluster.name);
            match plan(number, cluster, former.map(|former| &**former)) {
                Ok(mut plan) => {
                    cluster.endpoints.clone_from(&plan.cluster.endpoints);
                    let (unresolved, left_out) = plan
                        .unresolved
                        .drain(..)
                        .partition::<Vec<_>, _>(|one| is_written(&cluster.name, &one.address));
                    for one in left_out {
                        log::warn!("cluster '{}' goes on without {one}", cluster.name);
                    }
                    let unresolved = unresolved.into_iter();
                    problems.extend(unresolved.map(|endpoint| AssemblyError::Unresolved {
                        cluster: number,
                        endpoint: endpoint.place,
                        address: endpoint.address,
                        reason: endpoint.reason,
                    }));
                    plans.push(plan);
                }
                Err(problem) => problems.push(problem),
            }
        }
        let access = config.redis.as_ref().map(Access::read).transpose();
        let access = access.unwrap_or_else(|error| {
            problems.push(error.into());
            None
        });
        let tracing = self.tracing(&config.telemetry, previous);
        let tracing = tracing.map_err(|error| problems.push(error.into())).ok();
        let Some(tracing) = tracing.filter(|_| problems.is_empty()) else {
            return Err(problems);
        };
        let redis = access.map(|access| self.redis(access, previous));
        let make = |plan: Plan| {
            let name = plan.cluster.name.as_str();
            let former = previous
                .into_iter()
                .flat_map(|snapshot| &snapshot.clusters)
                .find(|cluster| cluster.config.name == name);
            self.cluster(plan, &config.routes, former.map(|former| &**former))
        };
        let clusters = plans.into_iter().map(make).collect();
        Ok(Snapshot::new(config, clusters, redis, tracing, previous))
    }

    /// A cluster of `previous` with other endpoints. One that does not resolve now, but did, is where it was.
    ///
    /// # Errors
    /// There is no such cluster, or its files are wrong.
    pub fn plan(&self, previous: &Snapshot, cluster: &config::Cluster) -> Result<Plan, String> {
        let mut clusters = previous.clusters.iter();
        let number = clusters.position(|former| former.config.name == cluster.name);
        let number = number.ok_or_else(|| format!("there is no cluster '{}'", cluster.name))?;
        let former = Some(&*previous.clusters[number]);
        plan(number, cluster, former).map_err(|problem| problem.to_string())
    }

    /// `previous` with a cluster as planned; all else is shared with it.
    pub fn with_cluster(&self, previous: &Snapshot, plan: Plan) -> Snapshot {
        let mut clusters = previous.clusters.clone();
        let mut config = previous.config.clone();
        let number = plan.number;
        config.clusters[number] = plan.cluster.clone();
        clusters[number] = self.cluster(plan, &config.routes, Some(&previous.clusters[number]));
        let (redis, tracing) = (previous.redis.clone(), previous.tracing.clone());
        Snapshot::new(config, clusters, redis, tracing, Some(previous))
    }

    /// Spans go on to where they went while the settings are the same.
    fn tracing(
        &self,
        telemetry: &Telemetry,
        previous: Option<&Snapshot>,
    ) -> Result<Arc<Tracing>, OtlpError> {
        let former = previous.filter(|former| former.config.telemetry == *telemetry);
        match former {
            Some(former) => Ok(former.tracing.clone()),
            None => Tracing::start(telemetry, &self.runtime).map(Arc::new),
        }
    }

    /// The connection lives on while Redis is reached in the same way.
    fn redis(&self, access: Access, previous: Option<&Snapshot>) -> Arc<Redis> {
        let former = previous.and_then(|snapshot| snapshot.redis.clone());
        former
            .filter(|former| former.is_reached_by(&access))
            .unwrap_or_else(|| Arc::new(Redis::start(access, &self.runtime)))
    }

    fn cluster(
        &self,
        plan: Plan,
        routes: &[config::Route],
        former: Option<&Cluster>,
    ) -> Arc<Cluster> {
        let mut by_address: HashMap<&str, &Arc<Endpoint>> = HashMap::new();
        for endpoint in former.into_iter().flat_map(Cluster::endpoints) {
            by_address.insert(&endpoint.blueprint.address, endpoint);
        }
        let endpoints = plan.blueprints.into_iter().map(|blueprint| {
            let former = by_address.get(blueprint.address.as_str()).copied();
            self.keep_or_make(blueprint, plan.trust.as_ref(), former)
        });
        let endpoints = endpoints.collect();
        let name = plan.cluster.name.clone();
        let selectors = routes.iter().filter(|route| route.sends_to(&name));
        let selectors = selectors.filter_map(|route| route.subset.as_ref());
        Cluster::new(plan.cluster, endpoints)
            .selected_by(selectors.map(Selector::new).collect())
            .succeed(former)
    }

    fn keep_or_make(
        &self,
        blueprint: EndpointBlueprint,
        trust: Option<&UpstreamTrust>,
        former: Option<&Arc<Endpoint>>,
    ) -> Arc<Endpoint> {
        if let Some(former) = former.filter(|former| former.blueprint.same_as(&blueprint)) {
            return former.clone();
        }
        let same_server = former.filter(|former| former.blueprint.same_place_as(&blueprint));
        let peers = trust.map(|trust| trust.peers.clone());
        let tls = trust.map(|trust| match blueprint.protocol {
            config::Protocol::Grpc => trust.http2.clone(),
            config::Protocol::Http => trust.http1.clone(),
        });
        let target = Target {
            address: blueprint.resolved,
            tls,
            timeout: blueprint.connect_timeout,
        };
        let endpoint = Endpoint::new(blueprint, target, peers, self.shards, Instant::now());
        if let Some(former) = same_server {
            endpoint.inherit(former);
        }
        crate::fleet::watch_health(&endpoint, &self.runtime);
        if endpoint.blueprint.load_reports == config::LoadReports::Stream {
            crate::fleet::follow_reports(&endpoint, &self.runtime);
        }
        endpoint
    }
}

/// Where names of `former` were counts for those that do not resolve now.
fn plan(
    number: usize,
    cluster: &config::Cluster,
    former: Option<&Cluster>,
) -> Result<Plan, AssemblyError> {
    let trust = cluster.tls.as_ref().map(tls::upstream).transpose();
    let trust = trust.map_err(|source| AssemblyError::Tls {
        cluster: number,
        source,
    })?;
    let mut known = HashMap::new();
    for endpoint in former.into_iter().flat_map(Cluster::endpoints) {
        let blueprint = &endpoint.blueprint;
        known.insert(blueprint.address.as_str(), blueprint.resolved);
    }
    let mut plan = Plan {
        number,
        cluster: cluster.clone(),
        trust: None,
        blueprints: Vec::new(),
        unresolved: Vec::new(),
    };
    plan.cluster.endpoints.clear();
    for (place, endpoint) in cluster.endpoints.iter().enumerate() {
        let resolved = resolve(&endpoint.address);
        let resolved =
            resolved.or_else(|reason| known.get(&*endpoint.address).copied().ok_or(reason));
        let made = resolved.and_then(|at| blueprint(cluster, endpoint, at, trust.as_ref()));
        match made {
            Ok(blueprint) => {
                plan.blueprints.push(blueprint);
                plan.cluster.endpoints.push(endpoint.clone());
            }
            Err(reason) => plan.unresolved.push(Unresolved {
                place,
                address: endpoint.address.clone(),
                reason,
            }),
        }
    }
    plan.trust = trust;
    Ok(plan)
}

/// Reads every file that the configuration names and reports what is wrong with them; resolves no names.
pub fn check_files(config: &config::Gateway) -> Vec<AssemblyError> {
    let mut problems = check_listeners(config);
    let redis = config.redis.as_ref().map(Access::read).transpose();
    problems.extend(redis.err().map(AssemblyError::from));
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
    resolved: SocketAddr,
    trust: Option<&UpstreamTrust>,
) -> Result<EndpointBlueprint, String> {
    let parsed: Result<Authority, _> = endpoint.address.parse();
    let authority = parsed.map_err(|e: http::uri::InvalidUri| e.to_string())?;
    Ok(EndpointBlueprint {
        cluster: cluster.name.clone(),
        address: endpoint.address.clone(),
        resolved,
        protocol: cluster.protocol,
        health: cluster.health.clone(),
        breaker: cluster.breaker,
        outlier: cluster.outlier,
        tls: cluster.tls.clone(),
        trust: trust.map(|trust| trust.peers.fingerprint),
        connect_timeout: cluster.connect_timeout,
        load_reports: cluster.load_reports,
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
