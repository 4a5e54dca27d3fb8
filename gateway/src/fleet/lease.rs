//! The right to one request on one endpoint, counted for exactly as long as it is held.
//!
//! Whatever happens to the call (answer, error, retry, a client that goes away in mid-flight), dropping the
//! lease takes the count back. Counters that leak are how balancers end up sending everything to one endpoint.

use std::sync::Arc;
use std::time::Instant;

use super::ask::Ask;
use super::endpoint::{Endpoint, Entry};
use crate::traffic::retry::Outcome;

pub struct Lease {
    endpoint: Arc<Endpoint>,
    /// Position in the cluster, so that a retry can avoid it.
    pub index: usize,
    entry: Entry,
    outcome: Option<(Outcome, Instant)>,
}

impl Lease {
    /// None when the endpoint's breaker admits nothing now, or `most` requests are in flight there.
    pub(super) fn take(
        endpoint: &Arc<Endpoint>,
        index: usize,
        ask: &Ask<'_>,
        most: u32,
    ) -> Option<Self> {
        let entry = endpoint.enter(ask, most)?;
        Some(Self {
            endpoint: endpoint.clone(),
            index,
            entry,
            outcome: None,
        })
    }

    /// For a request that no other endpoint takes.
    pub(super) fn take_lone(
        endpoint: &Arc<Endpoint>,
        index: usize,
        ask: &Ask<'_>,
        most: u32,
    ) -> Option<Self> {
        let entry = endpoint.enter_lone(ask, most)?;
        Some(Self {
            endpoint: endpoint.clone(),
            index,
            entry,
            outcome: None,
        })
    }

    /// Whether it decides about the endpoint's breaker.
    pub(super) fn is_probe(&self) -> bool {
        self.entry.is_probe()
    }

    /// The same, known to be taken while no other endpoint takes requests.
    pub(super) fn lone(mut self) -> Self {
        self.entry = self.entry.lone();
        self
    }

    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// The endpoint began to answer: its latency is known now, although the lease goes on.
    pub fn head_arrived(&self, now: Instant) {
        self.endpoint.answered(&self.entry, now);
    }

    /// Ends the lease with what was learnt; a lease that is merely dropped counts as cancelled.
    pub fn finish(mut self, outcome: Outcome, now: Instant) {
        self.outcome = Some((outcome, now));
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let (outcome, now) = match self.outcome {
            Some((outcome, now)) => (Some(outcome), now),
            None => (None, self.entry.started),
        };
        self.endpoint.leave(self.entry, now, outcome);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use forebay_config::gateway as config;
    use proptest::prelude::*;

    use super::*;
    use crate::fleet::{Ask, Bearings, Cluster, EndpointBlueprint};
    use crate::upstream::Target;

    /// A cluster of `size` endpoints without health checks, so that all take traffic.
    pub fn cluster(size: u16, policy: config::Policy, now: Instant) -> Cluster {
        cluster_with(size, policy, None, now)
    }

    pub fn cluster_with(
        size: u16,
        policy: config::Policy,
        health: Option<config::Health>,
        now: Instant,
    ) -> Cluster {
        let addresses: Vec<String> = (0..size)
            .map(|n| format!("127.0.0.1:{}", 20_000 + n))
            .collect();
        let breaker = config::Breaker {
            consecutive_failures: 3,
            success_rate: 0.5,
            window: Duration::from_secs(10),
            minimum_requests: 5,
            open_for: Duration::from_millis(200),
        };
        let endpoints = addresses
            .iter()
            .map(|address| {
                let blueprint = EndpointBlueprint {
                    cluster: "c".into(),
                    address: address.clone(),
                    resolved: address.parse().unwrap(),
                    protocol: config::Protocol::Grpc,
                    health: health.clone(),
                    breaker: Some(breaker),
                    outlier: Some(config::Outlier::default()),
                    tls: None,
                    trust: None,
                    connect_timeout: Duration::from_secs(1),
                    load_reports: config::LoadReports::Answers,
                    authority: address.parse().unwrap(),
                };
                let target = Target {
                    address: blueprint.resolved,
                    tls: None,
                    timeout: Duration::from_secs(1),
                };
                Endpoint::new(blueprint, target, None, 1, now)
            })
            .collect();
        let config = config::Cluster {
            name: "c".into(),
            protocol: config::Protocol::Grpc,
            policy,
            load_reports: config::LoadReports::Answers,
            affinity: (policy == config::Policy::RingHash).then_some(config::Affinity {
                parameter: None,
                header: None,
                cookie: None,
                model: false,
                source: true,
                bound: 1.25,
            }),
            prefer: None,
            endpoints: addresses
                .into_iter()
                .map(|address| config::Endpoint::new(address, 1))
                .collect(),
            discovery: None,
            connect_timeout: Duration::from_secs(1),
            limit: None,
            health,
            panic_below: 0.0,
            breaker: Some(breaker),
            outlier: Some(config::Outlier::default()),
            slow_start: None,
            tls: None,
        };
        Cluster::new(config, endpoints)
    }

    /// Each with a key of its own.
    pub fn ask(tried: &[usize], random: u64, now: Instant) -> Ask<'_> {
        let bearings = Bearings {
            key: Some(random),
            ..Bearings::default()
        };
        let ask = Ask::new(tried, now).with(bearings);
        Ask { random, ..ask }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Take {
            avoid: Vec<usize>,
            rows: u32,
            random: u64,
        },
        Finish {
            which: usize,
            outcome: Option<Outcome>,
        },
        Wait(u16),
    }

    fn step() -> impl Strategy<Value = Step> {
        let outcome = prop_oneof![
            Just(None),
            Just(Some(Outcome::Success)),
            Just(Some(Outcome::Failure)),
            Just(Some(Outcome::Fault)),
            Just(Some(Outcome::Busy)),
            Just(Some(Outcome::Neutral)),
        ];
        prop_oneof![
            (
                prop::collection::vec(0..4_usize, 0..3),
                1_u32..=65_536,
                any::<u64>()
            )
                .prop_map(|(avoid, rows, random)| Step::Take {
                    avoid,
                    rows,
                    random
                }),
            (any::<usize>(), outcome).prop_map(|(which, outcome)| Step::Finish { which, outcome }),
            any::<u16>().prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// After any mix of successes, failures, cancellations and retries nothing is counted as active, and
        /// while leases are held exactly they are.
        #[test]
        fn active_is_what_is_held(
            steps in prop::collection::vec(step(), 0..200),
            policy in prop::sample::select(POLICIES.to_vec()),
        ) {
            let mut now = Instant::now();
            let cluster = cluster(4, policy, now);
            let mut held = Vec::new();
            for step in steps {
                match step {
                    Step::Take { avoid, rows, random } => {
                        let ask = ask(&avoid, random, now);
                        let ask = ask.with(Bearings { rows, ..ask.bearings });
                        if let Ok(lease) = cluster.lease(&ask) {
                            held.push(lease);
                        }
                    }
                    Step::Finish { which, outcome } if !held.is_empty() => {
                        let lease = held.swap_remove(which % held.len());
                        if let Some(outcome) = outcome {
                            lease.finish(outcome, now);
                        }
                    }
                    Step::Finish { .. } => {}
                    Step::Wait(milliseconds) => now += Duration::from_millis(u64::from(milliseconds)),
                }
                prop_assert_eq!(cluster.active(), held.len());
            }
            drop(held);
            prop_assert_eq!(cluster.active(), 0);
            for endpoint in cluster.endpoints() {
                prop_assert_eq!((endpoint.active(), endpoint.rows()), (0, 0));
            }
            // No breaker is left waiting for a probe that was cancelled: after its pause traffic flows again.
            now += Duration::from_secs(60);
            prop_assert!(cluster.lease(&ask(&[], 0, now)).is_ok());
        }
    }

    #[test]
    fn a_retry_avoids_what_was_tried_while_it_can() {
        let now = Instant::now();
        let cluster = cluster(3, config::Policy::LeastRequest, now);
        let first = cluster.lease(&ask(&[], 7, now)).ok().unwrap();
        let second = cluster.lease(&ask(&[first.index], 7, now)).ok().unwrap();
        assert_ne!(first.index, second.index);
        let third = cluster
            .lease(&ask(&[first.index, second.index], 7, now))
            .ok()
            .unwrap();
        assert!(![first.index, second.index].contains(&third.index));
        assert!(
            cluster.lease(&ask(&[0, 1, 2], 7, now)).is_ok(),
            "all tried: any will do"
        );
    }

    #[test]
    fn a_key_keeps_its_endpoint_and_moves_on_to_its_next() {
        let now = Instant::now();
        for size in [5, 1_000] {
            let cluster = cluster(size, config::Policy::RingHash, now);
            let keyed = |key, random| {
                ask(&[], random, now).with(Bearings {
                    key: Some(key),
                    ..Bearings::default()
                })
            };
            for key in 0..50 {
                let home = cluster.lease(&keyed(key, 1)).ok().unwrap().index;
                let tried = [home];
                let retry = |random| Ask {
                    tried: &tried,
                    ..keyed(key, random)
                };
                let second = cluster.lease(&retry(2)).ok().unwrap().index;
                assert_ne!(home, second);
                for random in 3..20 {
                    let again = cluster.lease(&keyed(key, random)).ok().unwrap().index;
                    assert_eq!(again, home);
                    let again = cluster.lease(&retry(random)).ok().unwrap();
                    assert_eq!(again.index, second, "a retry's endpoint is the key's too");
                }
            }
        }
    }

    #[test]
    fn least_work_goes_by_rows_not_by_requests() {
        let start = Instant::now();
        let cluster = cluster(2, config::Policy::LeastWork, start);
        let mut now = start;
        for random in 0..200_u64 {
            let mixed = random.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let lease = cluster.lease(&ask(&[], mixed, now)).ok().unwrap();
            now += Duration::from_millis(10);
            lease.finish(Outcome::Success, now);
        }
        let large = cluster
            .lease(&ask(&[], 7, now).with(Bearings {
                rows: 64,
                ..Bearings::default()
            }))
            .ok()
            .unwrap();
        let mut held = Vec::new();
        for random in 0..8 {
            held.push(cluster.lease(&ask(&[], random, now)).ok().unwrap());
        }
        assert!(held.iter().all(|small| small.index != large.index));
    }

    pub const POLICIES: [config::Policy; 6] = [
        config::Policy::RoundRobin,
        config::Policy::Random,
        config::Policy::LeastRequest,
        config::Policy::PeakEwma,
        config::Policy::LeastWork,
        config::Policy::RingHash,
    ];

    #[test]
    fn a_large_fleet_is_shared_evenly_and_what_was_tried_is_avoided() {
        let now = Instant::now();
        for policy in POLICIES {
            let cluster = cluster(1_000, policy, now);
            let mut held = Vec::new();
            for random in 0..3_000 {
                held.push(cluster.lease(&ask(&[], random, now)).ok().unwrap());
            }
            let most = cluster.endpoints().map(|endpoint| endpoint.active()).max();
            assert!(
                most <= Some(14),
                "{policy:?} put {most:?} of 3000 on one of 1000"
            );
            for random in 0..100 {
                let first = cluster.lease(&ask(&[], random, now)).ok().unwrap().index;
                let second = cluster
                    .lease(&ask(&[first], random, now))
                    .ok()
                    .unwrap()
                    .index;
                assert_ne!(first, second);
            }
        }
    }

    #[test]
    fn the_last_one_of_a_large_fleet_that_may_take_traffic_is_found() {
        let now = Instant::now();
        for policy in [config::Policy::LeastWork, config::Policy::RingHash] {
            let cluster = cluster(1_000, policy, now);
            let others = cluster.endpoints().enumerate();
            for (index, endpoint) in others.filter(|(index, _)| *index != 777) {
                for _ in 0..3 {
                    let ask = ask(&[], 0, now);
                    let lease = Lease::take(endpoint, index, &ask, u32::MAX).unwrap();
                    lease.finish(Outcome::Failure, now);
                }
            }
            assert_eq!(cluster.lease(&ask(&[], 5, now)).ok().unwrap().index, 777);
        }
    }

    /// `cargo test --release -p forebay-gateway choosing -- --ignored --nocapture`
    #[test]
    #[ignore = "a measurement, meant for a release build"]
    fn choosing_among_ten_thousand() {
        const CHOICES: u32 = 100_000;
        let now = Instant::now();
        for size in [4, 64, 512, 10_000] {
            for policy in POLICIES {
                let cluster = cluster(size, policy, now);
                let start = Instant::now();
                for random in 0..u64::from(CHOICES) {
                    let random = random.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    let lease = cluster.lease(&ask(&[], random, now)).ok().unwrap();
                    lease.finish(Outcome::Success, now);
                }
                let each = start.elapsed() / CHOICES;
                println!("{:>14} of {size:>6}: {each:?}", policy.name());
                assert!(size <= 512 || each < Duration::from_micros(5), "{each:?}");
            }
        }
    }
}
