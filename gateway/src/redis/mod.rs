//! The Redis that gateways share, asked within a time that no request notices, and done without while it is away.
//!
//! A task of the control runtime keeps one multiplexed connection and asks it for a sign of life every second; requests
//! use the connection while it is there and wait for none. One that breaks, or lets three commands in a row wait too
//! long, is taken away at once. Then the task connects anew, at growing intervals, and gives the new one out when it
//! has answered in the time that a request would give it. So a Redis that hangs costs a few requests its `timeout`
//! each, and all later ones nothing.

mod counts;
mod link;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arc_swap::ArcSwapOption;
use forebay_config::gateway as config;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use tokio::task::AbortHandle;

pub use self::counts::{Counts, Lookup, Write};
pub use self::link::{Access, RedisError};

/// Commands in a row that may wait too long.
const MOST_LAPSES: u32 = 3;
/// Writes that may be under way; what comes on top of them is dropped.
const MOST_WRITES: usize = 64;

pub struct Redis {
    access: Access,
    shared: Arc<Shared>,
    control: Handle,
    keeper: AbortHandle,
}

struct Shared {
    config: config::Redis,
    connection: ArcSwapOption<MultiplexedConnection>,
    broken: Notify,
    lapses: AtomicU32,
    writes: Arc<Semaphore>,
    counts: Counts,
}

/// Why a command has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    #[error("there is no connection")]
    Away,
    #[error("no answer in time")]
    Late,
    #[error("{0}")]
    Refused(#[from] redis::RedisError),
    #[error("it answers something else than what was asked")]
    Unreadable,
}

impl Redis {
    /// Connects in the background, on `control`.
    pub fn start(access: Access, control: &Handle) -> Self {
        let shared = Arc::new(Shared {
            config: access.config().clone(),
            connection: ArcSwapOption::empty(),
            broken: Notify::new(),
            lapses: AtomicU32::new(0),
            writes: Arc::new(Semaphore::new(MOST_WRITES)),
            counts: Counts::default(),
        });
        let keeper = control.spawn(link::keep(access.client(), shared.clone()));
        Self {
            access,
            shared,
            control: control.clone(),
            keeper: keeper.abort_handle(),
        }
    }

    /// Whether it is reached in this way.
    pub fn is_reached_by(&self, access: &Access) -> bool {
        self.access == *access
    }

    pub fn prefix(&self) -> &str {
        &self.shared.config.prefix
    }

    pub fn is_up(&self) -> bool {
        self.shared.connection.load().is_some()
    }

    pub fn counts(&self) -> &Counts {
        &self.shared.counts
    }

    /// The answer to one command, within the configured time.
    pub async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Unanswered> {
        self.shared.ask(command).await
    }

    /// Sends a command that nobody waits for.
    pub fn write(&self, command: impl FnOnce() -> Option<Cmd> + Send + 'static) {
        let permit = self.shared.writes.clone().try_acquire_owned();
        let (true, Ok(permit)) = (self.is_up(), permit) else {
            self.shared.counts.wrote(Write::Dropped);
            return;
        };
        let shared = self.shared.clone();
        self.control.spawn(async move {
            let _permit = permit;
            let Some(command) = command() else {
                return;
            };
            let answer = shared.ask::<redis::Value>(&command).await;
            if let Err(error) = &answer {
                log::debug!("redis: not written: {error}");
            }
            shared.counts.wrote(match answer {
                Ok(_) => Write::Kept,
                Err(_) => Write::Failed,
            });
        });
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Shared {
    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Unanswered> {
        let connection = self.connection.load_full().ok_or(Unanswered::Away)?;
        let mut own = MultiplexedConnection::clone(&connection);
        match tokio::time::timeout(self.config.timeout, command.query_async(&mut own)).await {
            Ok(Ok(answer)) => {
                self.lapses.store(0, Ordering::Relaxed);
                Ok(answer)
            }
            Ok(Err(error)) => {
                if error.is_io_error() || error.is_unrecoverable_error() {
                    self.retire(&connection, &error.to_string());
                }
                Err(error.into())
            }
            Err(_) => {
                let lapses = self.lapses.fetch_add(1, Ordering::Relaxed) + 1;
                if lapses >= MOST_LAPSES {
                    self.retire(&connection, "it does not answer in time");
                }
                Err(Unanswered::Late)
            }
        }
    }

    /// Takes this connection away from requests; once, whoever notices first.
    fn retire(&self, connection: &Arc<MultiplexedConnection>, reason: &str) {
        let former = self.connection.compare_and_swap(connection, None);
        if former
            .as_ref()
            .is_some_and(|former| Arc::ptr_eq(former, connection))
        {
            let (host, port) = (&self.config.host, self.config.port);
            log::warn!("redis at {host}:{port} is done without for a while: {reason}");
            self.broken.notify_one();
        }
    }
}
