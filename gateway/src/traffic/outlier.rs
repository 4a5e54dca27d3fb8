//! Which endpoints fail so much more often than the others of their cluster that they are left out for a while.
//!
//! A breaker looks at one endpoint alone and must not count what a caller's values may provoke. Beside its peers an
//! endpoint shows more: values that provoke errors provoke them everywhere, so an endpoint that alone answers with
//! internal errors is broken (a GPU whose context is corrupt fails every call, and fast). Each endpoint's share of
//! failures is compared with that of all others together: the difference must be large, and unlikely to be chance by
//! the two-proportion z-test (pooled standard error; NIST/SEMATECH e-Handbook of Statistical Methods, section 7.3.3).
//! A pair of endpoints with a few dozen requests each suffices, where tests against the fleet's spread, such as
//! Envoy's, need five endpoints with a hundred requests each.
//!
//! An ejection lasts longer each time, as Envoy's does; good conduct shortens the next one again. How many may be out
//! at the same time is bounded, and a cluster that has nobody else left uses them all the same (`fleet::Cluster`).

use std::time::{Duration, Instant};

use forebay_config::gateway::Outlier;

/// Standard errors that make chance unlikely enough: 1 in 30,000 for each comparison.
const SIGNIFICANT: f64 = 4.0;

/// What one endpoint did within the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reading {
    pub succeeded: u64,
    pub failed: u64,
    /// It is out already: it counts as such, and its answers are not compared.
    pub ejected: bool,
}

impl Reading {
    fn total(&self) -> u64 {
        self.succeeded + self.failed
    }
}

/// The positions to eject, the worst first.
pub fn judge(config: &Outlier, readings: &[Reading]) -> Vec<usize> {
    let compared = || readings.iter().filter(|reading| !reading.ejected);
    let failed: u64 = compared().map(|reading| reading.failed).sum();
    if failed == 0 {
        return Vec::new();
    }
    let total: u64 = compared().map(Reading::total).sum();
    let mut found: Vec<(usize, f64)> = readings
        .iter()
        .enumerate()
        .filter(|(_, reading)| !reading.ejected)
        .filter_map(|(position, own)| {
            let others = (failed - own.failed, total - own.total());
            excess(config, (own.failed, own.total()), others).map(|excess| (position, excess))
        })
        .collect();
    found.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let out = readings.iter().filter(|reading| reading.ejected).count();
    found.truncate(most(config, readings.len()).saturating_sub(out));
    found.into_iter().map(|(position, _)| position).collect()
}

/// How many of `size` may be out: the configured share, but one at least where there are two.
fn most(config: &Outlier, size: usize) -> usize {
    let share = (config.max_ejected * size as f64) as usize;
    share.max(1).min(size.saturating_sub(1))
}

/// By how much more often than the others it fails; None if that is too little or may be chance. Pairs are failures
/// and requests.
fn excess(config: &Outlier, own: (u64, u64), others: (u64, u64)) -> Option<f64> {
    let least = u64::from(config.minimum_requests);
    if own.1 < least || others.1 < least {
        return None;
    }
    let (own_failed, own_total) = (own.0 as f64, own.1 as f64);
    let (other_failed, other_total) = (others.0 as f64, others.1 as f64);
    let excess = own_failed / own_total - other_failed / other_total;
    let pooled = (own_failed + other_failed) / (own_total + other_total);
    let variance = pooled * (1.0 - pooled) * (1.0 / own_total + 1.0 / other_total);
    (excess >= config.margin && excess >= SIGNIFICANT * variance.sqrt()).then_some(excess)
}

/// Whether one endpoint is in or out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// `ejections`: how often it was out in a row, with too little good conduct since.
    In {
        since: Instant,
        ejections: u32,
    },
    Out {
        until: Instant,
        ejections: u32,
    },
}

impl Standing {
    pub fn new(now: Instant) -> Self {
        Self::In {
            since: now,
            ejections: 0,
        }
    }

    /// Out from now on, `eject_for` times the ejections in a row; one that is out already stays as it is.
    pub fn eject(&mut self, config: &Outlier, now: Instant) {
        if let Self::In { since, ejections } = self.at(now) {
            let good = now.saturating_duration_since(since).as_nanos();
            let forgiven = good / config.eject_for.as_nanos().max(1);
            let forgiven = u32::try_from(forgiven).unwrap_or(u32::MAX);
            let ejections = ejections.saturating_sub(forgiven).saturating_add(1);
            let length = config.eject_for.saturating_mul(ejections);
            *self = Self::Out {
                until: now + length.min(config.eject_max),
                ejections,
            };
        }
    }

    /// As of `now`: an ejection that is over has ended.
    pub fn at(self, now: Instant) -> Self {
        match self {
            Self::Out { until, ejections } if until <= now => Self::In {
                since: until,
                ejections,
            },
            standing => standing,
        }
    }

    /// In from now on, whatever it was; how often it was out is not forgotten.
    pub fn readmit(&mut self, now: Instant) {
        if let Self::Out { ejections, .. } = self.at(now) {
            *self = Self::In {
                since: now,
                ejections,
            };
        }
    }

    /// How much longer it is out; zero: it is in.
    pub fn left(self, now: Instant) -> Duration {
        match self.at(now) {
            Self::Out { until, .. } => until.saturating_duration_since(now),
            Self::In { .. } => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOBODY: [usize; 0] = [];

    fn reading(succeeded: u64, failed: u64) -> Reading {
        Reading {
            succeeded,
            failed,
            ejected: false,
        }
    }

    fn out() -> Reading {
        Reading {
            ejected: true,
            ..Reading::default()
        }
    }

    #[test]
    fn who_fails_where_the_other_does_not_is_out_even_of_two() {
        let config = Outlier::default();
        assert_eq!(judge(&config, &[reading(0, 20), reading(20, 0)]), [0]);
        assert_eq!(judge(&config, &[reading(200, 0), reading(70, 30)]), [1]);
        assert_eq!(
            judge(&config, &[reading(0, 19), reading(500, 0)]),
            NOBODY,
            "too few"
        );
        assert_eq!(
            judge(&config, &[reading(0, 500), reading(19, 0)]),
            NOBODY,
            "too few to compare with"
        );
        assert_eq!(judge(&config, &[reading(0, 500)]), NOBODY, "alone");
        assert_eq!(judge(&config, &[]), NOBODY);
    }

    #[test]
    fn what_fails_everywhere_is_nobodys_fault() {
        let config = Outlier::default();
        let all = [reading(0, 100), reading(0, 90), reading(1, 120)];
        assert_eq!(judge(&config, &all), NOBODY);
        let half = [reading(50, 50), reading(48, 52), reading(55, 45)];
        assert_eq!(judge(&config, &half), NOBODY);
    }

    #[test]
    fn a_little_worse_is_not_enough_however_sure() {
        let config = Outlier::default();
        let fleet = [reading(900_000, 100_000), reading(1_000_000, 0)];
        assert_eq!(
            judge(&config, &fleet),
            NOBODY,
            "a tenth, and the margin is more"
        );
    }

    #[test]
    fn the_worst_go_first_and_never_too_many() {
        let config = Outlier::default();
        let fleet = [
            reading(60, 40),
            reading(0, 100),
            reading(900, 0),
            reading(900, 0),
        ];
        assert_eq!(judge(&config, &fleet), [1, 0]);
        let mut fleet = fleet.to_vec();
        fleet[1] = out();
        assert_eq!(judge(&config, &fleet), [0]);
        fleet[0] = out();
        fleet[2] = reading(0, 100);
        assert_eq!(judge(&config, &fleet), NOBODY, "half of four are out");
    }

    #[test]
    fn an_ejection_lasts_longer_each_time_and_good_conduct_is_rewarded() {
        let config = Outlier {
            eject_for: Duration::from_secs(30),
            eject_max: Duration::from_secs(100),
            ..Outlier::default()
        };
        let mut now = Instant::now();
        let mut standing = Standing::new(now);
        for seconds in [30, 60, 90, 100, 100] {
            standing.eject(&config, now);
            assert_eq!(standing.left(now), Duration::from_secs(seconds));
            standing.eject(&config, now + Duration::from_secs(1));
            assert_eq!(standing.left(now).as_secs(), seconds, "it was out already");
            now += Duration::from_secs(seconds);
            assert_eq!(standing.left(now), Duration::ZERO);
        }
        standing.eject(&config, now + Duration::from_secs(90));
        let Standing::Out { ejections, .. } = standing else {
            panic!("{standing:?}");
        };
        assert_eq!(
            ejections,
            5 - 3 + 1,
            "three times thirty seconds of good conduct"
        );
    }

    #[test]
    fn who_is_readmitted_is_in_at_once() {
        let config = Outlier::default();
        let now = Instant::now();
        let mut standing = Standing::new(now);
        standing.eject(&config, now);
        standing.readmit(now);
        assert_eq!(standing.left(now), Duration::ZERO);
        standing.eject(&config, now);
        assert_eq!(
            standing.left(now),
            2 * config.eject_for,
            "and not as a stranger"
        );
    }

    /// Poison that half of all calls carry, at random, over a day of a busy fleet's seconds.
    #[test]
    fn chance_ejects_nobody() {
        let config = Outlier::default();
        let mut random = fastrand::Rng::with_seed(42);
        let mut ejected = 0;
        for _ in 0..2_000 {
            let mut endpoint = || {
                let failed = (0..100).filter(|_| random.bool()).count() as u64;
                reading(100 - failed, failed)
            };
            let fleet: Vec<_> = (0..4).map(|_| endpoint()).collect();
            ejected += judge(&config, &fleet).len();
        }
        assert!(ejected <= 2, "{ejected} of 8,000");
    }

    proptest! {
        #[test]
        fn somebody_always_stays(
            readings in prop::collection::vec((0_u64..1_000, 0_u64..1_000, any::<bool>()), 0..40),
            max_ejected in 0.0..=1.0,
        ) {
            let config = Outlier { max_ejected, ..Outlier::default() };
            let readings: Vec<_> = readings
                .into_iter()
                .map(|(succeeded, failed, ejected)| Reading { succeeded, failed, ejected })
                .collect();
            let found = judge(&config, &readings);
            prop_assert!(found.iter().all(|position| !readings[*position].ejected));
            let out = readings.iter().filter(|reading| reading.ejected).count();
            prop_assert!(found.is_empty() || out + found.len() < readings.len());
        }
    }
}
