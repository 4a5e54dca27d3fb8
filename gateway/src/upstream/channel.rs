//! One multiplexed HTTP/2 connection per endpoint and gateway thread, opened on demand.
//!
//! A caller takes a clone of the connection's `SendRequest`; the connection itself is driven by a task on the
//! caller's runtime. Callers that arrive while one connects wait for it, and share its failure: a dead
//! endpoint costs one connect timeout, not one per waiting call.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use h2::client::SendRequest;
use parking_lot::Mutex;
use tokio::task::AbortHandle;

use super::connect::{ConnectError, Target};

const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Larger frames mean fewer of them for tensors; the peer's own limit still applies to what is sent.
const MAX_FRAME: u32 = 1 << 20;
const MAX_HEADER_LIST: u32 = 64 << 10;

pub struct Channels {
    target: Target,
    shards: Box<[Shard]>,
    generations: AtomicU64,
}

#[derive(Default)]
struct Shard {
    slot: Mutex<Slot>,
    connecting: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Slot {
    open: Option<Open>,
    failed: Option<(Instant, ConnectError)>,
}

struct Open {
    sender: SendRequest<Bytes>,
    generation: u64,
    driver: AbortHandle,
}

/// A sender, and which connection it belongs to.
pub struct Sender {
    pub h2: SendRequest<Bytes>,
    pub generation: u64,
}

impl Channels {
    /// `shards`: the number of gateway threads.
    pub fn new(target: Target, shards: usize) -> Self {
        Self {
            target,
            shards: (0..shards.max(1)).map(|_| Shard::default()).collect(),
            generations: AtomicU64::new(1),
        }
    }

    /// The connection of the calling thread, opened if there is none.
    pub async fn sender(&self) -> Result<Sender, ConnectError> {
        let shard = self.shard();
        if let Some(sender) = shard.current() {
            return Ok(sender);
        }
        let asked = Instant::now();
        let _only_one = shard.connecting.lock().await;
        if let Some(sender) = shard.current() {
            return Ok(sender);
        }
        if let Some((when, error)) = &shard.slot.lock().failed
            && *when > asked
        {
            return Err(error.clone());
        }
        match self.connect().await {
            Ok(open) => {
                let sender = Sender {
                    h2: open.sender.clone(),
                    generation: open.generation,
                };
                let mut slot = shard.slot.lock();
                slot.failed = None;
                slot.open = Some(open);
                Ok(sender)
            }
            Err(error) => {
                shard.slot.lock().failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// Forgets the calling thread's connection if it is still this one: the next call opens another.
    /// Calls that are under way on it go on.
    pub fn retire(&self, generation: u64) {
        let mut slot = self.shard().slot.lock();
        if slot
            .open
            .as_ref()
            .is_some_and(|open| open.generation == generation)
        {
            slot.open = None;
        }
    }

    /// Forgets the calling thread's connection, whichever it is; calls under way on it go on.
    pub fn renew(&self) {
        self.shard().slot.lock().open = None;
    }

    /// Cuts every connection; calls under way fail at once instead of waiting for a dead peer.
    pub fn cut(&self) {
        for shard in &self.shards {
            if let Some(open) = shard.slot.lock().open.take() {
                open.driver.abort();
            }
        }
    }

    fn shard(&self) -> &Shard {
        &self.shards[thread_number() % self.shards.len()]
    }

    async fn connect(&self) -> Result<Open, ConnectError> {
        let address = self.target.address;
        let http2 = |e: h2::Error| ConnectError::Http2 {
            address,
            reason: e.to_string(),
        };
        let transport = self.target.open().await?;
        let handshake = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(MAX_FRAME)
            .max_header_list_size(MAX_HEADER_LIST)
            .enable_push(false)
            .handshake::<_, Bytes>(transport);
        let (sender, connection) = tokio::time::timeout(self.target.timeout, handshake)
            .await
            .map_err(|_| ConnectError::TimedOut {
                address,
                timeout: self.target.timeout,
            })?
            .map_err(http2)?;
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                log::debug!("connection to {address} ended: {error}");
            }
        });
        Ok(Open {
            sender,
            generation: self.generations.fetch_add(1, Ordering::Relaxed),
            driver: driver.abort_handle(),
        })
    }
}

impl Drop for Channels {
    fn drop(&mut self) {
        // Without a sender each connection ends by itself once its last call is answered.
        for shard in &self.shards {
            shard.slot.lock().open = None;
        }
    }
}

impl Shard {
    fn current(&self) -> Option<Sender> {
        let slot = self.slot.lock();
        slot.open.as_ref().map(|open| Sender {
            h2: open.sender.clone(),
            generation: open.generation,
        })
    }
}

/// A small number for the calling thread, the same for its whole life.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static NUMBER: usize = NEXT.fetch_add(1, Ordering::Relaxed));
    NUMBER.with(|number| *number)
}
