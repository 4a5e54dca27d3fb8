//! Circuit breaker of one endpoint: closed, open for a while, then one probe request decides.
//!
//! It opens after failures in a row, or when the success rate over a window falls too low; the rate is looked at
//! only when a call fails, so a success never opens it. Once open it rejects everything until its time is up, then
//! lets exactly one request through; that probe closes it or opens it again.
//!
//! When no other endpoint takes requests either, an opening protects nobody and only delays the moment at which the end
//! of an outage is noticed. So a request that has nowhere else to go may be a probe after `LONE_PAUSE`, and when it fails
//! the breaker opens for no longer than that again: what fails together is not this endpoint's own trouble.
//!
//! Every opening is twice as long as the one before, up to ten times `open_for`; after it has stayed closed for
//! that longest time, the next opening is short again.
//!
//! Outcomes are told apart by generation: each transition and each probe begins a new one, and what was admitted in
//! an earlier one no longer counts. A request sent before the breaker opened can therefore not close it, nor can a
//! late failure open it again.

use std::time::{Duration, Instant};

use super::window::Window;

/// The longest opening, as a multiple of the first.
const MAX_GROWTH: u32 = 10;

/// How long an open breaker holds back what has nowhere else to go.
const LONE_PAUSE: Duration = Duration::from_millis(250);

/// What metrics and the admin interface show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    Closed,
    Open,
    /// A probe is under way, or the next request will be one.
    HalfOpen,
}

/// The right to send one request. Give it back with its result or with a cancellation; a probe whose permit is lost
/// is replaced after `open_for`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permit {
    generation: u64,
    is_probe: bool,
    /// No other endpoint takes requests.
    is_lone: bool,
}

impl Permit {
    pub fn is_probe(&self) -> bool {
        self.is_probe
    }

    /// The same, known to be given while no other endpoint takes requests.
    pub fn lone(self) -> Self {
        Self {
            is_lone: true,
            ..self
        }
    }
}

/// A change worth reporting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    Opened { open_for: Duration },
    Closed,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// `since` is when the last opening ended; None: it was never open.
    Closed {
        consecutive: u32,
        since: Option<Instant>,
    },
    Open {
        since: Instant,
        open_for: Duration,
    },
    /// None: the probe was cancelled, the next request is the new one.
    HalfOpen {
        probe_started: Option<Instant>,
    },
}

#[derive(Debug)]
pub struct Breaker {
    config: forebay_config::gateway::Breaker,
    state: State,
    generation: u64,
    /// Openings since it last stayed closed for long.
    openings: u32,
    /// None: the success rate is off.
    window: Option<Window>,
}

impl Breaker {
    pub fn new(config: forebay_config::gateway::Breaker) -> Self {
        Self {
            config,
            state: State::Closed {
                consecutive: 0,
                since: None,
            },
            generation: 0,
            openings: 0,
            window: (config.success_rate > 0.0).then(|| Window::new(config.window)),
        }
    }

    /// Whether `admit` would give a permit.
    pub fn would_admit(&self, now: Instant) -> bool {
        match self.state {
            State::Closed { .. } => true,
            State::Open { since, open_for } => now.saturating_duration_since(since) >= open_for,
            State::HalfOpen {
                probe_started: None,
            } => true,
            State::HalfOpen {
                probe_started: Some(started),
            } => now.saturating_duration_since(started) >= self.config.open_for,
        }
    }

    /// None: rejected.
    pub fn admit(&mut self, now: Instant) -> Option<Permit> {
        if matches!(self.state, State::Closed { .. }) {
            return Some(Permit {
                generation: self.generation,
                is_probe: false,
                is_lone: false,
            });
        }
        self.would_admit(now).then(|| self.probe(now))
    }

    /// For a request that no other endpoint takes; None: rejected.
    pub fn admit_lone(&mut self, now: Instant) -> Option<Permit> {
        let early = match self.state {
            State::Open { since, .. } => now.saturating_duration_since(since) >= LONE_PAUSE,
            State::Closed { .. } | State::HalfOpen { .. } => false,
        };
        let permit = match early {
            true => Some(self.probe(now)),
            false => self.admit(now),
        };
        permit.map(Permit::lone)
    }

    fn probe(&mut self, now: Instant) -> Permit {
        self.enter(State::HalfOpen {
            probe_started: Some(now),
        });
        Permit {
            generation: self.generation,
            is_probe: true,
            is_lone: false,
        }
    }

    /// How the admitted request ended; `ok` is false where the endpoint is to blame.
    pub fn on_result(&mut self, now: Instant, permit: Permit, ok: bool) -> Option<Transition> {
        if permit.generation != self.generation {
            return None;
        }
        match &mut self.state {
            State::Closed { consecutive, .. } => {
                *consecutive = if ok { 0 } else { consecutive.saturating_add(1) };
                let consecutive = *consecutive;
                if let Some(window) = &mut self.window {
                    window.record(now, ok);
                }
                (!ok && self.trips(now, consecutive)).then(|| self.open(now))
            }
            State::HalfOpen { .. } if ok => {
                self.enter(State::Closed {
                    consecutive: 0,
                    since: Some(now),
                });
                if let Some(window) = &mut self.window {
                    window.clear();
                }
                Some(Transition::Closed)
            }
            State::HalfOpen { .. } if permit.is_lone => {
                Some(self.open_for(now, self.config.open_for.min(LONE_PAUSE)))
            }
            State::HalfOpen { .. } => Some(self.open(now)),
            // Opening begins a generation in which no permit is given.
            State::Open { .. } => None,
        }
    }

    /// The admitted request ended without saying anything about the endpoint.
    pub fn on_cancel(&mut self, permit: Permit) {
        if permit.is_probe && permit.generation == self.generation {
            self.enter(State::HalfOpen {
                probe_started: None,
            });
        }
    }

    /// The endpoint passes its health checks again: an open breaker need not wait, the next request is the probe.
    pub fn end_pause(&mut self) {
        if matches!(self.state, State::Open { .. }) {
            self.enter(State::HalfOpen {
                probe_started: None,
            });
        }
    }

    pub fn state(&self, now: Instant) -> BreakerState {
        match self.state {
            State::Closed { .. } => BreakerState::Closed,
            State::Open { .. } if !self.would_admit(now) => BreakerState::Open,
            State::Open { .. } | State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    fn trips(&self, now: Instant, consecutive: u32) -> bool {
        let in_a_row = self.config.consecutive_failures;
        if in_a_row > 0 && consecutive >= in_a_row {
            return true;
        }
        self.window.as_ref().is_some_and(|window| {
            let (ok, failed) = window.totals(now);
            let total = ok + failed;
            total >= u64::from(self.config.minimum_requests)
                && (ok as f64) < self.config.success_rate * total as f64
        })
    }

    fn open(&mut self, now: Instant) -> Transition {
        let longest = self.config.open_for.saturating_mul(MAX_GROWTH);
        if let State::Closed {
            since: Some(since), ..
        } = self.state
            && now.saturating_duration_since(since) >= longest
        {
            self.openings = 0;
        }
        let doublings = self.openings.min(MAX_GROWTH);
        let open_for = self
            .config
            .open_for
            .saturating_mul(1 << doublings)
            .min(longest);
        self.openings = self.openings.saturating_add(1);
        self.open_for(now, open_for)
    }

    fn open_for(&mut self, now: Instant, open_for: Duration) -> Transition {
        self.enter(State::Open {
            since: now,
            open_for,
        });
        Transition::Opened { open_for }
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.generation += 1;
    }
}

#[cfg(test)]
mod tests;
