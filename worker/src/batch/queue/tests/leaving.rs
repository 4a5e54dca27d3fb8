//! Who leaves the queue without being run: expired, cancelled, or too late where others wait.

use super::*;

#[test]
fn expired_requests_are_returned_and_not_run() {
    let start = Instant::now();
    let deadline = start + Duration::from_millis(50);
    let late = Request {
        deadline: Some(deadline),
        ..request(1)
    };
    let mut queue = filled([request(0), late, request(2)], start);
    let turn = queue.next(deadline, send(8));
    assert_eq!(ids(&turn.decision), [0, 2]);
    assert_eq!(turn.dropped, [(request(1), Dropped::Expired)]);
}

#[test]
fn a_request_is_run_until_its_deadline() {
    let start = Instant::now();
    let late = Request {
        deadline: Some(start + Duration::from_millis(50)),
        ..request(0)
    };
    let mut queue = filled([late], start);
    assert_eq!(batch(&mut queue, start + Duration::from_millis(49), 8), [0]);
}

#[test]
fn cancelled_requests_leave() {
    let start = Instant::now();
    let gone = request(0);
    let also_gone = request(2);
    let mut queue = filled([gone.clone(), request(1), also_gone.clone()], start);
    gone.cancelled.set(true);
    also_gone.cancelled.set(true);
    let turn = queue.next(start, send(8));
    assert_eq!(ids(&turn.decision), [1]);
    assert_eq!(
        turn.dropped,
        [
            (request(0), Dropped::Cancelled),
            (request(2), Dropped::Cancelled)
        ]
    );
    assert!(queue.is_empty());
}

#[test]
fn when_all_are_cancelled_the_next_group_goes() {
    let start = Instant::now();
    let gone = wide(0, 8);
    let mut queue = filled([gone.clone(), wide(1, 9)], start);
    gone.cancelled.set(true);
    let turn = queue.next(start, send(8));
    assert_eq!(ids(&turn.decision), [1]);
    assert_eq!(turn.dropped.len(), 1);
}

#[test]
fn a_full_queue_refuses_unless_somebody_is_gone() {
    let start = Instant::now();
    let mut queue = Queue::new(2);
    let place = queue.push(request(0), start).place.unwrap();
    let late = Request {
        deadline: Some(start + Duration::from_millis(5)),
        ..request(1)
    };
    assert_eq!(admit(&mut queue, late, start), []);
    let urgent = ranked(2, 0);
    assert_eq!(queue.push(urgent.clone(), start).place, Err(urgent));
    assert_eq!(queue.remove(place), Some(request(0)));
    assert_eq!(queue.remove(place), None);
    assert_eq!(admit(&mut queue, request(3), start), []);
    let expired = vec![(request(1), Dropped::Expired)];
    let later = start + Duration::from_millis(5);
    assert_eq!(admit(&mut queue, request(4), later), expired);
    assert_eq!(batch(&mut queue, later, 8), [3, 4]);
}

#[test]
fn who_would_be_late_gives_way_where_enough_others_wait() {
    let start = Instant::now();
    let hasty = |id, patience| Request {
        deadline: Some(start + Duration::from_millis(patience)),
        ..request(id)
    };
    let cut = Cut {
        done_at: Some(start + Duration::from_millis(20)),
        ..Cut {
            whole: 8,
            ..Cut::whole(2)
        }
    };
    let mut queue = filled(
        [hasty(0, 15), hasty(1, 30), request(2), hasty(3, 10)],
        start,
    );
    let turn = queue.next(start, |_| Call::Send(cut));
    assert_eq!(ids(&turn.decision), [1, 2]);
    let late = Dropped::TooLate(Duration::from_millis(20));
    assert_eq!(turn.dropped, [(request(0), late)]);
    let turn = queue.next(start, |_| Call::Send(cut));
    assert_eq!(
        (ids(&turn.decision), turn.dropped),
        (vec![3], vec![]),
        "nobody else wants the place"
    );
}

#[test]
fn who_goes_alone_gives_way_and_the_next_one_is_asked_about() {
    let start = Instant::now();
    let alone = |id, patience| Request {
        group: Group::Alone,
        deadline: Some(start + Duration::from_millis(patience)),
        ..request(id)
    };
    let mut queue = filled([alone(0, 10), alone(1, 12)], start);
    let mut durations = [20, 5].into_iter();
    let turn = queue.next(start, |_| {
        Call::Send(Cut {
            done_at: durations
                .next()
                .map(|time| start + Duration::from_millis(time)),
            ..Cut::whole(1)
        })
    });
    assert_eq!(ids(&turn.decision), [1]);
    assert_eq!(turn.dropped.len(), 1);
}
