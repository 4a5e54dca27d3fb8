//! `[clusters.slow_start]`: an endpoint that has just turned healthy is not given its full share at once.

use std::time::Duration;

/// After time `t` an endpoint may have `max(least, (t / window)^(1 / aggression))` of its fair share in flight.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SlowStart {
    pub window: Duration,
    /// 1.0: the share grows evenly; above, faster at first; below, slower. 0.1 to 10.0.
    pub aggression: f64,
    /// 0.01 to 1.0.
    pub least: f64,
}
