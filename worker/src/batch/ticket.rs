//! The caller's half of a request: the answer to come, and the claim on a place that ends when it is dropped.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::RecvError;

use crate::batch::job::Answer;
use crate::batch::queue::Place;
use crate::batch::shared::Common;

/// Resolves to the answer. Dropped before that, the request leaves the queue at once; if it runs already, the
/// run is ended as soon as nobody waits for any of its requests.
#[derive(Debug)]
pub struct Ticket {
    answer: oneshot::Receiver<Answer>,
    /// None once the answer is there.
    claim: Option<Claim>,
}

struct Claim {
    common: Arc<Common>,
    place: Place,
}

impl Ticket {
    pub fn new(answer: oneshot::Receiver<Answer>, common: Arc<Common>, place: Place) -> Self {
        Self {
            answer,
            claim: Some(Claim { common, place }),
        }
    }

    /// The answer, on a thread that may block.
    #[cfg(test)]
    pub fn blocking_recv(mut self) -> Result<Answer, RecvError> {
        let answer = std::mem::replace(&mut self.answer, oneshot::channel().1);
        let answer = answer.blocking_recv();
        self.claim = None;
        answer
    }
}

impl Future for Ticket {
    type Output = Result<Answer, RecvError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = Pin::new(&mut self.answer).poll(context);
        if answer.is_ready() {
            self.claim = None;
        }
        answer
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let Some(Claim { common, place }) = self.claim.take() else {
            return;
        };
        // Whoever looks at the request from now on sees that nobody waits for it.
        self.answer.close();
        common.take_back(place, Instant::now());
    }
}

impl std::fmt::Debug for Claim {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.place.fmt(formatter)
    }
}
