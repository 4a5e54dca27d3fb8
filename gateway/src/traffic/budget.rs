//! Bounds how many retries may be under way at a time, so that a failing cluster is not buried under its own
//! retries.
//!
//! Allowed are `max(min, ratio × active)`, with the cluster's active requests at the moment of asking. A token is
//! held for as long as the retry runs and returns itself when dropped, cancelled requests included.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Shared by all requests of a route; lock-free.
#[derive(Debug)]
pub struct RetryBudget {
    in_use: Arc<AtomicUsize>,
    ratio: f64,
    min: usize,
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
        }
    }

    /// None: the budget is spent, the failure stands. `active` counts the cluster's requests under way.
    pub fn try_acquire(&self, active: usize) -> Option<RetryToken> {
        let allowed = self.min.max((self.ratio * active as f64) as usize);
        self.in_use
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                (used < allowed).then_some(used + 1)
            })
            .ok()?;
        Some(RetryToken(Arc::clone(&self.in_use)))
    }

    /// Retries under way.
    pub fn in_use(&self) -> usize {
        self.in_use.load(Ordering::Relaxed)
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

    #[test]
    fn the_minimum_holds_without_load() {
        let budget = RetryBudget::new(0.2, 3);
        let tokens: Vec<_> = (0..3).map(|_| budget.try_acquire(0)).collect();
        assert!(tokens.iter().all(Option::is_some));
        assert!(budget.try_acquire(0).is_none());
        assert_eq!(budget.in_use(), 3);
    }

    #[test]
    fn the_share_of_active_requests_counts_above_the_minimum() {
        let budget = RetryBudget::new(0.2, 3);
        let tokens: Vec<_> = std::iter::from_fn(|| budget.try_acquire(29)).collect();
        assert_eq!(tokens.len(), 5, "a fifth of 29, rounded down");
        assert!(
            budget.try_acquire(30).is_some(),
            "the bound follows the load"
        );
    }

    #[test]
    fn a_dropped_token_returns() {
        let budget = RetryBudget::new(0.0, 1);
        let token = budget.try_acquire(1_000);
        assert!(token.is_some());
        assert!(budget.try_acquire(1_000).is_none());
        drop(token);
        assert_eq!(budget.in_use(), 0);
        assert!(budget.try_acquire(1_000).is_some());
    }

    #[test]
    fn nothing_allowed_is_nothing_granted() {
        assert!(RetryBudget::new(0.0, 0).try_acquire(usize::MAX).is_none());
    }

    #[test]
    fn a_token_may_outlive_its_budget() {
        let budget = RetryBudget::new(1.0, 1);
        let token = budget.try_acquire(0);
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
                        let _token = budget.try_acquire(0);
                        assert!(budget.in_use() <= 4);
                    }
                });
            }
        });
        assert_eq!(budget.in_use(), 0);
    }
}
