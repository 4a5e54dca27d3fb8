//! How many requests of a route may be served at a time, learned from how long answers take.
//!
//! The gradient of Envoy's adaptive concurrency filter, which is that of Netflix's concurrency-limits: in each window
//! `limit = gradient · limit + √limit`, where the gradient says how far answers are from what they should take. While
//! there is no queue it is above one and the limit grows; a queue makes answers slow, and the limit shrinks until what
//! is left of the queue is about the square root.
//!
//! What they should take is the question. A batching server makes requests wait by design: for the run before theirs,
//! and for company in a batch that takes longer than a small one would. The least time ever seen would count all of
//! that as overload, and the limit would shrink until there are no batches. So where answers tell how long they were
//! queued and how long their run took, they should take what they took, with the queue shortened to one run: as much
//! in flight as keeps the next batch ready while one runs, and no more. Where they do not tell, the least time of the
//! last one to two minutes stands in; at each turn of a minute the limit is halved once, so that this is measured
//! without a queue.

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use forebay_config::gateway::AdaptiveLimit;

/// A window is over after so long and with so many answers.
const WINDOW: Duration = Duration::from_millis(100);
const LEAST_ANSWERS: u32 = 10;
/// How much slower than they should be answers are before that counts.
const TOLERANCE: f64 = 1.25;
/// No window changes the limit by more, but for the root.
const STEEPEST: f64 = 0.5;
const FLATTEST: f64 = 1.25;
/// What an answer counts as that was refused for lack of room, or came too late.
const OVERLOADED: f64 = 4.0;
const MINUTE: Duration = Duration::from_secs(60);
const INITIAL: u32 = 20;

/// What an answer tells of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How long it waited for others.
    pub queued: Duration,
    /// How long the run took that it was part of.
    pub run: Duration,
}

#[derive(Debug)]
pub struct Gradient {
    bounds: AdaptiveLimit,
    limit: f64,
    window: Window,
    /// Seconds: the least of this minute and of the one before; without timings.
    least: [f64; 2],
    minute: Instant,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    answers: u32,
    /// Sum of how many times as long as they should have taken.
    slowness: f64,
    /// The most that were served at a time.
    served: u32,
}

impl Window {
    fn new(now: Instant) -> Self {
        Self {
            began: now,
            answers: 0,
            slowness: 0.0,
            served: 0,
        }
    }
}

impl Gradient {
    pub fn new(bounds: AdaptiveLimit, now: Instant) -> Self {
        Self {
            bounds,
            limit: f64::from(INITIAL.clamp(bounds.min, bounds.max)),
            window: Window::new(now),
            least: [f64::INFINITY; 2],
            minute: now,
        }
    }

    /// Of the configured bounds, both included.
    pub fn limit(&self) -> u32 {
        self.limit as u32
    }

    /// An answer came after `took`; `served`: how many were being served, itself included.
    pub fn answered(&mut self, now: Instant, took: Duration, timing: Option<Timing>, served: u32) {
        let took = took.as_secs_f64();
        let should = match timing {
            Some(timing) => {
                let beside = (took - timing.queued.as_secs_f64()).max(timing.run.as_secs_f64());
                beside + timing.run.as_secs_f64()
            }
            None => self.least(now, took),
        };
        let slowness = if should > 0.0 { took / should } else { 1.0 };
        self.count(now, slowness, served);
    }

    /// An answer said that there was no room, or did not come in time.
    pub fn overloaded(&mut self, now: Instant, served: u32) {
        self.count(now, OVERLOADED, served);
    }

    /// The least time lately, this one included.
    fn least(&mut self, now: Instant, took: f64) -> f64 {
        if now.saturating_duration_since(self.minute) >= MINUTE {
            self.minute = now;
            self.least = [f64::INFINITY, self.least[0]];
            self.limit = (self.limit / 2.0).max(f64::from(self.bounds.min));
        }
        self.least[0] = self.least[0].min(took);
        self.least[0].min(self.least[1])
    }

    fn count(&mut self, now: Instant, slowness: f64, served: u32) {
        let window = &mut self.window;
        window.answers += 1;
        window.slowness += slowness;
        window.served = window.served.max(served);
        let over = now.saturating_duration_since(window.began) >= WINDOW;
        if !over || window.answers < LEAST_ANSWERS {
            return;
        }
        let mean = window.slowness / f64::from(window.answers);
        let gradient = (TOLERANCE / mean).clamp(STEEPEST, FLATTEST);
        let next = gradient * self.limit + self.limit.sqrt();
        // A limit that nobody comes near would grow for nothing, and not be there when it is needed.
        let used = f64::from(window.served) * 2.0 > self.limit;
        if next < self.limit || used {
            self.limit = next.clamp(f64::from(self.bounds.min), f64::from(self.bounds.max));
        }
        self.window = Window::new(now);
    }
}
