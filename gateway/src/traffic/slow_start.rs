//! How much an endpoint may be given that has just turned healthy: its caches are cold, its model may still be compiling,
//! and all others are glad to be rid of their load.
//!
//! The share grows over a window by Envoy's formula, `max(least, (t / window)^(1 / aggression))`. Envoy scales weights by
//! it; here it bounds what the endpoint may have in flight, as that share of the fair share among those that are warm.
//! So it holds for every policy alike, for those too that look at nothing but the time or the key, and an endpoint
//! whose first answers are slow is given fewer of them. One request at a time it always may have.
//!
//! Where nobody is warm, as after a start of the gateway, nobody is spared.

use std::time::Duration;

use forebay_config::gateway::SlowStart;

use crate::traffic::balance::Candidate;

/// The share of an endpoint that has been healthy for this long; 1.0: it is warm.
pub fn share(config: &SlowStart, healthy_for: Duration) -> f64 {
    if healthy_for >= config.window {
        return 1.0;
    }
    let passed = healthy_for.as_secs_f64() / config.window.as_secs_f64();
    passed.powf(1.0 / config.aggression).max(config.least)
}

/// What warm endpoints have in flight for each unit of their weight, the request to be placed included.
#[derive(Debug, Clone, Copy)]
pub struct Level(f64);

impl Level {
    /// None: no candidate is warm. `share` is that of the endpoint at an index.
    pub fn of(candidates: &[Candidate], share: impl Fn(usize) -> f64) -> Option<Self> {
        let warm = candidates.iter().filter(|one| share(one.index) >= 1.0);
        let (active, weight) = warm.fold((0.0, 0.0), |(active, weight), one| {
            let own = f64::from(one.weight.max(1));
            (active + f64::from(one.active), weight + own)
        });
        (weight > 0.0).then(|| Self((active + 1.0) / weight))
    }

    /// Whether an endpoint with this share may be given another request.
    pub fn admits(self, candidate: &Candidate, share: f64) -> bool {
        let fair = self.0 * f64::from(candidate.weight.max(1));
        share >= 1.0 || candidate.active == 0 || f64::from(candidate.active) < share * fair
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(aggression: f64) -> SlowStart {
        SlowStart {
            window: Duration::from_secs(30),
            aggression,
            least: 0.1,
        }
    }

    fn candidate(index: usize, weight: u32, active: u32) -> Candidate {
        Candidate {
            index,
            weight,
            active,
            cost: 0.0,
            expectation: None,
        }
    }

    #[test]
    fn the_share_grows_over_the_window() {
        for (aggression, seconds, expected) in [
            (1.0, 0, 0.1),
            (1.0, 3, 0.1),
            (1.0, 15, 0.5),
            (1.0, 30, 1.0),
            (1.0, 3_000, 1.0),
            (2.0, 15, 0.5_f64.sqrt()),
            (0.5, 15, 0.25),
        ] {
            let share = share(&config(aggression), Duration::from_secs(seconds));
            assert!(
                (share - expected).abs() < 1e-9,
                "{aggression} {seconds}: {share}"
            );
        }
    }

    #[test]
    fn a_newcomer_gets_its_share_of_what_the_others_have() {
        let share = |index| if index == 2 { 0.25 } else { 1.0 };
        // 1 and 2 have 79 in flight for 4 units of weight: 20 a unit with the new one.
        let others = [candidate(0, 1, 29), candidate(1, 3, 50)];
        let admits = |weight, active| {
            let newcomer = candidate(2, weight, active);
            let all = [others[0], others[1], newcomer];
            Level::of(&all, share).unwrap().admits(&newcomer, 0.25)
        };
        assert!(admits(1, 4) && !admits(1, 5));
        assert!(admits(2, 9) && !admits(2, 10));
        let level = Level::of(&others, share).unwrap();
        assert!(others.iter().all(|one| level.admits(one, 1.0)));
    }

    #[test]
    fn one_request_is_always_allowed_and_nobody_is_spared_among_newcomers() {
        let newcomer = candidate(2, 1, 0);
        let level = Level::of(&[candidate(0, 1, 0), newcomer], |index| {
            if index == 2 { 0.1 } else { 1.0 }
        });
        assert!(level.unwrap().admits(&newcomer, 0.1));
        assert!(Level::of(&[newcomer], |_| 0.99).is_none());
    }
}
