//! Endpoints out of DNS: the addresses of a name, or SRV records (RFC 2782) and the addresses of their targets.
//!
//! Records are asked for again when the shortest-lived of them expires, but not sooner than the interval. A record's
//! weight becomes the endpoint's when it is one that an endpoint may have; of several priorities the lowest number is
//! used, since health checks and breakers decide here who stands in for whom.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use forebay_config::gateway::{Discovery, DiscoverySource, Endpoint};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;

use super::polled::Found;

const HEAVIEST: u16 = 1000;
/// A target's record may have no weight (0) or one beyond what an endpoint may have.
const PLAIN_WEIGHT: u32 = 1;

pub struct DnsSource {
    resolver: TokioResolver,
    name: Name,
    interval: Duration,
}

enum Name {
    Addresses { host: String, port: u16 },
    Services(String),
}

impl DnsSource {
    pub fn new(discovery: &Discovery) -> Result<Self, String> {
        let name = match &discovery.source {
            DiscoverySource::Srv(name) => Name::Services(name.clone()),
            DiscoverySource::Dns { host, port } => Name::Addresses {
                host: host.clone(),
                port: *port,
            },
            other => return Err(format!("{} has no DNS names", other.kind())),
        };
        let provider = TokioRuntimeProvider::default();
        let mut builder = match discovery.nameserver {
            None => TokioResolver::builder(provider)
                .map_err(|error| format!("the system's DNS settings cannot be read: {error}"))?,
            Some(server) => {
                let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
                let on_port = |mut connection: ConnectionConfig| {
                    connection.port = server.port();
                    connection
                };
                let mut nameserver = NameServerConfig::udp_and_tcp(server.ip());
                nameserver.connections = connections.map(on_port).into();
                let config = ResolverConfig::from_parts(None, Vec::new(), vec![nameserver]);
                TokioResolver::builder_with_config(config, provider)
            }
        };
        let options = builder.options_mut();
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        // Looks are as far apart as the records live; kept answers would only be older.
        options.cache_size = 0;
        let resolver = builder
            .build()
            .map_err(|error| format!("no DNS resolver: {error}"))?;
        Ok(Self {
            resolver,
            name,
            interval: discovery.interval,
        })
    }

    pub async fn look(&self) -> Result<Found, String> {
        let mut found = Collected {
            weights: BTreeMap::new(),
            valid_until: None,
        };
        match &self.name {
            Name::Addresses { host, port } => {
                let place = Place {
                    port: *port,
                    weight: PLAIN_WEIGHT,
                };
                self.addresses(host, place, &mut found).await?;
            }
            Name::Services(name) => {
                let records = self.resolver.srv_lookup(name.as_str()).await;
                let records =
                    records.map_err(|error| format!("SRV records of '{name}': {error}"))?;
                found.until(records.valid_until());
                let services = records
                    .answers()
                    .iter()
                    .filter_map(|record| match &record.data {
                        RData::SRV(service) => Some(service),
                        _ => None,
                    });
                let services: Vec<_> = services.collect();
                let first = services.iter().map(|service| service.priority).min();
                for service in services {
                    let target = service.target.to_utf8();
                    // A target of "." says that the service is not offered here.
                    if Some(service.priority) != first || target == "." {
                        continue;
                    }
                    let place = Place {
                        port: service.port,
                        weight: match service.weight {
                            1..=HEAVIEST => u32::from(service.weight),
                            _ => PLAIN_WEIGHT,
                        },
                    };
                    self.addresses(&target, place, &mut found).await?;
                }
            }
        }
        Ok(found.finish(Instant::now(), self.interval))
    }

    async fn addresses(
        &self,
        host: &str,
        place: Place,
        found: &mut Collected,
    ) -> Result<(), String> {
        let addresses = self.resolver.lookup_ip(host).await;
        let addresses = addresses.map_err(|error| format!("addresses of '{host}': {error}"))?;
        found.until(addresses.valid_until());
        for address in addresses.iter() {
            found.add(address, place);
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
struct Place {
    port: u16,
    weight: u32,
}

struct Collected {
    weights: BTreeMap<String, u32>,
    valid_until: Option<Instant>,
}

impl Collected {
    fn until(&mut self, valid_until: Instant) {
        let earlier = self
            .valid_until
            .map_or(valid_until, |other| other.min(valid_until));
        self.valid_until = Some(earlier);
    }

    /// Two names of one address are one endpoint, with the weight of both.
    fn add(&mut self, address: IpAddr, place: Place) {
        let address = std::net::SocketAddr::new(address, place.port).to_string();
        let weight = self.weights.entry(address).or_insert(0);
        *weight = (*weight + place.weight).min(u32::from(HEAVIEST));
    }

    fn finish(self, now: Instant, interval: Duration) -> Found {
        let lives = self
            .valid_until
            .map_or(interval, |until| until.saturating_duration_since(now));
        let endpoint = |(address, weight): (String, u32)| Endpoint::new(address, weight);
        Found {
            endpoints: self.weights.into_iter().map(endpoint).collect(),
            fresh_for: lives.max(interval),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_named_twice_has_both_weights() {
        let now = Instant::now();
        let mut found = Collected {
            weights: BTreeMap::new(),
            valid_until: None,
        };
        for weight in [3, 4] {
            found.add("10.0.0.7".parse().unwrap(), Place { port: 80, weight });
        }
        found.add(
            "::1".parse().unwrap(),
            Place {
                port: 80,
                weight: 1,
            },
        );
        found.until(now + Duration::from_secs(60));
        found.until(now + Duration::from_secs(9));
        let found = found.finish(now, Duration::from_secs(5));
        let named: Vec<_> = found
            .endpoints
            .iter()
            .map(|endpoint| (endpoint.address.as_str(), endpoint.weight))
            .collect();
        assert_eq!(named, [("10.0.0.7:80", 7), ("[::1]:80", 1)]);
        assert_eq!(found.fresh_for, Duration::from_secs(9), "the shortest life");
    }

    #[test]
    fn short_lives_do_not_shorten_the_interval() {
        let now = Instant::now();
        let mut found = Collected {
            weights: BTreeMap::new(),
            valid_until: None,
        };
        found.until(now);
        assert_eq!(
            found.finish(now, Duration::from_secs(5)).fresh_for,
            Duration::from_secs(5)
        );
    }
}
