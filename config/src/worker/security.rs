//! TLS of the worker's listeners.

use std::path::PathBuf;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerTls {
    /// PEM, leaf first.
    pub certificate: PathBuf,
    /// PEM: PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
    /// PEM of the authorities whose clients are let in (mTLS); None: clients need no certificate.
    pub client_ca: Option<PathBuf>,
}
