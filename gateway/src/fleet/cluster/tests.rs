//! Which endpoint a cluster leases while endpoints come back.

use std::time::{Duration, Instant};

use forebay_config::gateway as config;

use crate::fleet::lease::tests::{POLICIES, ask, cluster};
use crate::fleet::{Bearings, Lease};
use crate::traffic::retry::Outcome;

#[test]
fn who_comes_back_is_spared_at_first_under_every_policy() {
    let start = Instant::now();
    let window = Duration::from_secs(30);
    for policy in POLICIES {
        let mut cluster = cluster(4, policy, start);
        cluster.config.slow_start = Some(config::SlowStart {
            window,
            aggression: 1.0,
            least: 0.1,
        });
        // Its breaker opens when the others are warm, and closes again.
        let mut now = start + window;
        let endpoint = cluster.endpoints().next().unwrap().clone();
        for _ in 0..3 {
            let lease = Lease::take(&endpoint, 0, &ask(&[], 0, now), u32::MAX).unwrap();
            lease.finish(Outcome::Failure, now);
        }
        now += Duration::from_millis(200);
        let probe = Lease::take(&endpoint, 0, &ask(&[], 0, now), u32::MAX).unwrap();
        probe.finish(Outcome::Success, now);
        let most = |now| {
            let leases = (0..400_u64).map(|random| {
                let random = random.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                cluster.lease(&ask(&[], random, now)).ok().unwrap()
            });
            let held: Vec<_> = leases.collect();
            (endpoint.active(), held.len())
        };
        let (first, _) = most(now);
        assert!(
            (1..=14).contains(&first),
            "{policy:?}: {first} of 400 at first"
        );
        let (half, _) = most(now + window / 2);
        assert!(
            (15..=70).contains(&half),
            "{policy:?}: {half} of 400 half way"
        );
        let (full, _) = most(now + window);
        assert!(
            (75..=150).contains(&full),
            "{policy:?}: {full} of 400 in the end"
        );
    }
}

#[test]
fn a_model_goes_to_who_is_ready_for_it_or_to_anyone() {
    let now = Instant::now();
    for policy in POLICIES {
        let cluster = cluster(4, policy, now);
        let with = |model, random, tried| {
            let key = Some(random);
            let ask = ask(tried, random, now).with(Bearings {
                key,
                model,
                ..Bearings::default()
            });
            cluster.lease(&ask).ok().unwrap().index
        };
        for (index, endpoint) in cluster.endpoints().enumerate() {
            endpoint.set_ready_models(if index == 2 { 0b11 } else { 0b01 });
        }
        for random in (0..100_u64).map(|random| random << 57 | random) {
            assert_eq!(with(0b10, random, &[]), 2, "{policy:?}");
            assert_eq!(
                with(0b10, random, &[2]),
                2,
                "{policy:?}: again, as no other is ready"
            );
            let _ = with(0b01, random, &[]);
        }
        let anyone: Vec<_> = (0..200_u64)
            .map(|random| with(0b100, random.wrapping_mul(0x9e37_79b9_7f4a_7c15), &[]))
            .collect();
        assert!(
            (0..4).all(|index| anyone.contains(&index)),
            "{policy:?}: {anyone:?}"
        );
    }
}
