//! Which endpoint a cluster leases: within subsets, with preferences, in panic, and while endpoints come back.

mod models;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use forebay_config::gateway as config;
use futures::FutureExt;

use crate::fleet::lease::tests::{POLICIES, ask, cluster, cluster_with};
use crate::fleet::{Ask, Bearings, Caller, Cluster, Lease, NoLease, Unserved};
use crate::traffic::deadline::Deadline;
use crate::traffic::retry::Outcome;
use crate::traffic::subset::Selector;

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
        // Its smoothed latency begins anew too, above that of those who were idle meanwhile.
        let reserved = policy == config::Policy::PeakEwma;
        let (half, _) = most(now + window / 2);
        assert!(
            (if reserved { 2 } else { 15 }..=70).contains(&half),
            "{policy:?}: {half} of 400 half way"
        );
        let (full, _) = most(now + window);
        assert!(
            (if reserved { 2 } else { 75 }..=150).contains(&full),
            "{policy:?}: {full} of 400 in the end"
        );
    }
}

/// At most so many in flight at each endpoint.
fn limit(max_requests: u32) -> config::Limit {
    config::Limit {
        max_requests,
        queue: config::Queue {
            size: 10,
            max_wait: None,
            priority_header: None,
            tenant_header: None,
        },
    }
}

/// The same endpoints under another configuration.
fn changed(cluster: &Cluster, change: impl FnOnce(&mut config::Cluster)) -> Cluster {
    let mut config = cluster.config.clone();
    change(&mut config);
    Cluster::new(config, cluster.endpoints().cloned().collect())
}

fn subset(kind: &str, fallback: config::SubsetFallback) -> config::Subset {
    config::Subset {
        labels: [("gpu".to_owned(), config::LabelValue::Exact(kind.to_owned()))].into(),
        fallback,
    }
}

fn tickets(count: u64) -> impl Iterator<Item = u64> {
    (0..count).map(|ticket| ticket.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

#[test]
fn a_subset_is_kept_to_for_as_long_as_its_fallback_says() {
    let now = Instant::now();
    let none = http::HeaderMap::new();
    let wish = |kind, fallback| Selector::new(&subset(kind, fallback)).wish(&none);
    let (strict, lenient) = (config::SubsetFallback::None, config::SubsetFallback::Any);
    for policy in POLICIES {
        for size in [9_usize, 1_800] {
            let plain = cluster(u16::try_from(size).unwrap(), policy, now);
            let selector = Selector::new(&subset("kind-1", strict));
            let cluster = changed(&plain, |config| {
                for (index, endpoint) in config.endpoints.iter_mut().enumerate() {
                    endpoint.labels = [("gpu".to_owned(), format!("kind-{}", index % 3))].into();
                }
            });
            let cluster = cluster.selected_by(vec![selector]);
            let tried: Vec<usize> = (0..size).filter(|index| index % 3 == 1).collect();
            let asking = |tried, random, wish| {
                let ask = ask(tried, random, now);
                ask.with(Bearings {
                    wish,
                    ..ask.bearings
                })
            };
            for random in tickets(100) {
                for fallback in [strict, lenient] {
                    let ask = asking(&[], random, wish("kind-1", fallback));
                    let lease = cluster.lease(&ask).ok().unwrap();
                    assert_eq!(lease.index % 3, 1, "{policy:?} of {size}");
                }
                let other = asking(&tried, random, wish("kind-1", lenient));
                assert_ne!(cluster.lease(&other).ok().unwrap().index % 3, 1);
                let other = asking(&tried, random, wish("kind-1", strict));
                assert!(cluster.lease_other(&other).is_none());
                assert_eq!(cluster.lease(&other).ok().unwrap().index % 3, 1);
            }
            for (fallback, found) in [(strict, false), (lenient, true)] {
                let ask = asking(&[], 7, wish("kind-9", fallback));
                assert_eq!(cluster.lease(&ask).is_ok(), found);
            }
            assert_eq!(cluster.active(), 0);
        }
    }
}

#[tokio::test]
async fn who_waits_for_a_subset_is_served_when_one_of_it_frees_and_holds_up_no_other() {
    let now = Instant::now();
    let plain = cluster(2, config::Policy::LeastRequest, now);
    let make = |former: Option<&Cluster>, selectors| {
        let cluster = changed(&plain, |config| {
            config.limit = Some(limit(1));
            for (index, endpoint) in config.endpoints.iter_mut().enumerate() {
                endpoint.labels = [("gpu".to_owned(), format!("kind-{index}"))].into();
            }
        });
        let cluster = cluster.selected_by(selectors).succeed(former);
        cluster.take_over(now);
        cluster
    };
    let selectors = |kinds: &[&str]| {
        let kinds = kinds.iter();
        kinds
            .map(|kind| Selector::new(&subset(kind, config::SubsetFallback::None)))
            .collect::<Vec<_>>()
    };
    let headers = http::HeaderMap::new();
    let bearings = |kind: &str| Bearings {
        wish: selectors(&[kind])[0].wish(&headers),
        ..Bearings::default()
    };
    let first = make(None, selectors(&["kind-0", "kind-1"]));
    let lease = |kind: &str| {
        let ask = Ask::new(&[], now).with(bearings(kind));
        first.lease(&ask).ok().unwrap()
    };
    let (zero, one) = (lease("kind-0"), lease("kind-1"));
    assert_eq!((zero.index, one.index), (0, 1));
    let room = first.room().unwrap();
    let join = |kind: &str| {
        let caller = Caller {
            headers: &headers,
            route: "r",
            deadline: Deadline::from(now, Duration::from_secs(60), None),
            tried: &[],
            bearings: bearings(kind),
        };
        room.join(&caller, now)
    };
    let waits = |kind| join(kind).ok().unwrap();
    let (of_zero, of_one) = (waits("kind-0"), waits("kind-1"));
    assert_eq!(
        join("kind-9").err(),
        Some(Unserved::NobodyInSubset),
        "nobody waits for what there is not"
    );
    // After a reload whose routes do not ask for it any more, too.
    let second = make(Some(&first), Vec::new());
    drop(one);
    let (served, _) = of_one.turn().now_or_never().unwrap().ok().unwrap();
    assert_eq!(served.index, 1);
    drop(served);
    // Past the one that waits for the other endpoint, even in the place of those it asks to be behind.
    let (served, _) = waits("kind-1").turn().now_or_never().unwrap().ok().unwrap();
    assert_eq!(served.index, 1);
    drop(zero);
    let (served, _) = of_zero.turn().now_or_never().unwrap().ok().unwrap();
    assert_eq!(served.index, 0);
    drop(served);
    let gone = Ask::new(&[], now).with(Bearings {
        wish: Selector::new(&subset("kind-9", config::SubsetFallback::None)).wish(&headers),
        ..Bearings::default()
    });
    assert!(
        matches!(second.lease(&gone), Err(NoLease::NoEndpoint)),
        "nobody waits for what there is not"
    );
}

#[test]
fn preferred_endpoints_get_everything_until_too_few_are_left() {
    let now = Instant::now();
    for policy in POLICIES {
        for size in [20_usize, 2_000] {
            let plain = cluster(u16::try_from(size).unwrap(), policy, now);
            let cluster = changed(&plain, |config| {
                config.prefer = Some(config::Prefer {
                    labels: [("zone".to_owned(), "a".to_owned())].into(),
                    spill_below: 0.5,
                });
                for endpoint in &mut config.endpoints[..size / 2] {
                    endpoint.labels = [("zone".to_owned(), "a".to_owned())].into();
                }
            });
            // Of the preferred ones so many tenths do not take traffic.
            for (broken, expected) in [(0, 1.0), (4, 1.0), (8, 0.4), (10, 0.0)] {
                for endpoint in cluster.endpoints().take(size / 20 * broken) {
                    while endpoint.view(now).breaker != "open" {
                        let lease = Lease::take(endpoint, 0, &ask(&[], 0, now), u32::MAX);
                        lease.unwrap().finish(Outcome::Failure, now);
                    }
                }
                let near = tickets(1_000).filter(|ticket| {
                    cluster.lease(&ask(&[], *ticket, now)).ok().unwrap().index < size / 2
                });
                let share = near.count() as f64 / 1_000.0;
                // Of many only sixteen are looked at each time, and they are not all alike.
                let exact = size == 20 || broken == 0 || broken == 10;
                let allowed = if exact { 0.06 } else { 0.15 };
                assert!(
                    (share - expected).abs() <= allowed,
                    "{policy:?} of {size} with {broken} tenths broken: {share}"
                );
            }
        }
    }
}

#[test]
fn panic_does_not_keep_requests_in_a_preferred_zone_that_is_down() {
    let now = Instant::now();
    for policy in POLICIES {
        let probed = cluster_with(4, policy, Some(probe()), now);
        let cluster = changed(&probed, |config| {
            config.panic_below = 0.5;
            config.prefer = Some(config::Prefer {
                labels: [("zone".to_owned(), "a".to_owned())].into(),
                spill_below: 0.7,
            });
            for endpoint in &mut config.endpoints[..2] {
                endpoint.labels = [("zone".to_owned(), "a".to_owned())].into();
            }
        });
        let endpoints: Vec<_> = cluster.endpoints().cloned().collect();
        for (index, endpoint) in endpoints.iter().enumerate() {
            endpoint.probed(true, "", None);
            if index < 2 {
                endpoint.probed(false, "made up", None);
            }
        }
        for ticket in tickets(100) {
            let lease = cluster.lease(&ask(&[], ticket, now)).ok().unwrap();
            assert!(
                lease.index >= 2,
                "{policy:?}: half of all is not below half"
            );
        }
        endpoints[2].probed(false, "made up", None);
        let sick = tickets(100).filter(|ticket| {
            let lease = cluster.lease(&ask(&[], *ticket, now)).ok().unwrap();
            lease.index != 3
        });
        assert!(sick.count() > 0, "{policy:?}: a quarter is");
    }
}

#[test]
fn the_unhealthy_are_used_when_too_few_are_left_but_never_the_unknown() {
    let now = Instant::now();
    for policy in POLICIES {
        let probed = cluster_with(5, policy, Some(probe()), now);
        let cluster = changed(&probed, |config| config.panic_below = 0.5);
        let calm = changed(&probed, |_| ());
        let used = |cluster: &Cluster| -> BTreeSet<usize> {
            let leases = tickets(400)
                .filter_map(|ticket| cluster.lease(&ask(&[], ticket, now)).ok())
                .map(|lease| lease.index);
            leases.collect()
        };
        assert_eq!(used(&cluster), [].into(), "{policy:?}: none was probed");
        let endpoints: Vec<_> = cluster.endpoints().take(4).cloned().collect();
        for endpoint in &endpoints {
            endpoint.probed(true, "", None);
        }
        for (sick, expected) in [
            (0, vec![0, 1, 2, 3]),
            (1, vec![1, 2, 3]),
            (2, vec![0, 1, 2, 3]),
            (4, vec![0, 1, 2, 3]),
        ] {
            for endpoint in &endpoints[..sick] {
                endpoint.probed(false, "made up", None);
            }
            let expected: BTreeSet<_> = expected.into_iter().collect();
            assert_eq!(used(&cluster), expected, "{policy:?} with {sick} sick");
        }
        assert_eq!(used(&calm), [].into(), "{policy:?}: it is off");
        // Those that are merely full are no reason to panic.
        for endpoint in &endpoints[1..] {
            endpoint.probed(true, "", None);
        }
        let limited = changed(&cluster, |config| {
            config.limit = Some(limit(1));
        });
        let held: Vec<_> = tickets(20)
            .filter_map(|ticket| limited.lease(&ask(&[], ticket, now)).ok())
            .collect();
        assert_eq!(held.len(), 3, "{policy:?}: the sick one is left alone");
    }
}

fn probe() -> config::Health {
    config::Health {
        probe: config::HealthProbe::Tcp,
        models: Vec::new(),
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        healthy_threshold: 1,
        unhealthy_threshold: 1,
    }
}
