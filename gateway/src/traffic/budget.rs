//! Bounds retries, so that a failing cluster is not buried under its own retries.
//!
//! Two allowances, either of which grants a retry:
//!
//! - *at a time*: `ratio × active` retries under way, with the cluster's active requests at the moment of asking
//!   (Envoy's retry budget), and always `min`. Where attempts fail at once, few are active and `min` at a time could
//!   still be hundreds a second, so of these there are `min` in each tenth of a second;
//! - *saved up*: each success puts `ratio` of a retry into a reserve that fades with a time constant of five
//!   seconds, as linkerd's budget does in its way. An endpoint that dies with a third of the traffic in flight
//!   breaks more requests at once than a fifth of the active ones, and each of them deserves its second try; when
//!   everything fails nothing is put in, and the reserve is soon spent.
//!
//! A token is held for as long as the retry runs and returns itself when dropped, cancelled requests included.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long what was saved up lasts.
const FADE: Duration = Duration::from_secs(5);
/// In which `min` retries are allowed whatever the load.
const FLOOR: Duration = Duration::from_millis(100);

/// Shared by all requests of a route.
#[derive(Debug)]
pub struct RetryBudget {
    in_use: Arc<AtomicUsize>,
    ratio: f64,
    min: usize,
    reserve: Mutex<Reserve>,
    floor: Mutex<Floor>,
}

/// What is left of the retries that are always allowed.
#[derive(Debug, Default)]
struct Floor {
    used: f64,
    stamp: Option<Instant>,
}

#[derive(Debug, Default)]
struct Reserve {
    retries: f64,
    stamp: Option<Instant>,
}

/// The right to one retry; gives itself back when dropped.
#[derive(Debug)]
pub struct RetryToken(Arc<AtomicUsize>);

impl RetryBudget {
    /// `ratio`: 0.0 to 1.0 of the active requests; `min`: retries that are always allowed at a time.
    pub fn new(ratio: f64, min: u32) -> Self {
        Self {
            in_use: Arc::new(AtomicUsize::new(0)),
            ratio,
            min: min as usize,
            reserve: Mutex::default(),
            floor: Mutex::default(),
        }
    }

    /// A request succeeded.
    pub fn succeeded(&self, now: Instant) {
        let mut reserve = self.reserve.lock();
        reserve.fade(now);
        reserve.retries += self.ratio;
    }

    /// None: the budget is spent, the failure stands. `active` counts the cluster's requests under way.
    pub fn try_acquire(&self, active: usize, now: Instant) -> Option<RetryToken> {
        let allowed = (self.ratio * active as f64) as usize;
        if !self.enter(allowed) && !self.enter_floor(now) {
            if !self.reserve.lock().withdraw(now) {
                return None;
            }
            self.in_use.fetch_add(1, Ordering::Relaxed);
        }
        Some(RetryToken(Arc::clone(&self.in_use)))
    }

    /// Counts one more, if that makes no more than `allowed`.
    fn enter(&self, allowed: usize) -> bool {
        let enter = |used| (used < allowed).then_some(used + 1);
        self.in_use
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, enter)
            .is_ok()
    }

    fn enter_floor(&self, now: Instant) -> bool {
        let mut floor = self.floor.lock();
        floor.recover(now, self.min);
        let entered = floor.used + 1.0 <= self.min as f64 && self.enter(self.min);
        if entered {
            floor.used += 1.0;
        }
        entered
    }

    /// Retries under way.
    pub fn in_use(&self) -> usize {
        self.in_use.load(Ordering::Relaxed)
    }
}

impl Floor {
    fn recover(&mut self, now: Instant, min: usize) {
        let since = self
            .stamp
            .map_or(Duration::ZERO, |stamp| now.saturating_duration_since(stamp));
        let recovered = min as f64 * since.as_secs_f64() / FLOOR.as_secs_f64();
        self.used = (self.used - recovered).max(0.0);
        self.stamp = Some(self.stamp.map_or(now, |stamp| stamp.max(now)));
    }
}

impl Reserve {
    fn fade(&mut self, now: Instant) {
        let since = self
            .stamp
            .map_or(Duration::ZERO, |stamp| now.saturating_duration_since(stamp));
        self.retries *= (-since.as_secs_f64() / FADE.as_secs_f64()).exp();
        self.stamp = Some(self.stamp.map_or(now, |stamp| stamp.max(now)));
    }

    fn withdraw(&mut self, now: Instant) -> bool {
        self.fade(now);
        let enough = self.retries >= 1.0;
        if enough {
            self.retries -= 1.0;
        }
        enough
    }
}

impl Drop for RetryToken {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Instant {
        Instant::now()
    }

    #[test]
    fn what_was_saved_up_serves_a_burst_once() {
        let budget = RetryBudget::new(0.25, 3);
        let start = now();
        for _ in 0..100 {
            budget.succeeded(start);
        }
        let burst: Vec<_> = std::iter::from_fn(|| budget.try_acquire(10, start)).collect();
        assert_eq!(
            burst.len(),
            3 + 25,
            "three at a time, and a quarter of a hundred"
        );
        drop(burst);
        let next: Vec<_> = std::iter::from_fn(|| budget.try_acquire(10, start)).collect();
        assert_eq!(next.len(), 3, "nothing succeeded since");
    }

    #[test]
    fn what_was_saved_up_fades() {
        let budget = RetryBudget::new(0.5, 0);
        let start = now();
        for _ in 0..20 {
            budget.succeeded(start);
        }
        let later = start + FADE;
        let burst: Vec<_> = std::iter::from_fn(|| budget.try_acquire(0, later)).collect();
        assert_eq!(burst.len(), 3, "ten, after one time constant");
    }

    #[test]
    fn the_minimum_holds_without_load() {
        let budget = RetryBudget::new(0.2, 3);
        let tokens: Vec<_> = (0..3).map(|_| budget.try_acquire(0, now())).collect();
        assert!(tokens.iter().all(Option::is_some));
        assert!(budget.try_acquire(0, now()).is_none());
        assert_eq!(budget.in_use(), 3);
    }

    #[test]
    fn the_minimum_is_one_of_time_too() {
        let budget = RetryBudget::new(0.2, 3);
        let start = now();
        // Attempts that fail within a millisecond, and never more than one retry under way.
        let granted = (0..1000).filter(|millisecond| {
            let later = start + Duration::from_millis(*millisecond);
            budget.try_acquire(1, later).is_some()
        });
        assert_eq!(
            granted.count(),
            3 + 29,
            "three at once, and thirty a second"
        );
    }

    #[test]
    fn the_share_of_active_requests_counts_above_the_minimum() {
        let budget = RetryBudget::new(0.2, 3);
        let tokens: Vec<_> = std::iter::from_fn(|| budget.try_acquire(29, now())).collect();
        assert_eq!(tokens.len(), 5, "a fifth of 29, rounded down");
        assert!(
            budget.try_acquire(30, now()).is_some(),
            "the bound follows the load"
        );
    }

    #[test]
    fn a_dropped_token_returns() {
        let budget = RetryBudget::new(0.001, 0);
        let token = budget.try_acquire(1_000, now());
        assert!(token.is_some());
        assert!(budget.try_acquire(1_000, now()).is_none());
        drop(token);
        assert_eq!(budget.in_use(), 0);
        assert!(budget.try_acquire(1_000, now()).is_some());
    }

    #[test]
    fn nothing_allowed_is_nothing_granted() {
        assert!(
            RetryBudget::new(0.0, 0)
                .try_acquire(usize::MAX, now())
                .is_none()
        );
    }

    #[test]
    fn a_token_may_outlive_its_budget() {
        let budget = RetryBudget::new(1.0, 1);
        let token = budget.try_acquire(0, now());
        drop(budget);
        assert!(token.is_some());
    }

    #[test]
    fn threads_never_exceed_the_bound() {
        let budget = RetryBudget::new(0.0, 4);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        let _token = budget.try_acquire(0, now());
                        assert!(budget.in_use() <= 4);
                    }
                });
            }
        });
        assert_eq!(budget.in_use(), 0);
    }
}
