//! Certificates and keys: read from PEM, checked with rustls, and only then handed on.
//!
//! pingora reads listener files by itself and panics on bad ones, so they are proven good here first.

use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use forebay_config::gateway::{Identity, ListenerTls, UpstreamTls};
use pingora::protocols::tls::CaType;
use pingora::utils::tls::{CertKey, WrappedX509};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::upstream::ClientTls;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {what} from '{}': {reason}", path.display())]
    Unreadable {
        what: &'static str,
        path: PathBuf,
        reason: String,
    },
    #[error("'{}' holds no {what}", path.display())]
    Empty { what: &'static str, path: PathBuf },
    #[error("certificate '{}' and key '{}' do not serve: {reason}", certificate.display(), key.display())]
    Unusable {
        certificate: PathBuf,
        key: PathBuf,
        reason: String,
    },
    #[error("'{}' holds a certificate that cannot be a trusted root: {reason}", path.display())]
    BadRoot { path: PathBuf, reason: String },
    #[error("the system trusts no certificate authority: install ca-certificates or set 'ca'")]
    NoSystemRoots,
    #[error("'{0}' is no valid server name")]
    BadName(String),
}

/// What a cluster's endpoints are verified with, for both data paths.
#[derive(Clone)]
pub struct UpstreamTrust {
    /// ALPN h2.
    pub http2: ClientTls,
    /// ALPN http/1.1, for probes of http clusters.
    pub http1: ClientTls,
    pub peers: PeerTrust,
}

/// The same for pingora's connector, which takes it connection by connection.
#[derive(Clone)]
pub struct PeerTrust {
    /// None: the system's roots, which it reads by itself.
    pub roots: Option<Arc<CaType>>,
    /// What it shows to endpoints that ask; None: nothing.
    pub identity: Option<Arc<CertKey>>,
    /// Of the contents of roots, certificate and key: tells rotated ones from those before.
    pub fingerprint: u64,
}

/// Proves that a listener's certificate and key load and belong together.
pub fn check_listener(tls: &ListenerTls) -> Result<(), TlsError> {
    let chain = certificates(&tls.certificate)?;
    let key = private_key(&tls.key)?;
    ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|e| TlsError::Unusable {
            certificate: tls.certificate.clone(),
            key: tls.key.clone(),
            reason: e.to_string(),
        })?;
    Ok(())
}

/// Reads the roots of a cluster, and what the gateway shows to its endpoints.
pub fn upstream(tls: &UpstreamTls) -> Result<UpstreamTrust, TlsError> {
    let name = ServerName::try_from(tls.server_name.clone())
        .map_err(|_| TlsError::BadName(tls.server_name.clone()))?;
    let mut store = RootCertStore::empty();
    let mut roots = None;
    let mut contents = DefaultHasher::new();
    match &tls.ca {
        Some(path) => {
            let mut list = Vec::new();
            for root in certificates(path)? {
                store.add(root.clone()).map_err(|e| TlsError::BadRoot {
                    path: path.clone(),
                    reason: e.to_string(),
                })?;
                contents.write(&root);
                list.push(WrappedX509::new(
                    root.to_vec(),
                    pingora::utils::tls::parse_x509,
                ));
            }
            roots = Some(Arc::<CaType>::from(list));
        }
        None => {
            store.add_parsable_certificates(
                rustls_native_certs::load_native_certs().unwrap_or_default(),
            );
            if store.is_empty() {
                return Err(TlsError::NoSystemRoots);
            }
        }
    }
    let builder = ClientConfig::builder().with_root_certificates(store);
    let (base, identity) = match &tls.identity {
        None => (builder.with_no_client_auth(), None),
        Some(files) => {
            let (chain, key) = load(files)?;
            for part in chain.iter().map(|part| &**part).chain([key.secret_der()]) {
                contents.write_usize(part.len());
                contents.write(part);
            }
            let shown = CertKey::new(
                chain.iter().map(|part| part.to_vec()).collect(),
                key.secret_der().to_vec(),
            );
            let base = builder
                .with_client_auth_cert(chain, key)
                .map_err(|e| unusable(files, e.to_string()))?;
            (base, Some(Arc::new(shown)))
        }
    };
    let with_alpn = |protocol: &[u8]| {
        let mut config = base.clone();
        config.alpn_protocols = vec![protocol.to_vec()];
        ClientTls {
            config: Arc::new(config),
            name: name.clone(),
        }
    };
    Ok(UpstreamTrust {
        http2: with_alpn(b"h2"),
        http1: with_alpn(b"http/1.1"),
        peers: PeerTrust {
            roots,
            identity,
            fingerprint: contents.finish(),
        },
    })
}

/// A chain and a key that pingora takes too: it reads both once more, and panics on what it cannot read.
fn load(
    files: &Identity,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let chain = certificates(&files.certificate)?;
    for certificate in &chain {
        X509Certificate::from_der(certificate)
            .map_err(|e| unusable(files, format!("the certificate is malformed: {e}")))?;
    }
    let key = private_key(&files.key)?;
    PrivateKeyDer::try_from(key.secret_der().to_vec())
        .map_err(|e| unusable(files, format!("the key is malformed: {e}")))?;
    Ok((chain, key))
}

fn unusable(files: &Identity, reason: String) -> TlsError {
    TlsError::Unusable {
        certificate: files.certificate.clone(),
        key: files.key.clone(),
        reason,
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|e| TlsError::Unreadable {
        what: "a private key",
        path: path.to_owned(),
        reason: e.to_string(),
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unreadable = |e: rustls_pki_types::pem::Error| TlsError::Unreadable {
        what: "certificates",
        path: path.to_owned(),
        reason: e.to_string(),
    };
    let list: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(unreadable)?
        .collect::<Result<_, _>>()
        .map_err(unreadable)?;
    if list.is_empty() {
        return Err(TlsError::Empty {
            what: "certificate",
            path: path.to_owned(),
        });
    }
    Ok(list)
}
