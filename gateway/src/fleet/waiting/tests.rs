//! Slots go from hand to hand: in order, to nobody twice, past those who left, and nobody is forgotten.

use std::sync::atomic::AtomicBool;

use forebay_config::gateway::{Limit, Policy};
use futures::FutureExt;
use tokio::task::JoinSet;

use super::*;
use crate::fleet::NoLease;
use crate::fleet::lease::tests::cluster as unlimited;
use crate::traffic::retry::Outcome;

fn limited(size: u16, max_requests: u32, queue: u32, former: Option<&Cluster>) -> Arc<Cluster> {
    let cluster = planned(size, max_requests, queue, former);
    cluster.take_over(Instant::now());
    cluster
}

/// Not in force yet.
fn planned(size: u16, max_requests: u32, queue: u32, former: Option<&Cluster>) -> Arc<Cluster> {
    let mut cluster = unlimited(size, Policy::LeastRequest, Instant::now());
    cluster.config.limit = (max_requests > 0).then(|| Limit {
        max_requests,
        queue: config::Queue {
            size: queue,
            max_wait: None,
            priority_header: Some("priority".into()),
            tenant_header: Some("tenant".into()),
        },
    });
    cluster.succeed(former)
}

fn ask(now: Instant) -> Ask<'static> {
    Ask::new(&[], now)
}

fn take(cluster: &Cluster) -> Lease {
    cluster.lease(&ask(Instant::now())).ok().unwrap()
}

fn join(cluster: &Cluster, headers: &HeaderMap, time: Duration) -> Result<Waiting, Unserved> {
    let now = Instant::now();
    let NoLease::Busy(room) = cluster.lease(&ask(now)).err().unwrap() else {
        panic!("no endpoint is left");
    };
    let caller = Caller {
        headers,
        route: "r",
        deadline: Deadline::from(now, time, None),
        tried: &[],
        bearings: Bearings::default(),
    };
    room.join(&caller, now)
}

fn wait(cluster: &Cluster) -> Waiting {
    join(cluster, &HeaderMap::new(), Duration::from_secs(60))
        .ok()
        .unwrap()
}

/// None: it still waits.
fn turn(waiting: &mut Waiting) -> Option<Result<Lease, Unserved>> {
    (&mut waiting.turn).now_or_never().map(Result::unwrap)
}

fn lease(waiting: &mut Waiting) -> Lease {
    turn(waiting).unwrap().ok().unwrap()
}

#[test]
fn each_slot_goes_to_one_in_turn() {
    let cluster = limited(2, 1, 10, None);
    let (one, other) = (take(&cluster), take(&cluster));
    assert_ne!(one.index, other.index, "one each");
    let (mut first, mut second) = (wait(&cluster), wait(&cluster));
    assert_eq!(cluster.room().unwrap().waiting(), 2);
    let index = one.index;
    drop(one);
    let got = lease(&mut first);
    assert_eq!(got.index, index);
    assert!(turn(&mut second).is_none());
    assert!(
        matches!(cluster.lease(&ask(Instant::now())), Err(NoLease::Busy(_))),
        "a newcomer does not overtake"
    );
    assert!(cluster.lease_other(&ask(Instant::now())).is_none());
    got.finish(Outcome::Success, Instant::now());
    drop(lease(&mut second));
    drop(other);
    assert_eq!(
        (cluster.active(), cluster.room().unwrap().waiting()),
        (0, 0)
    );
}

#[test]
fn whoever_leaves_is_passed_over_and_gives_back_what_it_was_handed() {
    let cluster = limited(1, 1, 10, None);
    let held = take(&cluster);
    let gone = wait(&cluster);
    let late = wait(&cluster);
    let mut last = wait(&cluster);
    drop(gone);
    assert_eq!(cluster.room().unwrap().waiting(), 2);
    drop(held);
    assert!(
        turn(&mut last).is_none(),
        "the lease is under way to another"
    );
    assert_eq!(cluster.active(), 1);
    drop(late);
    drop(lease(&mut last));
    assert_eq!(
        (cluster.active(), cluster.room().unwrap().waiting()),
        (0, 0)
    );
}

#[test]
fn the_urgent_come_first_and_tenants_take_turns() {
    let cluster = limited(1, 1, 10, None);
    let held = take(&cluster);
    let as_tenant = |tenant: &'static str, urgency: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert("tenant", tenant.parse().unwrap());
        headers.insert("priority", urgency.parse().unwrap());
        join(&cluster, &headers, Duration::from_secs(60))
            .ok()
            .unwrap()
    };
    let mut order = [("a", "3", 1), ("a", "3", 3), ("b", "3", 2), ("b", "1", 0)]
        .map(|(tenant, urgency, place)| (place, as_tenant(tenant, urgency)));
    order.sort_by_key(|(place, _)| *place);
    let mut held = Some(held);
    for (place, waiting) in &mut order {
        assert!(turn(waiting).is_none(), "{place} is early");
        drop(held.take());
        held = Some(lease(waiting));
    }
}

#[test]
fn a_full_queue_and_a_hopeless_deadline_are_told_at_once() {
    let cluster = limited(1, 1, 1, None);
    let held = take(&cluster);
    let _waits = wait(&cluster);
    let full = join(&cluster, &HeaderMap::new(), Duration::from_secs(60)).err();
    assert_eq!(full, Some(Unserved::QueueFull(USUAL_PAUSE)));
    let room = cluster.room().unwrap();
    room.pace.lock().freed(Duration::from_secs(3), true);
    let hopeless = join(&cluster, &HeaderMap::new(), Duration::from_secs(5)).err();
    assert_eq!(
        hopeless,
        Some(Unserved::Hopeless(Duration::from_secs(3))),
        "it would go first, but then takes as long again"
    );
    let refusals: Vec<_> = room.counts.refusals().collect();
    assert_eq!(refusals[..2], [("queue_full", 1), ("deadline", 1)]);
    drop(held);
}

#[tokio::test]
async fn a_deadline_that_passes_ends_the_wait() {
    let cluster = limited(1, 1, 10, None);
    let _held = take(&cluster);
    let waiting = join(&cluster, &HeaderMap::new(), Duration::from_millis(10));
    let outcome = waiting.ok().unwrap().turn().await;
    assert_eq!(outcome.err(), Some(Unserved::Expired));
    assert_eq!(cluster.room().unwrap().waiting(), 0);
}

#[test]
fn when_the_last_endpoint_is_lost_nobody_waits_for_it() {
    let cluster = limited(1, 3, 10, None);
    let held: Vec<Lease> = (0..3).map(|_| take(&cluster)).collect();
    let mut waiting: Vec<Waiting> = (0..4).map(|_| wait(&cluster)).collect();
    // The third failure opens the breaker; the slots of the first two were still good.
    for lease in held {
        lease.finish(Outcome::Failure, Instant::now());
    }
    let told: Vec<Option<Unserved>> = waiting
        .iter_mut()
        .map(|waiting| turn(waiting).unwrap().err())
        .collect();
    let lost = Some(Unserved::NoEndpoint);
    assert_eq!(told, [None, None, lost, lost]);
    assert_eq!(
        (cluster.active(), cluster.room().unwrap().waiting()),
        (0, 0)
    );
}

#[test]
fn a_higher_limit_or_none_serves_those_who_wait() {
    let first = limited(1, 1, 10, None);
    let _held = take(&first);
    let mut waiting: Vec<Waiting> = (0..5).map(|_| wait(&first)).collect();
    let mut served = || {
        let mut leases: Vec<Lease> = Vec::new();
        waiting.retain_mut(|waiting| match turn(waiting) {
            Some(told) => {
                leases.push(told.ok().unwrap());
                false
            }
            None => true,
        });
        leases
    };
    let second = limited(2, 1, 10, Some(&first));
    let of_second = served();
    assert_eq!((of_second.len(), second.active()), (2, 2));
    let third = limited(2, 0, 10, Some(&second));
    let of_third = served();
    assert_eq!((of_third.len(), third.active()), (3, 3));
    assert!(third.room().is_none());
    drop((of_second, of_third));
    assert_eq!((second.active(), third.active()), (0, 0));
}

#[test]
fn who_waits_stays_until_the_next_cluster_is_in_force() {
    let first = limited(1, 1, 10, None);
    let held = take(&first);
    let mut waiting = [wait(&first), wait(&first)];
    let next = planned(2, 1, 10, Some(&first));
    assert!(turn(&mut waiting[0]).is_none());
    drop(held);
    let served = turn(&mut waiting[0]).unwrap().ok().unwrap();
    assert_eq!((first.active(), next.active()), (1, 0));
    next.take_over(Instant::now());
    assert!(turn(&mut waiting[1]).unwrap().is_ok());
    drop(served);
    next.take_over(Instant::now());
}

/// Many tasks on several threads take, hold, give up and leave at random; with every slot handed over and none lost,
/// all come to an end and no endpoint ever has more than it may have.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn under_threads_nobody_is_forgotten() {
    const MOST: u32 = 3;
    let cluster = limited(2, MOST, 10_000, None);
    let over = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    for task in 0..64_u64 {
        let (cluster, over) = (cluster.clone(), over.clone());
        tasks.spawn(async move {
            let mut random = fastrand::Rng::with_seed(task);
            let mut served = 0;
            for _ in 0..200 {
                let now = Instant::now();
                let lease = match cluster.lease(&ask(now)) {
                    Ok(lease) => lease,
                    Err(NoLease::NoEndpoint) => panic!("none was ever lost"),
                    Err(NoLease::Busy(room)) => {
                        let caller = Caller {
                            headers: &HeaderMap::new(),
                            route: "r",
                            deadline: Deadline::NEVER,
                            tried: &[],
                            bearings: Bearings::default(),
                        };
                        let waiting = room.join(&caller, now).ok().unwrap();
                        if random.u8(..4) == 0 {
                            let patience = Duration::from_micros(random.u64(..300));
                            match tokio::time::timeout(patience, waiting.turn()).await {
                                Ok(turn) => turn.ok().unwrap().0,
                                Err(_) => continue,
                            }
                        } else {
                            waiting.turn().await.ok().unwrap().0
                        }
                    }
                };
                if lease.endpoint().active() > MOST {
                    over.store(true, Ordering::Relaxed);
                }
                if random.bool() {
                    tokio::task::yield_now().await;
                }
                served += 1;
                match random.u8(..3) {
                    0 => drop(lease),
                    _ => lease.finish(Outcome::Success, Instant::now()),
                }
            }
            served
        });
    }
    let all = async {
        let mut served = 0;
        while let Some(count) = tasks.join_next().await {
            served += count.unwrap();
        }
        served
    };
    let served = tokio::time::timeout(Duration::from_secs(60), all).await;
    assert!(served.unwrap() > 64 * 100);
    assert!(!over.load(Ordering::Relaxed), "more than max_requests");
    assert_eq!(
        (cluster.active(), cluster.room().unwrap().waiting()),
        (0, 0)
    );
}
