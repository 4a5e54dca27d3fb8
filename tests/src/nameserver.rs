//! A DNS server on loopback, over UDP and TCP, whose zone the test changes as it runs.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use hickory_server::Server;
use hickory_server::net::runtime::TokioRuntimeProvider;
use hickory_server::proto::rr::rdata::{A, AAAA, SOA, SRV};
use hickory_server::proto::rr::{LowerName, Name, RData, Record, RrKey};
use hickory_server::store::in_memory::InMemoryZoneHandler;
use hickory_server::zone_handler::{AxfrPolicy, Catalog, ZoneType};
use tokio::net::{TcpListener, UdpSocket};

const ZONE: &str = "test.";
/// Seconds that every record lives.
const LIFE: u32 = 0;

pub struct Nameserver {
    pub address: SocketAddr,
    zone: Arc<InMemoryZoneHandler<TokioRuntimeProvider>>,
    server: Server<Catalog>,
}

/// One SRV record.
pub struct Service {
    pub priority: u16,
    pub weight: u16,
    pub port: u16,
    /// A name in the zone, without it.
    pub target: &'static str,
}

impl Nameserver {
    pub async fn start() -> anyhow::Result<Self> {
        let origin = Name::from_ascii(ZONE)?;
        let zone = Arc::new(InMemoryZoneHandler::empty(
            origin.clone(),
            ZoneType::Primary,
            AxfrPolicy::Deny,
        ));
        let soa = SOA::new(origin.clone(), origin.clone(), 1, 1, 1, 1, LIFE);
        zone.upsert(Record::from_rdata(origin.clone(), LIFE, RData::SOA(soa)), 1)
            .await;
        let mut catalog = Catalog::new();
        catalog.upsert(LowerName::new(&origin), vec![zone.clone()]);
        let (udp, tcp) = same_port().await?;
        let address = udp.local_addr()?;
        let mut server = Server::new(catalog);
        server.register_socket(udp);
        server.register_listener(tcp, Duration::from_secs(5), 4096);
        Ok(Self {
            address,
            zone,
            server,
        })
    }

    /// `name` has just these addresses from now on.
    pub async fn addresses(&self, name: &str, addresses: &[IpAddr]) -> anyhow::Result<()> {
        let data = addresses.iter().map(|address| match address {
            IpAddr::V4(address) => RData::A(A(*address)),
            IpAddr::V6(address) => RData::AAAA(AAAA(*address)),
        });
        self.replace(name, data.collect()).await
    }

    /// `name` has just these services from now on.
    pub async fn services(&self, name: &str, services: &[Service]) -> anyhow::Result<()> {
        let mut data = Vec::new();
        for service in services {
            let target = full(service.target)?;
            let record = SRV::new(service.priority, service.weight, service.port, target);
            data.push(RData::SRV(record));
        }
        self.replace(name, data).await
    }

    async fn replace(&self, name: &str, data: Vec<RData>) -> anyhow::Result<()> {
        let name = full(name)?;
        let lower = LowerName::new(&name);
        let mut records = self.zone.records_mut().await;
        records.retain(|key: &RrKey, _| key.name != lower);
        drop(records);
        for data in data {
            let record = Record::from_rdata(name.clone(), LIFE, data);
            if !self.zone.upsert(record, 2).await {
                return Err(anyhow!("the zone does not take a record of '{name}'"));
            }
        }
        Ok(())
    }

    /// Answers nobody any more.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        Ok(self.server.shutdown_gracefully().await?)
    }
}

fn full(name: &str) -> anyhow::Result<Name> {
    Ok(Name::from_ascii(format!("{name}.{ZONE}"))?)
}

/// Sockets on one port that is free over both.
async fn same_port() -> anyhow::Result<(UdpSocket, TcpListener)> {
    const TRIES: usize = 50;
    for _ in 0..TRIES {
        let udp = UdpSocket::bind("127.0.0.1:0").await?;
        if let Ok(tcp) = TcpListener::bind(udp.local_addr()?).await {
            return Ok((udp, tcp));
        }
    }
    anyhow::bail!("no port is free over UDP and TCP")
}
