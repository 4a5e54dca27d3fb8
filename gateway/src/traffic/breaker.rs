//! Circuit breaker of one endpoint: closed, open for a while, then one probe request decides.
//!
//! It opens after failures in a row, or when the success rate over a window falls too low; the rate is looked at
//! only when a call fails, so a success never opens it. Once open it rejects everything until its time is up, then
//! lets exactly one request through; that probe closes it or opens it again.
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
            });
        }
        if !self.would_admit(now) {
            return None;
        }
        self.enter(State::HalfOpen {
            probe_started: Some(now),
        });
        Some(Permit {
            generation: self.generation,
            is_probe: true,
        })
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
mod tests {
    use forebay_config::gateway::Breaker as Config;
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn in_a_row(failures: u32) -> Config {
        Config {
            consecutive_failures: failures,
            success_rate: 0.0,
            window: 10 * SECOND,
            minimum_requests: 10,
            open_for: SECOND,
        }
    }

    fn by_rate() -> Config {
        Config {
            success_rate: 0.5,
            ..in_a_row(0)
        }
    }

    fn call(breaker: &mut Breaker, now: Instant, ok: bool) -> Option<Transition> {
        let permit = breaker.admit(now).unwrap();
        breaker.on_result(now, permit, ok)
    }

    fn opened(open_for: Duration) -> Option<Transition> {
        Some(Transition::Opened { open_for })
    }

    #[test]
    fn failures_in_a_row_open_it() {
        let now = Instant::now();
        let mut breaker = Breaker::new(in_a_row(3));
        for ok in [false, false, true, false, false] {
            assert_eq!(call(&mut breaker, now, ok), None);
        }
        assert_eq!(breaker.state(now), BreakerState::Closed);
        assert_eq!(call(&mut breaker, now, false), opened(SECOND));
        assert_eq!(breaker.state(now), BreakerState::Open);
        assert!(!breaker.would_admit(now));
        assert_eq!(breaker.admit(now), None);
        assert_eq!(breaker.admit(now + SECOND - Duration::from_nanos(1)), None);
    }

    #[test]
    fn a_low_success_rate_opens_it() {
        let now = Instant::now();
        let mut breaker = Breaker::new(by_rate());
        for call_number in 0..9 {
            assert_eq!(
                call(&mut breaker, now, call_number >= 5),
                None,
                "below the minimum of requests"
            );
        }
        assert_eq!(call(&mut breaker, now, false), opened(SECOND), "4 of 10");
    }

    #[test]
    fn a_success_never_opens_it() {
        let now = Instant::now();
        let mut breaker = Breaker::new(by_rate());
        for _ in 0..9 {
            call(&mut breaker, now, false);
        }
        assert_eq!(call(&mut breaker, now, true), None);
        assert_eq!(breaker.state(now), BreakerState::Closed);
    }

    #[test]
    fn outcomes_older_than_the_window_do_not_count() {
        let now = Instant::now();
        let mut breaker = Breaker::new(by_rate());
        for _ in 0..9 {
            call(&mut breaker, now, false);
        }
        assert_eq!(call(&mut breaker, now + 10 * SECOND, false), None);
    }

    #[test]
    fn with_both_conditions_off_it_stays_closed() {
        let now = Instant::now();
        let mut breaker = Breaker::new(in_a_row(0));
        for _ in 0..1_000 {
            assert_eq!(call(&mut breaker, now, false), None);
        }
    }

    #[test]
    fn half_open_lets_one_probe_through_and_its_success_closes() {
        let now = Instant::now();
        let mut breaker = Breaker::new(in_a_row(1));
        call(&mut breaker, now, false);
        let later = now + SECOND;
        assert_eq!(breaker.state(later), BreakerState::HalfOpen);
        assert!(breaker.would_admit(later));
        let probe = breaker.admit(later).unwrap();
        assert!(probe.is_probe);
        assert!(!breaker.would_admit(later));
        assert_eq!(breaker.admit(later), None, "one at a time");
        assert_eq!(
            breaker.on_result(later, probe, true),
            Some(Transition::Closed)
        );
        assert_eq!(breaker.state(later), BreakerState::Closed);
        assert!(!breaker.admit(later).unwrap().is_probe);
    }

    #[test]
    fn a_failed_probe_opens_for_twice_as_long_up_to_ten_times() {
        let mut now = Instant::now();
        let mut breaker = Breaker::new(in_a_row(1));
        let mut transition = call(&mut breaker, now, false);
        for seconds in [1, 2, 4, 8, 10, 10] {
            let open_for = seconds * SECOND;
            assert_eq!(transition, opened(open_for));
            assert!(!breaker.would_admit(now + open_for - Duration::from_nanos(1)));
            now += open_for;
            transition = call(&mut breaker, now, false);
        }
    }

    #[test]
    fn staying_closed_for_the_longest_time_makes_the_next_opening_short() {
        let start = Instant::now();
        for (closed_for, expected) in [(9 * SECOND, 2 * SECOND), (10 * SECOND, SECOND)] {
            let mut breaker = Breaker::new(in_a_row(1));
            call(&mut breaker, start, false);
            let closed = start + SECOND;
            assert_eq!(call(&mut breaker, closed, true), Some(Transition::Closed));
            assert_eq!(
                call(&mut breaker, closed + closed_for, false),
                opened(expected)
            );
        }
    }

    #[test]
    fn closing_forgets_the_window() {
        let now = Instant::now();
        let mut breaker = Breaker::new(by_rate());
        for _ in 0..10 {
            call(&mut breaker, now, false);
        }
        assert_eq!(
            call(&mut breaker, now + SECOND, true),
            Some(Transition::Closed)
        );
        assert_eq!(call(&mut breaker, now + SECOND, false), None);
    }

    #[test]
    fn a_cancelled_probe_is_replaced_at_once() {
        let now = Instant::now();
        let mut breaker = Breaker::new(in_a_row(1));
        call(&mut breaker, now, false);
        let later = now + SECOND;
        let cancelled = breaker.admit(later).unwrap();
        breaker.on_cancel(cancelled);
        assert_eq!(breaker.state(later), BreakerState::HalfOpen);
        let probe = breaker.admit(later).unwrap();
        assert_eq!(
            breaker.on_result(later, cancelled, true),
            None,
            "it was given back"
        );
        assert_eq!(breaker.admit(later), None);
        assert_eq!(
            breaker.on_result(later, probe, true),
            Some(Transition::Closed)
        );
    }

    #[test]
    fn a_lost_probe_is_replaced_after_open_for() {
        let now = Instant::now();
        let mut breaker = Breaker::new(in_a_row(1));
        call(&mut breaker, now, false);
        let probing = now + SECOND;
        let lost = breaker.admit(probing).unwrap();
        assert_eq!(
            breaker.admit(probing + SECOND - Duration::from_nanos(1)),
            None
        );
        let replaced = probing + SECOND;
        let probe = breaker.admit(replaced).unwrap();
        assert_eq!(
            breaker.on_result(replaced, lost, true),
            None,
            "its word no longer counts"
        );
        breaker.on_cancel(lost);
        assert_eq!(
            breaker.admit(replaced),
            None,
            "nor does its cancellation free the place"
        );
        assert_eq!(
            breaker.on_result(replaced, probe, false),
            opened(2 * SECOND)
        );
    }

    #[test]
    fn outcomes_from_before_a_transition_do_not_count() {
        let now = Instant::now();
        let mut breaker = Breaker::new(in_a_row(1));
        let [first, second, third] = std::array::from_fn(|_| breaker.admit(now).unwrap());
        assert_eq!(breaker.on_result(now, first, false), opened(SECOND));
        assert_eq!(breaker.on_result(now, second, false), None);
        assert_eq!(breaker.on_result(now, second, true), None);
        assert_eq!(breaker.state(now), BreakerState::Open);
        let later = now + SECOND;
        assert_eq!(call(&mut breaker, later, true), Some(Transition::Closed));
        assert_eq!(breaker.on_result(later, third, false), None);
        assert_eq!(breaker.state(later), BreakerState::Closed);
    }

    #[test]
    fn cancelling_while_closed_changes_nothing() {
        let now = Instant::now();
        let mut breaker = Breaker::new(in_a_row(2));
        call(&mut breaker, now, false);
        let permit = breaker.admit(now).unwrap();
        breaker.on_cancel(permit);
        assert_eq!(breaker.state(now), BreakerState::Closed);
        assert_eq!(
            call(&mut breaker, now, false),
            opened(SECOND),
            "the count went on"
        );
    }

    #[test]
    fn endless_openings_do_not_overflow() {
        let now = Instant::now();
        let mut breaker = Breaker::new(Config {
            open_for: Duration::MAX,
            ..in_a_row(1)
        });
        assert_eq!(call(&mut breaker, now, false), opened(Duration::MAX));
        assert!(!breaker.would_admit(now + 1_000_000 * SECOND));
    }

    proptest! {
        /// Whatever is reported and however late: never two probes whose results count, and `would_admit` tells what
        /// `admit` does.
        #[test]
        fn at_most_one_probe_counts(steps in prop::collection::vec((0_u8..5, 0_u64..700, any::<prop::sample::Index>()), 1..200)) {
            let mut now = Instant::now();
            let mut breaker = Breaker::new(in_a_row(2));
            let mut permits: Vec<Permit> = Vec::new();
            for (action, milliseconds, which) in steps {
                now += Duration::from_millis(milliseconds);
                let promised = breaker.would_admit(now);
                if action < 2 || permits.is_empty() {
                    let permit = breaker.admit(now);
                    prop_assert_eq!(permit.is_some(), promised);
                    permits.extend(permit);
                } else {
                    let permit = permits.swap_remove(which.index(permits.len()));
                    match action {
                        2 => breaker.on_cancel(permit),
                        _ => {
                            let before = breaker.state(now);
                            let transition = breaker.on_result(now, permit, action == 3);
                            if transition == Some(Transition::Closed) {
                                prop_assert!(permit.is_probe && before == BreakerState::HalfOpen);
                            }
                        }
                    }
                }
                let counting = permits.iter().filter(|p| p.is_probe && p.generation == breaker.generation);
                prop_assert!(counting.count() <= 1);
            }
        }
    }
}
