//! Order, fairness, room and leaving; and a property over any mix of them.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn place(urgency: u8, tenant: u64, route: u64) -> Place {
    Place {
        urgency: Urgency(urgency),
        lane: 0,
        tenant,
        route,
        until: None,
    }
}

fn until(place: Place, now: Instant, milliseconds: u64) -> Place {
    Place {
        until: Some(now + Duration::from_millis(milliseconds)),
        ..place
    }
}

/// All that wait, in the order in which they are served.
fn served<T>(queue: &mut Queue<T>, now: Instant) -> Vec<T> {
    std::iter::from_fn(
        || match queue.next(now, &mut Blocked::new(), |_| Some(())) {
            Next::Served(item, ()) | Next::Expired(item) => Some(item),
            Next::Nobody => None,
        },
    )
    .collect()
}

#[test]
fn urgency_is_read_as_rfc_9218_writes_it() {
    for (text, urgency) in [
        ("0", 0),
        (" 7 ", 7),
        ("u=2", 2),
        ("u=1, i", 1),
        ("i, u=5", 5),
        ("8", 3),
        ("-1", 3),
        ("urgent", 3),
        ("u=9", 3),
        ("", 3),
    ] {
        assert_eq!(Urgency::parse(text.as_bytes()), Urgency(urgency), "{text}");
    }
}

#[test]
fn the_earliest_deadline_goes_first_within_an_urgency() {
    let now = Instant::now();
    let mut queue = Queue::new(10);
    let all = [
        (place(3, 0, 0), "patient"),
        (until(place(3, 0, 0), now, 200), "later"),
        (until(place(3, 0, 0), now, 100), "sooner"),
        (until(place(4, 0, 0), now, 10), "less urgent"),
        (until(place(3, 0, 0), now, 100), "sooner, but came second"),
        (place(0, 0, 0), "urgent"),
    ];
    for (place, name) in all {
        assert!(queue.push(place, name).is_ok());
    }
    assert_eq!(
        served(&mut queue, now),
        [
            "urgent",
            "sooner",
            "sooner, but came second",
            "later",
            "patient",
            "less urgent"
        ]
    );
}

#[test]
fn tenants_take_turns_and_so_do_the_routes_of_one() {
    let now = Instant::now();
    let mut queue = Queue::new(100);
    for number in 0..6 {
        assert!(queue.push(place(3, 1, 1), ("a", number)).is_ok());
    }
    for number in 0..3 {
        assert!(
            queue
                .push(place(3, 1, 2), ("a, other route", number))
                .is_ok()
        );
        assert!(queue.push(place(3, 2, 1), ("b", number)).is_ok());
    }
    let order: Vec<_> = served(&mut queue, now)
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(
        order[..6],
        ["a", "b", "a, other route", "b", "a", "b"],
        "half for each tenant"
    );
    assert_eq!(order[6..9], ["a, other route", "a", "a, other route"]);
}

#[test]
fn a_tenant_that_comes_back_gains_nothing_by_having_left() {
    let now = Instant::now();
    let mut queue = Queue::new(100);
    for _ in 0..10 {
        assert!(queue.push(place(3, 1, 0), 1).is_ok());
    }
    let mut order = Vec::new();
    // Tenant 2 sends its next request as soon as one was served.
    for _ in 0..8 {
        if !order.ends_with(&[1]) || order.is_empty() {
            assert!(queue.push(place(3, 2, 0), 2).is_ok());
        }
        match queue.next(now, &mut Blocked::new(), |_| Some(())) {
            Next::Served(tenant, ()) => order.push(tenant),
            other => panic!("{other:?}"),
        }
    }
    let second = order.iter().filter(|tenant| **tenant == 2).count();
    assert!((3..=4).contains(&second), "{order:?}");
}

#[test]
fn whoever_cannot_be_served_stays_and_keeps_its_turn() {
    let now = Instant::now();
    let mut queue = Queue::new(10);
    assert!(queue.push(place(3, 1, 0), "first").is_ok());
    assert!(queue.push(place(3, 2, 0), "second").is_ok());
    assert_eq!(
        queue.next(now, &mut Blocked::new(), |_| None::<()>),
        Next::Nobody
    );
    assert_eq!(queue.len(), 2);
    assert_eq!(served(&mut queue, now), ["first", "second"]);
}

#[test]
fn what_has_expired_is_told_apart() {
    let now = Instant::now();
    let mut queue = Queue::new(10);
    assert!(queue.push(until(place(3, 0, 0), now, 5), "short").is_ok());
    assert!(queue.push(until(place(3, 0, 0), now, 50), "long").is_ok());
    let later = now + Duration::from_millis(5);
    assert_eq!(
        queue.next(later, &mut Blocked::new(), |_| Some(())),
        Next::Expired("short")
    );
    assert_eq!(
        queue.next(later, &mut Blocked::new(), |_| Some(())),
        Next::Served("long", ())
    );
    assert_eq!(
        queue.next(later, &mut Blocked::new(), |_| Some(())),
        Next::Nobody
    );
}

#[test]
fn a_full_queue_drops_from_the_longest_line() {
    let now = Instant::now();
    let mut queue = Queue::new(4);
    for number in 0..4 {
        assert!(queue.push(place(3, 1, 0), ("flood", number)).is_ok());
    }
    assert_eq!(
        queue.push(place(3, 1, 0), ("flood", 4)),
        Err(("flood", 4)),
        "its own fault"
    );
    let (_, out) = queue.push(place(3, 2, 0), ("other", 0)).unwrap();
    assert_eq!(out, Some(("flood", 3)));
    let (_, out) = queue.push(place(3, 2, 0), ("other", 1)).unwrap();
    assert_eq!(out, Some(("flood", 2)));
    assert!(
        queue.push(place(3, 2, 0), ("other", 2)).is_err(),
        "both have as much"
    );
    let (_, out) = queue.push(place(2, 1, 0), ("urgent", 0)).unwrap();
    assert!(out.is_some(), "less urgent ones give way");
    assert!(queue.push(place(4, 3, 0), ("idle", 0)).is_err());
    assert_eq!(served(&mut queue, now).len(), 4);
}

#[test]
fn nobody_waits_in_a_queue_without_room() {
    let mut queue = Queue::new(0);
    assert_eq!(queue.push(place(0, 0, 0), 1), Err(1));
}

#[test]
fn whoever_leaves_is_gone_and_only_once() {
    let now = Instant::now();
    let mut queue = Queue::new(4);
    let (first, _) = queue.push(place(3, 1, 0), 1).unwrap();
    let (second, _) = queue.push(place(3, 1, 0), 2).unwrap();
    assert_eq!(queue.remove(&first), Some(1));
    assert_eq!(queue.remove(&first), None);
    assert_eq!(queue.len(), 1);
    assert_eq!(served(&mut queue, now), [2]);
    assert_eq!(queue.remove(&second), None);
}

#[test]
fn how_many_are_ahead_is_told_by_turns() {
    let mut queue = Queue::new(100);
    assert_eq!(queue.ahead(&place(3, 1, 0)), 0);
    for number in 0..10 {
        assert!(queue.push(place(3, 1, 0), number).is_ok());
    }
    assert_eq!(queue.ahead(&place(3, 1, 0)), 10);
    assert_eq!(
        queue.ahead(&place(3, 2, 0)),
        1,
        "tenant 1 has one turn first"
    );
    assert_eq!(queue.ahead(&place(4, 2, 0)), 10);
    assert_eq!(queue.ahead(&place(2, 2, 0)), 0);
}

#[derive(Debug, Clone)]
enum Step {
    Push {
        urgency: u8,
        tenant: u64,
        route: u64,
        lasts: Option<u64>,
    },
    Next {
        possible: bool,
    },
    Leave {
        which: usize,
    },
    Wait {
        milliseconds: u64,
    },
    Resize {
        size: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (2..5_u8, 0..4_u64, 0..3_u64, prop::option::of(0..50_u64)).prop_map(
            |(urgency, tenant, route, lasts)| Step::Push { urgency, tenant, route, lasts }
        ),
        3 => any::<bool>().prop_map(|possible| Step::Next { possible }),
        1 => any::<usize>().prop_map(|which| Step::Leave { which }),
        1 => (0..20_u64).prop_map(|milliseconds| Step::Wait { milliseconds }),
        1 => (0..12_usize).prop_map(|size| Step::Resize { size }),
    ]
}

#[test]
fn a_lane_that_is_blocked_holds_up_no_other() {
    let now = Instant::now();
    let lane = |urgency, tenant, lane| Place {
        lane,
        ..place(urgency, tenant, 0)
    };
    let mut queue = Queue::new(10);
    for (place, name) in [
        (lane(0, 1, 1), "blocked, urgent"),
        (lane(3, 1, 1), "blocked"),
        (lane(3, 1, 2), "free"),
        (lane(3, 2, 2), "free, of another"),
        (lane(3, 2, 3), "free, in a third lane"),
    ] {
        assert!(queue.push(place, name).is_ok());
    }
    assert_eq!(queue.ahead(&lane(3, 3, 4)), 4, "a turn for each lane");
    assert_eq!([3, 4].map(|lane| queue.has_lane(lane)), [true, false]);
    let mut blocked = Blocked::new();
    let mut asked = Vec::new();
    let order = std::iter::from_fn(|| {
        let next = queue.next(now, &mut blocked, |name| {
            asked.push(*name);
            (!name.starts_with("blocked")).then_some(())
        });
        match next {
            Next::Served(name, ()) => Some(name),
            Next::Expired(_) | Next::Nobody => None,
        }
    });
    let order: Vec<_> = order.collect();
    assert_eq!(
        order,
        ["free", "free, in a third lane", "free, of another"],
        "lanes take turns"
    );
    let blocked_ones = asked.iter().filter(|name| name.starts_with("blocked"));
    assert_eq!(
        blocked_ones.count(),
        1,
        "a lane is asked about once: {asked:?}"
    );
    assert_eq!(served(&mut queue, now), ["blocked, urgent", "blocked"]);
    assert_eq!(queue.len(), 0);
}

proptest! {
    /// Whoever came in goes out exactly once: served, expired, pushed out or by leaving. Nobody is served before
    /// somebody more urgent, nor after its time.
    #[test]
    fn nobody_is_lost_and_nobody_is_served_twice(steps in prop::collection::vec(step(), 0..300)) {
        let mut now = Instant::now();
        let mut queue = Queue::new(8);
        let mut size = 8;
        let mut waiting: BTreeMap<u32, Ticket> = BTreeMap::new();
        let mut count = 0;
        for step in steps {
            match step {
                Step::Push { urgency, tenant, route, lasts } => {
                    let until = lasts.map(|lasts| now + Duration::from_millis(lasts));
                    let place = Place { urgency: Urgency(urgency), lane: tenant % 2, tenant, route, until };
                    count += 1;
                    let before = queue.len();
                    prop_assert!(queue.ahead(&place) <= before);
                    match queue.push(place, count) {
                        Ok((ticket, out)) => {
                            waiting.insert(count, ticket);
                            prop_assert_eq!(out.is_some(), before >= size);
                            if let Some(out) = out {
                                prop_assert!(waiting.remove(&out).is_some());
                            }
                        }
                        Err(item) => {
                            prop_assert_eq!(item, count);
                            prop_assert!(before >= size);
                        }
                    }
                }
                Step::Next { possible } => match queue.next(now, &mut Blocked::new(), |_| possible.then_some(())) {
                    Next::Served(item, ()) => {
                        let ticket = waiting.remove(&item).unwrap();
                        prop_assert!(possible);
                        prop_assert!(ticket.place.until.is_none_or(|until| until > now));
                        prop_assert!(waiting.values().all(|other| other.place.urgency >= ticket.place.urgency));
                    }
                    Next::Expired(item) => {
                        let ticket = waiting.remove(&item).unwrap();
                        prop_assert!(ticket.place.until.is_some_and(|until| until <= now));
                    }
                    Next::Nobody => prop_assert!(!possible || waiting.is_empty()),
                },
                Step::Leave { which } if !waiting.is_empty() => {
                    let item = *waiting.keys().nth(which % waiting.len()).unwrap();
                    let ticket = waiting.remove(&item).unwrap();
                    prop_assert_eq!(queue.remove(&ticket), Some(item));
                    prop_assert_eq!(queue.remove(&ticket), None);
                }
                Step::Leave { .. } => {}
                Step::Wait { milliseconds } => now += Duration::from_millis(milliseconds),
                Step::Resize { size: new } => {
                    size = new;
                    queue.resize(new);
                }
            }
            prop_assert_eq!(queue.len(), waiting.len());
        }
        let mut rest = served(&mut queue, now);
        rest.sort_unstable();
        prop_assert_eq!(rest, waiting.into_keys().collect::<Vec<_>>());
        prop_assert_eq!(queue.len(), 0);
    }

    /// While everybody always waits for more, every tenant gets the same, however many routes it uses.
    #[test]
    fn those_who_always_wait_share_evenly(routes in prop::collection::vec(1..5_u64, 1..6)) {
        let now = Instant::now();
        let mut queue = Queue::new(usize::MAX);
        for (tenant, routes) in (0_u64..).zip(&routes) {
            for number in 0..60 {
                prop_assert!(queue.push(place(3, tenant, number % routes), tenant).is_ok());
            }
        }
        let rounds = 30;
        let mut counts = vec![0; routes.len()];
        for _ in 0..rounds * routes.len() {
            if let Next::Served(tenant, ()) = queue.next(now, &mut Blocked::new(), |_| Some(())) {
                counts[usize::try_from(tenant).unwrap()] += 1;
            }
        }
        prop_assert!(counts.iter().all(|count| *count == rounds), "{counts:?}");
    }
}
