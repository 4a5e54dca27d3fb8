//! Which requests without a parent are traced, changeable while the process runs.
//!
//! A caller's own decision is kept, so that its traces are whole; turned off, nothing is traced at all.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Shared by whoever asks and whoever changes it. Each value is right by itself, so nobody waits for a lock.
#[derive(Debug)]
pub struct Sampling {
    on: AtomicBool,
    /// Bits of an f64.
    ratio: AtomicU64,
}

impl Sampling {
    /// `ratio` of the requests, 0.0 to 1.0.
    pub fn new(ratio: f64) -> Sampling {
        Sampling {
            on: AtomicBool::new(true),
            ratio: AtomicU64::new(ratio.to_bits()),
        }
    }

    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    pub fn switch(&self, on: bool) {
        self.on.store(on, Ordering::Relaxed);
    }

    pub fn ratio(&self) -> f64 {
        f64::from_bits(self.ratio.load(Ordering::Relaxed))
    }

    pub fn set_ratio(&self, ratio: f64) {
        self.ratio.store(ratio.to_bits(), Ordering::Relaxed);
    }

    /// Whether to trace a request. `parent` is its caller's decision, `random` is uniform below 1.
    pub fn wants(&self, parent: Option<bool>, random: impl FnOnce() -> f64) -> bool {
        self.is_on() && parent.unwrap_or_else(|| random() < self.ratio())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_decides_and_without_one_the_ratio() {
        let sampling = Sampling::new(0.25);
        for (parent, random, wanted) in [
            (None, 0.24, true),
            (None, 0.25, false),
            (Some(true), 0.99, true),
            (Some(false), 0.0, false),
        ] {
            assert_eq!(
                sampling.wants(parent, || random),
                wanted,
                "{parent:?} {random}"
            );
        }
        sampling.set_ratio(0.0);
        assert!(!sampling.wants(None, || 0.0));
        sampling.set_ratio(1.0);
        assert!(sampling.wants(None, || 0.999));
        sampling.switch(false);
        assert!(!sampling.wants(Some(true), || 0.0));
    }
}
