//! Which endpoint gets the requests of a model that probes ask about.

use std::sync::Arc;

use super::*;
use crate::traffic::affinity::Seen;

fn of_model(cluster: &Cluster, model: &str) -> Bearings {
    cluster.bearings(&Seen {
        headers: &http::HeaderMap::new(),
        source: None,
        model: Some(model),
        message: None,
    })
}

/// Probes that ask about these models.
fn health(models: &[&str]) -> config::Health {
    config::Health {
        probe: config::HealthProbe::Tcp,
        models: models.iter().map(ToString::to_string).collect(),
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        healthy_threshold: 1,
        unhealthy_threshold: 1,
    }
}

/// One whose probes ask about these models, in the place of `former`; not in force yet.
fn listing(models: &[&str], plain: &Cluster, former: Option<&Cluster>) -> Arc<Cluster> {
    let listing = changed(plain, |config| {
        config.limit = Some(limit(1));
        config.health = Some(health(models));
    });
    listing.succeed(former)
}

#[test]
fn a_model_goes_to_who_is_ready_for_it_or_to_anyone() {
    let now = Instant::now();
    for policy in POLICIES {
        let plain = cluster(4, policy, now);
        let cluster = changed(&plain, |config| config.health = Some(health(&["a", "b"])));
        let with = |model, random, tried| {
            let ask = ask(tried, random, now).with(Bearings {
                key: Some(random),
                ..of_model(&cluster, model)
            });
            cluster.lease(&ask).ok().unwrap().index
        };
        for (index, endpoint) in cluster.endpoints().enumerate() {
            endpoint.set_ready_models(if index == 2 { 0b11 } else { 0b01 });
        }
        for random in (0..100_u64).map(|random| random << 57 | random) {
            assert_eq!(with("b", random, &[]), 2, "{policy:?}");
            assert_eq!(
                with("b", random, &[2]),
                2,
                "{policy:?}: again, as no other is ready"
            );
            let _ = with("a", random, &[]);
        }
        let anyone: Vec<_> = (0..200_u64)
            .map(|random| with("c", random.wrapping_mul(0x9e37_79b9_7f4a_7c15), &[]))
            .collect();
        assert!(
            (0..4).all(|index| anyone.contains(&index)),
            "{policy:?}: {anyone:?}"
        );
    }
}

#[test]
fn who_is_full_is_waited_for_and_not_replaced_by_who_is_not_ready_or_ejected() {
    let now = Instant::now();
    for policy in POLICIES {
        let plain = cluster(3, policy, now);
        let cluster = listing(&["a"], &plain, None);
        let with = |random, model| ask(&[], random, now).with(of_model(&cluster, model));
        let (listed, unlisted) = (with(7, "a"), with(7, "c"));
        for (index, endpoint) in cluster.endpoints().enumerate() {
            endpoint.set_ready_models(u64::from(index == 0));
        }
        let first = cluster.lease(&listed).ok().unwrap();
        assert_eq!(first.index, 0, "{policy:?}");
        assert!(
            cluster.lease(&listed).is_err(),
            "{policy:?}: the others do not have the model"
        );
        let others = [cluster.lease(&unlisted), cluster.lease(&unlisted)];
        assert!(others.iter().all(Result::is_ok));
        drop((first, others));

        // An ejected one is left out while another merely has no room.
        cluster.endpoints().nth(2).unwrap().eject(now);
        let held = [cluster.lease(&unlisted), cluster.lease(&unlisted)];
        assert!(held.iter().all(Result::is_ok));
        assert!(cluster.lease(&unlisted).is_err(), "{policy:?}");
        drop(held);
        // But used where the others are not ready for the model.
        cluster.endpoints().nth(2).unwrap().set_ready_models(1);
        cluster.endpoints().next().unwrap().set_ready_models(0);
        for random in tickets(20) {
            let lease = cluster.lease(&with(random, "a"));
            assert_eq!(lease.ok().unwrap().index, 2, "{policy:?}");
        }
    }
}

#[tokio::test]
async fn who_waits_for_a_model_is_served_by_its_name_after_a_reload() {
    let now = Instant::now();
    let plain = cluster(2, config::Policy::LeastRequest, now);
    let first = listing(&["a", "b"], &plain, None);
    first.take_over(now);
    let (zero, one) = (
        first.lease(&ask(&[], 0, now)),
        first.lease(&ask(&[], 0, now)),
    );
    let (zero, one) = (zero.ok().unwrap(), one.ok().unwrap());
    let (zero, one) = if zero.index == 0 {
        (zero, one)
    } else {
        (one, zero)
    };
    let headers = http::HeaderMap::new();
    let caller = Caller {
        headers: &headers,
        route: "r",
        deadline: Deadline::from(now, Duration::from_secs(60), None),
        tried: &[],
        bearings: of_model(&first, "b"),
    };
    let waits = || first.room().unwrap().join(&caller, now).ok().unwrap();
    let (before, after) = (waits(), waits());
    let unlisted = [
        first.lane(of_model(&first, "c")),
        first.lane(Bearings::default()),
    ];
    assert_eq!(
        unlisted[0], unlisted[1],
        "clients make no lanes by their names"
    );
    // The models change places in the list, and the second endpoint alone is ready for this one.
    let second = listing(&["b", "a"], &plain, Some(&first));
    for (endpoint, ready) in second.endpoints().zip([0b10, 0b11]) {
        endpoint.set_ready_models(ready);
    }
    second.take_over(now);
    drop(zero);
    let mut before = Box::pin(before.turn());
    assert!(
        (&mut before).now_or_never().is_none(),
        "the first is not ready"
    );
    drop(one);
    let (served, _) = before.now_or_never().unwrap().ok().unwrap();
    assert_eq!(served.index, 1);
    drop(served);
    let (served, _) = after.turn().now_or_never().unwrap().ok().unwrap();
    assert_eq!(served.index, 1);
}
