//! What every policy must do, whichever it is.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use forebay_config::gateway::Policy as Configured;
use proptest::prelude::*;

use super::ring_hash::tests::ring;
use super::{Candidate, Policy, build};
use crate::traffic::others::OthersNow;
use crate::traffic::service_line::{Expectation, ServiceLine};

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

/// Of an endpoint that takes so many milliseconds for each row that is there.
fn line(milliseconds: u32, now: Instant) -> ServiceLine {
    let mut line = ServiceLine::new(now);
    for rows in [1, 2, 5, 10, 20, 40, 20, 10, 5, 2, 1] {
        let time = Duration::from_millis(u64::from(milliseconds * rows));
        line.observe(now, f64::from(rows), time);
    }
    line
}

/// How often each candidate is chosen while `in_flight` requests are kept running; the oldest ends first. `lines`: what
/// was measured of each; empty: nothing.
fn shares(
    policy: &dyn Policy,
    mut fleet: Vec<Candidate>,
    lines: &[ServiceLine],
    in_flight: usize,
    picks: usize,
    seed: u64,
) -> Vec<usize> {
    let now = Instant::now();
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
        for (candidate, line) in fleet.iter_mut().zip(lines) {
            let load = f64::from(candidate.active) + 1.0;
            candidate.expectation = Some(line.expectation(now, load, Duration::ZERO));
        }
        let position = policy.choose(&fleet, next(&mut state)).unwrap();
        fleet[position].active += 1;
        counts[position] += 1;
        running.push_back(position);
    }
    counts
}

/// Of any answers, failures, silence and reports.
fn expectation() -> impl Strategy<Value = Expectation> {
    let rows = prop_oneof![1.0..100.0, 1.0..65_536.0];
    let answers = prop::collection::vec((rows.clone(), 0.0..100.0), 0..20);
    let others = (prop_oneof![Just(0.0), 0.0..1e6], -1e3..1e6);
    let silence = prop_oneof![Just(0.0), 0.0..100.0];
    (answers, any::<bool>(), rows, others, silence).prop_map(
        |(answers, failed, load, (rows, unusual), silence)| {
            let now = Instant::now();
            let mut line = ServiceLine::new(now);
            for (load, seconds) in answers {
                line.observe(now, load, Duration::from_secs_f64(seconds));
            }
            if failed {
                line.penalize(now);
            }
            let expectation = line.expectation(now, load, Duration::from_secs_f64(silence));
            expectation.beside(OthersNow { rows, unusual })
        },
    )
}

fn candidate() -> impl Strategy<Value = Candidate> {
    let weight = prop_oneof![0_u32..5, Just(u32::MAX)];
    let active = prop_oneof![0_u32..50, Just(u32::MAX)];
    let cost = prop_oneof![0.0..10.0, Just(f64::NAN), Just(f64::INFINITY)];
    let expectation = prop::option::of(expectation());
    (0_usize..64, weight, active, cost, expectation).prop_map(
        |(index, weight, active, cost, expectation)| Candidate {
            index,
            weight,
            active,
            cost,
            expectation,
        },
    )
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
        let lines = vec![line(10, Instant::now()); weights.len()];
        for (configured, lines) in POLICIES.iter().flat_map(|one| [(*one, &[][..]), (*one, &lines)]) {
            let policy = policy(configured, &weights);
            let counts = shares(&*policy, fleet(&weights), lines, 10 * total as usize, PICKS, seed);
            for (weight, count) in weights.iter().zip(&counts) {
                let expected = PICKS as f64 * f64::from(*weight) / f64::from(total);
                let allowed = 0.1 * expected + 6.0 * expected.sqrt();
                prop_assert!(
                    (*count as f64 - expected).abs() <= allowed,
                    "{configured:?} with {weights:?} gave {counts:?}, measured: {}", lines.len()
                );
            }
        }
    }

    /// Equal endpoints without any load all get their turn.
    #[test]
    fn nobody_starves(size in 1_usize..40, seed in any::<u64>()) {
        for configured in POLICIES {
            let weights = vec![1; size];
            let lines = vec![line(10, Instant::now()); size];
            for lines in [&[][..], &lines] {
                let policy = policy(configured, &weights);
                let counts = shares(&*policy, fleet(&weights), lines, 1, 60 * size, seed);
                prop_assert!(counts.iter().all(|count| *count > 0), "{configured:?} gave {counts:?}");
            }
        }
    }

    /// Of endpoints that take equally many requests, the slower one gets fewer, by what was measured of them.
    #[test]
    fn the_slower_get_less(times in prop::collection::vec(1_u32..=8, 2..8), seed in any::<u64>()) {
        let weights = vec![1; times.len()];
        let now = Instant::now();
        let lines: Vec<ServiceLine> = times.iter().map(|time| line(5 * time, now)).collect();
        let policy = policy(Configured::LeastWork, &weights);
        let counts = shares(&*policy, fleet(&weights), &lines, 20 * times.len(), 5_000, seed);
        for (time, count) in times.iter().zip(&counts) {
            for (other, others) in times.iter().zip(&counts) {
                let slower = *time >= 2 * *other;
                prop_assert!(!slower || count < others, "{times:?} ms a row gave {counts:?}");
            }
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
