//! TLS of a listener: certificate, key and client authorities out of their files, and what ALPN offers.
//!
//! The files are read once, at the start.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use forebay_config::worker::WorkerTls;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use super::Protocols;

/// Why a listener cannot speak TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {what} from '{}': {reason}", path.display())]
    Unreadable {
        what: &'static str,
        path: PathBuf,
        reason: String,
    },
    #[error("'{}' holds no certificate", .0.display())]
    Empty(PathBuf),
    #[error("certificate '{}' and key '{}' do not serve: {reason}", certificate.display(), key.display())]
    Unusable {
        certificate: PathBuf,
        key: PathBuf,
        reason: String,
    },
    #[error("'{}' cannot verify clients: {reason}", path.display())]
    Authority { path: PathBuf, reason: String },
}

/// Reads the files, and makes of them what a listener for `protocols` answers handshakes with.
pub fn acceptor(tls: &WorkerTls, protocols: Protocols) -> Result<TlsAcceptor, TlsError> {
    let unusable = |error: rustls::Error| TlsError::Unusable {
        certificate: tls.certificate.clone(),
        key: tls.key.clone(),
        reason: error.to_string(),
    };
    let crypto = Arc::new(rustls::crypto::ring::default_provider());
    let chain = certificates(&tls.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|error| TlsError::Unreadable {
        what: "a private key",
        path: tls.key.clone(),
        reason: error.to_string(),
    })?;
    let builder = ServerConfig::builder_with_provider(crypto.clone())
        .with_safe_default_protocol_versions()
        .map_err(unusable)?;
    let builder = match &tls.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => builder.with_client_cert_verifier(verifier(path, crypto)?),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(unusable)?;
    config.alpn_protocols = match protocols {
        Protocols::Http2 => vec![b"h2".to_vec()],
        Protocols::Any => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
    };
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn verifier(
    path: &Path,
    crypto: Arc<CryptoProvider>,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, TlsError> {
    let refuse = |reason: String| TlsError::Authority {
        path: path.to_owned(),
        reason,
    };
    let mut roots = RootCertStore::empty();
    for root in certificates(path)? {
        roots.add(root).map_err(|error| refuse(error.to_string()))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), crypto)
        .build()
        .map_err(|error| refuse(error.to_string()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unreadable = |error: rustls_pki_types::pem::Error| TlsError::Unreadable {
        what: "certificates",
        path: path.to_owned(),
        reason: error.to_string(),
    };
    let list: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(unreadable)?
        .collect::<Result<_, _>>()
        .map_err(unreadable)?;
    if list.is_empty() {
        return Err(TlsError::Empty(path.to_owned()));
    }
    Ok(list)
}
