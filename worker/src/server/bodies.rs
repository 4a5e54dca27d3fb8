//! Memory for the bodies of requests, of all requests together.
//!
//! The limit of a message and that of a queue leave open how many callers send large messages at the same time. So what
//! has arrived is booked here, until the last slice of it is dropped: a tensor that waits in a queue is such a slice. What
//! is beyond the bound is refused, since waiting for room while holding a part of it could wait for ever.
//!
//! What is made of a body (tensors out of JSON, for example) is not counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// Smaller messages are let go of as soon as they are complete: queues bound their number.
const WORTH_HOLDING: usize = 16 << 10;

/// There is no room for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("requests hold {held} bytes of memory, more than {limit} are not allowed")]
pub struct NoRoom {
    pub held: usize,
    pub limit: usize,
}

/// What all bodies take.
#[derive(Debug, Clone)]
pub struct Bodies(Arc<Ledger>);

#[derive(Debug)]
struct Ledger {
    held: AtomicUsize,
    limit: usize,
}

impl Bodies {
    /// `limit`: in bytes.
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Ledger {
            held: AtomicUsize::new(0),
            limit,
        }))
    }

    pub fn share(&self) -> Share {
        Share {
            bytes: 0,
            ledger: Arc::clone(&self.0),
        }
    }
}

#[cfg(test)]
impl Bodies {
    pub fn unbounded() -> Self {
        Self::new(usize::MAX)
    }

    pub fn held(&self) -> usize {
        self.0.held.load(Ordering::SeqCst)
    }
}

/// What one body takes. Dropped, it gives it back.
#[derive(Debug)]
pub struct Share {
    bytes: usize,
    ledger: Arc<Ledger>,
}

impl Share {
    /// # Errors
    /// There is no room; the share is what it was.
    pub fn grow(&mut self, bytes: usize) -> Result<(), NoRoom> {
        let Ledger { held, limit } = &*self.ledger;
        let grown = |held: usize| held.checked_add(bytes).filter(|grown| grown <= limit);
        held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown)
            .map_err(|held| NoRoom {
                held,
                limit: *limit,
            })?;
        self.bytes += bytes;
        Ok(())
    }

    /// An empty one.
    pub fn another(&self) -> Self {
        Self {
            bytes: 0,
            ledger: Arc::clone(&self.ledger),
        }
    }

    /// A part of it, at most all.
    pub fn split(&mut self, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self {
            bytes,
            ledger: Arc::clone(&self.ledger),
        }
    }

    /// These bytes, which keep the share for as long as a slice of them is there.
    pub fn hold(self, bytes: Bytes) -> Bytes {
        if bytes.len() < WORTH_HOLDING {
            return bytes;
        }
        Bytes::from_owner(Held {
            bytes,
            _share: self,
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.ledger.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

struct Held {
    bytes: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_counts_until_its_last_slice_is_gone() {
        let bodies = Bodies::new(3 * WORTH_HOLDING);
        let mut share = bodies.share();
        share.grow(WORTH_HOLDING).unwrap();
        let body = Bytes::from(vec![7; WORTH_HOLDING]);
        let held = share.hold(body.clone());
        assert_eq!(held.as_ptr(), body.as_ptr(), "no copy");
        let tensor = held.slice(5..9);
        drop(held);
        assert_eq!(bodies.held(), WORTH_HOLDING);
        drop(tensor);
        assert_eq!(bodies.held(), 0);
    }

    #[test]
    fn what_is_beyond_the_limit_is_refused_and_changes_nothing() {
        let bodies = Bodies::new(100);
        let (mut first, mut second) = (bodies.share(), bodies.share());
        first.grow(60).unwrap();
        let refused = second.grow(41).unwrap_err();
        assert_eq!((refused.held, refused.limit), (60, 100));
        second.grow(40).unwrap();
        assert!(second.grow(usize::MAX).is_err());
        let part = first.split(50);
        drop(first);
        assert_eq!(bodies.held(), 90);
        drop((part, second));
        assert_eq!(bodies.held(), 0);
    }

    #[test]
    fn a_small_message_is_let_go_of_at_once() {
        let bodies = Bodies::new(100);
        let mut share = bodies.share();
        share.grow(10).unwrap();
        let message = share.hold(Bytes::from_static(&[0; 10]));
        assert_eq!((message.len(), bodies.held()), (10, 0));
    }
}
