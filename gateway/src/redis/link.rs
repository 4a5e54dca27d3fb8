//! How Redis is reached, and the task that keeps a connection to it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use forebay_config::gateway as config;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, IntoConnectionInfo,
    RedisConnectionInfo, TlsCertificates,
};

use super::{Shared, Unanswered};
use crate::traffic::retry::Backoff;

/// How long connecting may take, with TLS and the password.
const CONNECT: Duration = Duration::from_secs(1);
/// How often a connection is asked whether it lives.
const HEARTBEAT: Duration = Duration::from_secs(1);
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(100),
    max: Duration::from_secs(5),
};

#[derive(Debug, thiserror::Error)]
pub enum RedisError {
    #[error("cannot read '{}': {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("'{}' has no password in its first line", .0.display())]
    NoPassword(PathBuf),
    #[error("{0}")]
    Settings(#[from] redis::RedisError),
}

/// The configuration with what its files say.
#[derive(Clone)]
pub struct Access {
    config: config::Redis,
    password: Option<String>,
    certificates: Vec<Vec<u8>>,
    client: Client,
}

impl PartialEq for Access {
    fn eq(&self, other: &Self) -> bool {
        self.config == other.config
            && self.password == other.password
            && self.certificates == other.certificates
    }
}

impl Access {
    /// Reads the files; connects to nothing.
    ///
    /// # Errors
    /// A file that cannot be read or does not have what it should.
    pub fn read(config: &config::Redis) -> Result<Self, RedisError> {
        let password = config.password_file.as_deref().map(password).transpose()?;
        let settings = RedisConnectionInfo::default().set_db(i64::from(config.database));
        let settings = match &config.username {
            Some(name) => settings.set_username(name),
            None => settings,
        };
        let settings = match &password {
            Some(password) => settings.set_password(password),
            None => settings,
        };
        let mut certificates = Vec::new();
        let client = match &config.tls {
            None => {
                let address = ConnectionAddr::Tcp(config.host.clone(), config.port);
                Client::open(address.into_connection_info()?.set_redis_settings(settings))?
            }
            Some(tls) => {
                let address = ConnectionAddr::TcpTls {
                    host: config.host.clone(),
                    port: config.port,
                    insecure: false,
                    tls_params: None,
                };
                let mut file = |path: &PathBuf| {
                    let content = read(path)?;
                    certificates.push(content.clone());
                    Ok::<_, RedisError>(content)
                };
                let root_cert = tls.ca.as_ref().map(&mut file).transpose()?;
                let client_tls = match &tls.identity {
                    None => None,
                    Some(identity) => Some(ClientTlsConfig {
                        client_cert: file(&identity.certificate)?,
                        client_key: file(&identity.key)?,
                    }),
                };
                let certificates = TlsCertificates {
                    client_tls,
                    root_cert,
                };
                let connection = address.into_connection_info()?.set_redis_settings(settings);
                Client::build_with_tls(connection, certificates)?
            }
        };
        Ok(Self {
            config: config.clone(),
            password,
            certificates,
            client,
        })
    }

    pub fn config(&self) -> &config::Redis {
        &self.config
    }

    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, RedisError> {
    std::fs::read(path).map_err(|source| RedisError::File {
        path: path.to_owned(),
        source,
    })
}

fn password(path: &Path) -> Result<String, RedisError> {
    let text = String::from_utf8_lossy(&read(path)?).into_owned();
    match text.lines().next().map(str::trim_end) {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        _ => Err(RedisError::NoPassword(path.to_owned())),
    }
}

/// Connects, watches, and connects again, for as long as the task is let.
pub(super) async fn keep(client: Client, shared: Arc<Shared>) {
    let (host, port) = (&shared.config.host, shared.config.port);
    let mut failed = 0;
    loop {
        match connect(&client, shared.config.timeout).await {
            Ok(connection) => {
                log::info!("redis at {host}:{port} is there");
                failed = 0;
                shared.lapses.store(0, Ordering::Relaxed);
                shared.connection.store(Some(Arc::new(connection)));
                watch(&shared).await;
            }
            Err(error) => {
                failed += 1;
                if failed == 1 {
                    log::warn!("redis at {host}:{port} is not there, going on without it: {error}");
                }
                let random = fastrand::u64(..);
                tokio::time::sleep(BACKOFF.first + BACKOFF.delay(failed, random)).await;
            }
        }
    }
}

/// A connection that has answered as fast as a request would have it.
async fn connect(client: &Client, timeout: Duration) -> Result<MultiplexedConnection, Unanswered> {
    let settings = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT))
        .set_response_timeout(None);
    let connecting = client.get_multiplexed_async_connection_with_config(&settings);
    let mut connection = connecting.await?;
    let ping = redis::cmd("PING");
    let answer = tokio::time::timeout(timeout, ping.query_async::<String>(&mut connection)).await;
    answer.map_err(|_| Unanswered::Late)??;
    Ok(connection)
}

/// Returns when the connection is no good any more.
async fn watch(shared: &Shared) {
    let ping = redis::cmd("PING");
    while shared.connection.load().is_some() {
        tokio::select! {
            () = shared.broken.notified() => {}
            () = tokio::time::sleep(HEARTBEAT) => {
                // What it comes to is noted where all commands are.
                let _ = shared.ask::<String>(&ping).await;
            }
        }
    }
}
