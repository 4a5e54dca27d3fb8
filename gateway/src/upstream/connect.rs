//! Opening a transport to an endpoint: TCP with Nagle off, TLS verified by rustls when the cluster asks for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Where to connect and how.
#[derive(Clone)]
pub struct Target {
    pub address: SocketAddr,
    pub tls: Option<ClientTls>,
    pub timeout: Duration,
}

/// A client configuration with its ALPN set, and the name that certificates are verified against.
#[derive(Clone)]
pub struct ClientTls {
    pub config: Arc<rustls::ClientConfig>,
    pub name: ServerName<'static>,
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectError {
    #[error("no connection to {address} within {timeout:?}")]
    TimedOut {
        address: SocketAddr,
        timeout: Duration,
    },
    #[error("cannot connect to {address}: {reason}")]
    Tcp { address: SocketAddr, reason: String },
    #[error("tls with {address} failed: {reason}")]
    Tls { address: SocketAddr, reason: String },
    #[error("http/2 with {address} failed: {reason}")]
    Http2 { address: SocketAddr, reason: String },
}

/// Any transport that a connection can be spoken over.
pub trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

impl Target {
    /// Opens the transport within the connect timeout, TLS handshake included.
    pub async fn open(&self) -> Result<Box<dyn Transport>, ConnectError> {
        let address = self.address;
        let work = async {
            let stream = TcpStream::connect(address)
                .await
                .map_err(|e| ConnectError::Tcp {
                    address,
                    reason: e.to_string(),
                })?;
            stream.set_nodelay(true).map_err(|e| ConnectError::Tcp {
                address,
                reason: e.to_string(),
            })?;
            let Some(tls) = &self.tls else {
                return Ok(Box::new(stream) as Box<dyn Transport>);
            };
            let stream = TlsConnector::from(tls.config.clone())
                .connect(tls.name.clone(), stream)
                .await
                .map_err(|e| ConnectError::Tls {
                    address,
                    reason: e.to_string(),
                })?;
            Ok(Box::new(stream) as Box<dyn Transport>)
        };
        match tokio::time::timeout(self.timeout, work).await {
            Ok(done) => done,
            Err(_) => Err(ConnectError::TimedOut {
                address,
                timeout: self.timeout,
            }),
        }
    }
}
