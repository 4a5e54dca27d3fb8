//! TLS material, read and checked before anything relies on it.

pub mod tls;
