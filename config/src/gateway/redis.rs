//! `[redis]`: a Redis server that several gateways share.

use std::path::PathBuf;
use std::time::Duration;

use super::Identity;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redis {
    /// A name, an IPv4 address, or an IPv6 address without brackets.
    pub host: String,
    pub port: u16,
    /// None: Redis' default user. Only with a password.
    pub username: Option<String>,
    /// A file whose first line is the password; None: there is none.
    pub password_file: Option<PathBuf>,
    pub database: u32,
    /// What the gateway's keys begin with.
    pub prefix: String,
    /// The longest that a request waits for one answer of Redis.
    pub timeout: Duration,
    /// None: plain text.
    pub tls: Option<RedisTls>,
}

/// The host is what the certificate is verified against.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RedisTls {
    /// PEM bundle of trusted roots; None: those that the system trusts.
    pub ca: Option<PathBuf>,
    /// What the gateway shows (mTLS); None: nothing.
    pub identity: Option<Identity>,
}
