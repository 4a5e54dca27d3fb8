//! What every policy must do, whichever it is.

use std::collections::VecDeque;

use forebay_config::gateway::Policy as Configured;
use proptest::prelude::*;

use super::ring_hash::tests::ring;
use super::{Candidate, Policy, build};

const POLICIES: [Configured; 6] = [
    Configured::RoundRobin,
    Configured::Random,
    Configured::LeastRequest,
    Configured::PeakEwma,
    Configured::LeastWork,
    Configured::RingHash,
];

/// For a fleet with these weights.
fn policy(configured: Configured, weights: &[u32]) -> Box<dyn Policy> {
    match configured {
        Configured::RingHash => Box::new(ring(weights, 1.25)),
        other => build(other),
    }
}

/// SplitMix64: moves the state on, and gives a well-mixed number from it.
pub(super) fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn fleet(weights: &[u32]) -> Vec<Candidate> {
    let candidate = |(index, &weight)| Candidate {
        index,
        weight,
        active: 0,
        cost: 0.010,
        expectation: None,
    };
    weights.iter().enumerate().map(candidate).collect()
}

/// How often each candidate is chosen while `in_flight` requests are kept running; the oldest ends first.
fn shares(
    policy: &dyn Policy,
    mut fleet: Vec<Candidate>,
    in_flight: usize,
    picks: usize,
    seed: u64,
) -> Vec<usize> {
    let mut state = seed;
    let mut running = VecDeque::new();
    let mut counts = vec![0; fleet.len()];
    for _ in 0..picks {
        if running.len() == in_flight
            && let Some(oldest) = running.pop_front()
        {
            let ended: &mut Candidate = &mut fleet[oldest];
            ended.active -= 1;
        }
        let position = policy.choose(&fleet, next(&mut state)).unwrap();
        fleet[position].active += 1;
        counts[position] += 1;
        running.push_back(position);
    }
    counts
}

fn candidate() -> impl Strategy<Value = Candidate> {
    let weight = prop_oneof![0_u32..5, Just(u32::MAX)];
    let active = prop_oneof![0_u32..50, Just(u32::MAX)];
    let cost = prop_oneof![0.0..10.0, Just(f64::NAN), Just(f64::INFINITY)];
    (0_usize..64, weight, active, cost).prop_map(|(index, weight, active, cost)| Candidate {
        index,
        weight,
        active,
        cost,
        expectation: None,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// One of the candidates, for any set of them in any order, one set after another.
    #[test]
    fn only_candidates_are_chosen(
        sets in prop::collection::vec((prop::collection::vec(candidate(), 0..20), any::<u64>()), 1..20)
    ) {
        for configured in POLICIES {
            let policy = policy(configured, &[1; 64]);
            for (candidates, random) in &sets {
                match policy.choose(candidates, *random) {
                    Some(position) => prop_assert!(position < candidates.len(), "{configured:?}"),
                    None => prop_assert!(candidates.is_empty(), "{configured:?}"),
                }
            }
        }
    }

    /// With equal costs and enough requests in flight for every endpoint to be busy, shares follow the weights.
    #[test]
    fn shares_follow_the_weights(weights in prop::collection::vec(1_u32..=5, 1..12), seed in any::<u64>()) {
        const PICKS: usize = 5_000;
        let total: u32 = weights.iter().sum();
        for configured in POLICIES {
            let counts = shares(&*policy(configured, &weights), fleet(&weights), 10 * total as usize, PICKS, seed);
            for (weight, count) in weights.iter().zip(&counts) {
                let expected = PICKS as f64 * f64::from(*weight) / f64::from(total);
                let allowed = 0.1 * expected + 6.0 * expected.sqrt();
                prop_assert!(
                    (*count as f64 - expected).abs() <= allowed,
                    "{configured:?} with {weights:?} gave {counts:?}"
                );
            }
        }
    }

    /// Equal endpoints without any load all get their turn.
    #[test]
    fn nobody_starves(size in 1_usize..40, seed in any::<u64>()) {
        for configured in POLICIES {
            let counts = shares(&*policy(configured, &vec![1; size]), fleet(&vec![1; size]), 1, 60 * size, seed);
            prop_assert!(counts.iter().all(|count| *count > 0), "{configured:?} gave {counts:?}");
        }
    }
}

#[test]
fn no_candidate_no_choice() {
    for configured in POLICIES {
        assert_eq!(
            policy(configured, &[1]).choose(&[], 7),
            None,
            "{configured:?}"
        );
    }
}
