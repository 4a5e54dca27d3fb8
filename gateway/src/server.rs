//! Listeners and services on pingora.

use std::os::fd::RawFd;
use std::sync::Arc;

use anyhow::Context;
use async_trait::async_trait;
use forebay_config::gateway as config;
use parking_lot::Mutex;
use pingora::connectors::ConnectorOptions;
use pingora::connectors::http::v1::Connector;
use pingora::listeners::tls::TlsSettings;
use pingora::proxy::http_proxy;
use pingora::server::configuration::ServerConf;
use pingora::server::{Fds, ListenFds, RunArgs, Server, ShutdownWatch};
use pingora::services::listening::Service;

use crate::front::Front;
use crate::gateway::Gateway;
use crate::proxy::Proxy;
use crate::shutdown::Drain;
use crate::sockets::Sockets;

/// pingora's service on a socket that is open already.
struct OnSocket {
    service: Service<Front>,
    address: String,
    socket: RawFd,
}

#[async_trait]
impl pingora::services::Service for OnSocket {
    async fn start_service(
        &mut self,
        _: Option<ListenFds>,
        shutdown: ShutdownWatch,
        listeners_per_fd: usize,
    ) {
        // pingora looks its sockets up by address, in a table that it fills by itself but for this.
        let mut sockets = Fds::new();
        sockets.add(self.address.clone(), self.socket);
        let sockets: ListenFds = Arc::new(Mutex::new(sockets));
        self.service
            .start_service(Some(sockets), shutdown, listeners_per_fd)
            .await;
    }

    fn name(&self) -> &str {
        self.service.name()
    }
}

/// Runs until a signal ends it and what is in flight is done.
pub fn run(
    config: &config::Gateway,
    gateway: Arc<Gateway>,
    sockets: &Sockets,
    threads: usize,
    drain: Drain,
) -> anyhow::Result<()> {
    let conf = ServerConf {
        threads,
        // One runtime per thread: a request, its connection and its upstream connection share a thread.
        work_stealing: false,
        upstream_keepalive_pool_size: 512,
        // `Drain` ends the process, in a time that a reload may change.
        grace_period_seconds: Some(u64::from(u32::MAX)),
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
            connector: Connector::new(Some(ConnectorOptions::from_server_conf(
                &server.configuration,
            ))),
        },
    ));
    for listener in &config.listeners {
        let front = Front {
            gateway: gateway.clone(),
            proxy: proxy.clone(),
            header_timeout: listener.header_timeout,
            max_concurrent_streams: listener.max_concurrent_streams,
        };
        let mut service = Service::new(listener.name.clone(), front);
        let (address, socket) = sockets.listener(&listener.name)?;
        let address = address.to_string();
        match &listener.tls {
            None => service.add_tcp(&address),
            Some(tls) => {
                let settings =
                    tls_settings(tls).with_context(|| format!("listener '{}'", listener.name))?;
                service.add_tls_with_settings(&address, None, settings);
            }
        }
        server.add_service(OnSocket {
            service,
            address,
            socket,
        });
    }
    server.run(RunArgs {
        shutdown_signal: Box::new(drain),
    });
    Ok(())
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
