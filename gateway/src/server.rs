//! Listeners and services on pingora.
//!
//! pingora ends the process when a listener cannot be bound, so every address is tried first and a failure
//! becomes an error that names it. A port of 0 is settled here too, by a socket that holds the port the kernel
//! chose until pingora listens on it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use forebay_config::gateway as config;
use pingora::listeners::TcpSocketOptions;
use pingora::listeners::tls::TlsSettings;
use pingora::proxy::http_proxy;
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, Server};
use pingora::services::listening::Service;
use socket2::{Domain, Socket, Type};
use tokio::runtime::Handle;

use crate::front::Front;
use crate::gateway::Gateway;
use crate::proxy::Proxy;
use crate::shutdown::Drain;

/// A listener's final address.
pub struct Reserved {
    pub name: String,
    pub address: SocketAddr,
    /// Holds a port that the kernel chose; never listened on.
    holder: Option<Socket>,
}

/// Tries every listener's address, and settles the ports that are 0.
pub fn reserve(listeners: &[config::Listener]) -> anyhow::Result<Vec<Reserved>> {
    listeners
        .iter()
        .map(|listener| {
            let wanted = listener.address;
            let context = || format!("listener '{}' cannot listen on {wanted}", listener.name);
            let socket = Socket::new(Domain::for_address(wanted), Type::STREAM, None)
                .with_context(context)?;
            socket.set_reuse_address(true).with_context(context)?;
            let chosen = wanted.port() == 0;
            if chosen {
                socket.set_reuse_port(true).with_context(context)?;
            }
            socket.bind(&wanted.into()).with_context(context)?;
            let address = socket
                .local_addr()
                .with_context(context)?
                .as_socket()
                .unwrap_or(wanted);
            Ok(Reserved {
                name: listener.name.clone(),
                address,
                holder: chosen.then_some(socket),
            })
        })
        .collect()
}

/// Runs until a signal ends it and what is in flight is done.
pub fn run(
    config: &config::Gateway,
    gateway: Arc<Gateway>,
    sockets: Vec<Reserved>,
    threads: usize,
    drain: Drain,
) -> anyhow::Result<()> {
    let conf = ServerConf {
        threads,
        // One runtime per thread: a request, its connection and its upstream connection share a thread.
        work_stealing: false,
        upstream_keepalive_pool_size: 512,
        grace_period_seconds: Some(seconds(config.drain_timeout)),
        graceful_shutdown_timeout_seconds: Some(1),
        pid_file: String::new(),
        upgrade_sock: String::new(),
        ..Default::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let proxy = Arc::new(http_proxy(
        &server.configuration,
        Proxy {
            gateway: gateway.clone(),
        },
    ));
    for (listener, socket) in config.listeners.iter().zip(&sockets) {
        let front = Front {
            gateway: gateway.clone(),
            proxy: proxy.clone(),
            header_timeout: listener.header_timeout,
            max_concurrent_streams: listener.max_concurrent_streams,
        };
        let mut service = Service::new(listener.name.clone(), front);
        let mut options = TcpSocketOptions::default();
        if socket.holder.is_some() {
            options.so_reuseport = Some(true);
        }
        let address = socket.address.to_string();
        match &listener.tls {
            None => service.add_tcp_with_settings(&address, options),
            Some(tls) => {
                let settings =
                    tls_settings(tls).with_context(|| format!("listener '{}'", listener.name))?;
                service.add_tls_with_settings(&address, Some(options), settings);
            }
        }
        server.add_service(service);
    }
    server.run(RunArgs {
        shutdown_signal: Box::new(drain),
    });
    Ok(())
}

/// Says on standard output where the gateway listens, once it does.
pub fn announce(sockets: &[Reserved], admin: Option<SocketAddr>, control: &Handle) {
    let listeners: Vec<_> = sockets
        .iter()
        .map(|socket| (socket.name.clone(), socket.address))
        .collect();
    control.spawn(async move {
        let mut line = String::from("forebay-gateway listening");
        for (name, address) in listeners {
            while tokio::net::TcpStream::connect(reachable(address))
                .await
                .is_err()
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            line.push_str(&format!(" {name}={address}"));
        }
        match admin {
            Some(address) => line.push_str(&format!(" admin={address}")),
            None => line.push_str(" admin=-"),
        }
        println!("{line}");
    });
}

fn tls_settings(tls: &config::ListenerTls) -> anyhow::Result<TlsSettings> {
    let certificate = tls
        .certificate
        .to_str()
        .context("the certificate's path is not UTF-8")?;
    let key = tls.key.to_str().context("the key's path is not UTF-8")?;
    let mut settings =
        TlsSettings::intermediate(certificate, key).map_err(|e| anyhow::anyhow!("{e}"))?;
    settings.enable_h2();
    Ok(settings)
}

/// An unspecified address is reached over loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let mut address = address;
    if address.ip().is_unspecified() {
        match address {
            SocketAddr::V4(_) => address.set_ip(std::net::Ipv4Addr::LOCALHOST.into()),
            SocketAddr::V6(_) => address.set_ip(std::net::Ipv6Addr::LOCALHOST.into()),
        }
    }
    address
}

fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}
