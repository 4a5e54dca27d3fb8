//! Opening a transport to an endpoint: TCP with Nagle off, TLS verified by rustls when the cluster asks for it.
//!
//! With TLS 1.3 the client's side of the handshake is over before the server has looked at the client's certificate, so
//! a refusal comes as the first thing read, and only surely so while nothing was sent. HTTP/2 servers begin with their
//! settings (RFC 9113, section 3.4), and these are waited for: whoever sends them has accepted us.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::AlertDescription;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The longest wait for settings: a server may keep them until it has ours.
const GREETING: Duration = Duration::from_millis(100);

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
    #[error("{address} refuses the gateway's certificate, or misses one: {reason}")]
    Unwelcome { address: SocketAddr, reason: String },
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
            let mut stream = TlsConnector::from(tls.config.clone())
                .connect(tls.name.clone(), stream)
                .await
                .map_err(|e| tls_error(address, &e))?;
            greeting(&mut stream)
                .await
                .map_err(|e| tls_error(address, &e))?;
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

/// Waits for the first bytes of an HTTP/2 server, which stay to be read.
async fn greeting(stream: &mut TlsStream<TcpStream>) -> io::Result<()> {
    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Ok(());
    }
    match tokio::time::timeout(GREETING, stream.fill_buf()).await {
        Ok(Ok([])) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(read) => read.map(drop),
        Err(_) => Ok(()),
    }
}

/// Tells the alerts of RFC 8446, section 6.2, that are about a client's certificate from all others.
fn tls_error(address: SocketAddr, error: &io::Error) -> ConnectError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    let reason = error.to_string();
    match inner {
        Some(rustls::Error::AlertReceived(
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError
            | AlertDescription::CertificateRequired,
        )) => ConnectError::Unwelcome { address, reason },
        _ => ConnectError::Tls { address, reason },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_alerts_about_certificates_say_that_ours_is_unwelcome() {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let is_unwelcome = |alert| {
            let error = rustls::Error::AlertReceived(alert);
            let error = tls_error(address, &io::Error::new(io::ErrorKind::InvalidData, error));
            matches!(error, ConnectError::Unwelcome { .. })
        };
        assert!(is_unwelcome(AlertDescription::CertificateRequired));
        assert!(is_unwelcome(AlertDescription::UnknownCA));
        assert!(!is_unwelcome(AlertDescription::InternalError));
        let reset = tls_error(address, &io::ErrorKind::ConnectionReset.into());
        assert!(matches!(reset, ConnectError::Tls { .. }));
    }
}
