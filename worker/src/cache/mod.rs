//! The response cache of one loaded version: answers by their requests, and one run for identical requests that
//! come at the same time.
//!
//! Right for models that give the same answer to the same inputs; which do is the configuration's to say. It
//! belongs to the loaded version, so that a reload begins with an empty one. Errors are not kept, but everybody who
//! waited for the run gets its error. A request that joins a run keeps its own deadline: it leaves when that is
//! over, and when the run failed for want of time that this request has, it is run again. A run goes on until
//! nobody waits for it any more. Priority is that of the request which started the run.

mod counts;
mod flights;
mod key;
mod store;

use std::sync::Arc;
use std::time::Instant;

use forebay_cache::{Key, Store};
use futures::future::{BoxFuture, FutureExt};
use parking_lot::Mutex;

use self::counts::Tally;
pub use self::counts::{CacheStatistics, Counts};
use self::flights::{Boarding, Flights};
use self::store::Kept;
use crate::batch::job::Answer;
use crate::inference::{InferError, InferRequest, InferResponse, Origin, Timing};

/// Inputs of so many bytes take up to a millisecond to digest: longer than a thread of the runtime should be held.
const WORTH_A_THREAD: usize = 1 << 20;

pub struct Cache {
    store: Mutex<Store<Kept>>,
    flights: Flights,
    tally: Tally,
}

impl Cache {
    /// `limit`: bytes that kept answers may take.
    pub fn new(limit: u64) -> Cache {
        Cache {
            store: Mutex::new(Store::new(limit)),
            flights: Flights::default(),
            tally: Tally::default(),
        }
    }

    /// The answer to `request`, from the cache, from a run in progress, or from `run`.
    ///
    /// # Errors
    /// What `run` ends with.
    pub async fn answer<R>(self: &Arc<Self>, request: InferRequest, now: Instant, run: R) -> Answer
    where
        R: Fn(InferRequest) -> BoxFuture<'static, Answer>,
    {
        let (request, key) = keyed(request).await?;
        loop {
            let start = Instant::now();
            if let Some(answer) = self.kept(&key) {
                self.tally.hit(now.elapsed());
                return Ok(answer);
            }
            let boarding = self.flights.board(key, request.deadline, || {
                let run = run(request.clone());
                Arc::clone(self).kept_when_done(key, run).boxed()
            });
            let (flight, until) = match boarding {
                Boarding::Started(flight) => {
                    self.tally.missed(start.elapsed());
                    return flight.await;
                }
                Boarding::Joined(flight, until) => (flight, until),
            };
            let leaving = self.tally.joining();
            let answer = flight.await;
            leaving.stays();
            match answer {
                Err(error) if ran_out_of_time(&error) && outlasts(request.deadline, until) => {}
                Err(error) => {
                    self.tally.failed(now.elapsed());
                    return Err(error);
                }
                Ok(answer) => {
                    self.tally.joined(now.elapsed());
                    return Ok(InferResponse {
                        origin: Origin::Joined,
                        ..answer
                    });
                }
            }
        }
    }

    pub fn statistics(&self) -> CacheStatistics {
        let store = self.store.lock();
        let (bytes, entries, evictions) = (store.bytes(), store.entries(), store.evictions());
        drop(store);
        CacheStatistics {
            counts: self.tally.counts(),
            bytes,
            entries,
            evictions,
            runs: self.flights.len(),
        }
    }

    fn kept(&self, key: &Key) -> Option<InferResponse> {
        let kept = self.store.lock().get(key)?.clone();
        Some(InferResponse {
            outputs: kept.outputs().to_vec(),
            timing: Timing::default(),
            origin: Origin::Kept,
        })
    }

    async fn kept_when_done(self: Arc<Self>, key: Key, run: BoxFuture<'static, Answer>) -> Answer {
        let answer = run.await?;
        let start = Instant::now();
        let weight = store::weight(&answer.outputs);
        if self.store.lock().has_room_for(weight) {
            let kept = Kept::copy(&answer.outputs);
            let evicted = self.store.lock().insert(key, kept);
            drop(evicted);
        }
        self.tally.kept(start.elapsed());
        Ok(answer)
    }
}

/// The request with its key; a long one is read on another thread.
async fn keyed(request: InferRequest) -> Result<(InferRequest, Key), InferError> {
    let bytes: usize = request
        .inputs
        .iter()
        .map(|(_, input)| input.data.len())
        .sum();
    let digest = move || {
        let key = key::of(&request);
        (request, key)
    };
    if bytes < WORTH_A_THREAD {
        return Ok(digest());
    }
    let digested = tokio::task::spawn_blocking(digest).await;
    digested.map_err(|error| InferError::Engine {
        model: "cache".into(),
        message: format!("inputs could not be digested: {error}"),
    })
}

/// The error says that the time of the request which started the run was too short.
fn ran_out_of_time(error: &InferError) -> bool {
    match error {
        InferError::DeadlineInQueue(_)
        | InferError::DeadlineWhileRunning(_)
        | InferError::CannotMeetDeadline { .. } => true,
        InferError::Begun(error) => ran_out_of_time(error),
        _ => false,
    }
}

/// Whether `deadline` is later than `other`; none is later than any.
fn outlasts(deadline: Option<Instant>, other: Option<Instant>) -> bool {
    match (deadline, other) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(deadline), Some(other)) => deadline > other,
    }
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Cache({:?})", self.statistics())
    }
}

#[cfg(test)]
mod tests;
