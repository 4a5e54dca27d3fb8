//! Signals, and the way out: not ready first, then no new connections, then whatever is in flight.
//!
//! pingora sleeps through its whole grace period, so a thread of ours ends the process as soon as nothing is in
//! flight any more.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use forebay_config::gateway as config;
use opentelemetry_sdk::trace::SdkTracerProvider;
use pingora::server::{ShutdownSignal, ShutdownSignalWatch};
use tokio::signal::unix::{SignalKind, signal};

use crate::gateway::Gateway;

/// How often the way out looks whether the last request is done.
const POLL: Duration = Duration::from_millis(20);
/// Least time between closing the listeners and the end: answers and GOAWAY frames are still being written.
const LINGER: Duration = Duration::from_millis(200);

/// How long open connections may take, after the last request, to deliver what was answered and to close.
const FLUSH: Duration = Duration::from_secs(2);

pub struct Drain {
    gateway: Arc<Gateway>,
    delay: Duration,
    provider: Option<SdkTracerProvider>,
}

impl Drain {
    pub fn new(
        gateway: Arc<Gateway>,
        config: &config::Gateway,
        provider: Option<SdkTracerProvider>,
    ) -> Self {
        Self {
            gateway,
            delay: config.drain_delay,
            provider,
        }
    }

    fn leave_when_idle(&self) {
        let gateway = self.gateway.clone();
        let provider = self.provider.clone();
        std::thread::spawn(move || {
            std::thread::sleep(LINGER);
            while gateway.in_flight() > 0 {
                std::thread::sleep(POLL);
            }
            // What was answered may still be on its way through slow connections.
            let end = Instant::now() + FLUSH;
            while gateway.connections() > 0 && Instant::now() < end {
                std::thread::sleep(POLL);
            }
            log::info!("drained");
            flush(provider.as_ref());
            std::process::exit(0);
        });
    }
}

#[async_trait]
impl ShutdownSignalWatch for Drain {
    async fn recv(&self) -> ShutdownSignal {
        let mut terminate =
            signal(SignalKind::terminate()).expect("a handler for SIGTERM can be installed");
        let mut interrupt =
            signal(SignalKind::interrupt()).expect("a handler for SIGINT can be installed");
        tokio::select! {
            _ = terminate.recv() => {
                self.gateway.start_draining();
                log::info!("draining: not ready, {} in flight", self.gateway.in_flight());
                tokio::time::sleep(self.delay).await;
            }
            _ = interrupt.recv() => self.gateway.start_draining(),
        }
        self.leave_when_idle();
        ShutdownSignal::GracefulTerminate
    }
}

/// Sends the spans that are still held; bounded by the exporter's own timeout.
pub fn flush(provider: Option<&SdkTracerProvider>) {
    if let Some(provider) = provider
        && let Err(error) = provider.shutdown_with_timeout(Duration::from_secs(2))
    {
        log::debug!("last spans not exported: {error}");
    }
}
