//! Bounds the wait for the head of an HTTP/1 answer, and nothing after it.
//!
//! pingora's read timeout holds for every read, so one short enough to notice a hung endpoint would also cut a
//! stream whose events are far apart. Here the endpoint's socket is shut down when the head does not come in
//! time; pingora sees a broken connection, and the request goes elsewhere or is answered with 504. A request
//! body that is still being sent extends the time: it counts from the last piece.

use std::os::fd::{BorrowedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socket2::Socket;
use tokio::task::AbortHandle;

/// Running until it is dropped.
pub struct HeadTimer {
    shared: Arc<Shared>,
    task: AbortHandle,
}

struct Shared {
    since: Mutex<Instant>,
    fired: AtomicBool,
}

impl HeadTimer {
    /// `socket`: of the endpoint's connection, open while this is called; a duplicate of it is kept.
    /// None: it cannot be duplicated, and the wait is not bounded.
    pub fn start(socket: RawFd, time: Duration) -> Option<Self> {
        #[expect(
            unsafe_code,
            reason = "pingora hands over a number; it stays open for the duration of this call"
        )]
        // SAFETY: the caller holds the connection that `socket` belongs to.
        let borrowed = unsafe { BorrowedFd::borrow_raw(socket) };
        let socket = Socket::from(borrowed.try_clone_to_owned().ok()?);
        let shared = Arc::new(Shared {
            since: Mutex::new(Instant::now()),
            fired: AtomicBool::new(false),
        });
        let watched = shared.clone();
        let task = tokio::spawn(async move {
            loop {
                let left = time.saturating_sub(watched.since.lock().elapsed());
                if left.is_zero() {
                    break;
                }
                tokio::time::sleep(left).await;
            }
            watched.fired.store(true, Ordering::Relaxed);
            if let Err(error) = socket.shutdown(std::net::Shutdown::Both) {
                log::debug!("a connection without an answer cannot be shut down: {error}");
            }
        });
        Some(Self {
            shared,
            task: task.abort_handle(),
        })
    }

    /// Part of the request went out just now.
    pub fn extend(&self) {
        *self.shared.since.lock() = Instant::now();
    }

    pub fn has_fired(&self) -> bool {
        self.shared.fired.load(Ordering::Relaxed)
    }
}

impl Drop for HeadTimer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
