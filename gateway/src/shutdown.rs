//! Signals, and the way out: not ready first, then no new connections, then whatever is in flight.
//!
//! A gateway that took over says so here too, once it accepts connections, and one that is taken over leaves as if it
//! had been told to, but at its ease: nobody waits for it. pingora sleeps through its whole grace period, so a thread
//! of ours ends the process: as soon as nothing is in flight any more, or when the configured time is up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora::server::{ShutdownSignal, ShutdownSignalWatch};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::AbortHandle;

use crate::gateway::Gateway;
use crate::handover::{Succession, Successors};
use crate::notify;
use crate::sockets::Sockets;

/// How often the way out looks whether the last request is done.
const POLL: Duration = Duration::from_millis(20);
/// Least time between closing the listeners and the end: answers and GOAWAY frames are still being written.
const LINGER: Duration = Duration::from_millis(200);
/// How long open connections may take, after the last request, to deliver what was answered and to close.
const FLUSH: Duration = Duration::from_secs(2);

pub struct Drain {
    gateway: Arc<Gateway>,
    /// Until pingora runs.
    open: Mutex<Option<Open>>,
}

/// What other processes can reach.
pub struct Open {
    pub succession: Succession,
    pub sockets: Arc<Sockets>,
    /// Accepts for the admin interface.
    pub admin: Option<AbortHandle>,
}

impl Drain {
    pub fn new(gateway: Arc<Gateway>, open: Open) -> Self {
        Self {
            gateway,
            open: Mutex::new(Some(open)),
        }
    }

    /// On somebody's word, not for a successor.
    fn stop(&self, successors: &Successors) {
        self.gateway.start_draining();
        successors.end();
        notify::stopping();
    }

    /// `patience`: for connections on which nothing is in flight. What is in flight has `timeout`.
    fn leave_when_idle(&self, patience: Duration, timeout: Duration) {
        let gateway = self.gateway.clone();
        std::thread::spawn(move || {
            let last = Instant::now() + timeout;
            let in_time = || Instant::now() < last;
            std::thread::sleep(LINGER);
            while gateway.in_flight() > 0 && in_time() {
                std::thread::sleep(POLL);
            }
            // What was answered may still be on its way through slow connections.
            let end = Instant::now() + patience;
            let is_flushing = || gateway.connections() > 0 && Instant::now() < end;
            while (gateway.in_flight() > 0 || is_flushing()) && in_time() {
                std::thread::sleep(POLL);
            }
            match gateway.in_flight() {
                0 => log::info!("drained"),
                count => log::warn!("the drain_timeout of {timeout:?} is over, {count} in flight"),
            }
            gateway.flush();
            std::process::exit(0);
        });
    }
}

/// Says on standard output where the gateway listens, once it does.
async fn begin(succession: Succession, sockets: Arc<Sockets>) -> Successors {
    let begin = {
        let sockets = sockets.clone();
        tokio::task::spawn_blocking(move || succession.begin(sockets))
    };
    match begin.await.map_err(anyhow::Error::from).flatten() {
        Ok(successors) => {
            println!("forebay-gateway listening {}", sockets.describe());
            notify::ready();
            successors
        }
        Err(error) => {
            eprintln!("forebay-gateway: {error:#}");
            std::process::exit(1);
        }
    }
}

#[async_trait]
impl ShutdownSignalWatch for Drain {
    /// pingora accepts connections when it asks this.
    async fn recv(&self) -> ShutdownSignal {
        let mut terminate =
            signal(SignalKind::terminate()).expect("a handler for SIGTERM can be installed");
        let mut interrupt =
            signal(SignalKind::interrupt()).expect("a handler for SIGINT can be installed");
        let open = self.open.lock().take().expect("pingora asks once");
        let mut successors = begin(open.succession, open.sockets.clone()).await;
        let timeout = || self.gateway.snapshot().config.drain_timeout;
        let patience = tokio::select! {
            _ = terminate.recv() => {
                self.stop(&successors);
                log::info!("draining: not ready, {} in flight", self.gateway.in_flight());
                tokio::time::sleep(self.gateway.snapshot().config.drain_delay).await;
                FLUSH
            }
            _ = interrupt.recv() => {
                self.stop(&successors);
                FLUSH
            }
            Ok(()) = &mut successors.taken_over => {
                self.gateway.start_draining();
                log::info!("taken over, {} in flight", self.gateway.in_flight());
                if let Some(admin) = open.admin {
                    admin.abort();
                }
                timeout()
            }
        };
        open.sockets.close();
        self.gateway.start_closing();
        self.leave_when_idle(patience, timeout());
        ShutdownSignal::GracefulTerminate
    }
}
