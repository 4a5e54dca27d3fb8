mod anything;

use std::time::Duration;

use super::*;

fn at(seconds: u64) -> Instant {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *START.get_or_init(Instant::now) + Duration::from_secs(seconds)
}

/// A ledger with engines of 4 bytes each, idle since their number of seconds.
fn idle(limit: u64, engines: &[&'static str]) -> (Ledger<&'static str>, Vec<SeatId>) {
    let mut ledger = Ledger::new(limit);
    let seats = engines.iter().enumerate().map(|(number, engine)| {
        let seat = ledger.add(4);
        assert!(ledger.claim(seat).is_empty());
        assert!(ledger.holds(seat));
        ledger.park(seat, Some(*engine), at(number as u64));
        seat
    });
    let seats = seats.collect();
    (ledger, seats)
}

/// A session of 4 bytes with two instances, both idle.
fn pair(limit: u64) -> (Ledger<&'static str>, [SeatId; 2]) {
    let (mut ledger, seats) = idle(limit, &["a"]);
    let second = ledger.join(seats[0]);
    assert!(ledger.claim_if_free(second));
    ledger.park(second, Some("b"), at(1));
    (ledger, [seats[0], second])
}

#[test]
fn within_the_budget_nothing_goes() {
    let (mut ledger, seats) = idle(8, &["a", "b"]);
    assert_eq!(ledger.taken(), 8);
    assert_eq!(ledger.take(seats[0]), Some("a"));
    assert!(ledger.park(seats[0], Some("a"), at(9)).is_empty());
}

#[test]
fn the_one_that_is_idle_longest_goes_first() {
    let (mut ledger, seats) = idle(12, &["a", "b", "c"]);
    let new = ledger.add(6);
    assert_eq!(ledger.claim(new), ["a", "b"]);
    assert!(ledger.holds(new) && !ledger.holds(seats[0]));
    assert_eq!(ledger.taken(), 10);
    assert_eq!(ledger.take(seats[0]), None);
    assert_eq!(ledger.take(seats[2]), Some("c"));
}

#[test]
fn what_runs_stays_and_the_claim_waits_for_it() {
    let (mut ledger, seats) = idle(4, &["a"]);
    ledger.take(seats[0]);
    let new = ledger.add(4);
    assert!(ledger.claim(new).is_empty());
    assert!(!ledger.holds(new));
    assert_eq!(ledger.park(seats[0], Some("a"), at(1)), ["a"]);
    assert!(ledger.holds(new) && !ledger.holds(seats[0]));
}

#[test]
fn a_large_claim_is_not_overtaken_by_small_ones() {
    let (mut ledger, seats) = idle(8, &["a", "b"]);
    ledger.take(seats[0]);
    ledger.take(seats[1]);
    let large = ledger.add(8);
    ledger.claim(large);
    assert_eq!(ledger.park(seats[0], Some("a"), at(1)), ["a"]);
    assert!(!ledger.holds(large));
    assert!(ledger.claim(seats[0]).is_empty(), "behind the large one");
    assert!(!ledger.claim_if_free(seats[0]));
    assert_eq!(ledger.park(seats[1], Some("b"), at(2)), ["b"]);
    assert!(ledger.holds(large) && !ledger.holds(seats[0]));
    assert_eq!(ledger.park(large, Some("l"), at(3)), ["l"]);
    assert!(ledger.holds(seats[0]));
}

#[test]
fn lost_engines_and_gone_instances_leave_their_room() {
    let (mut ledger, seats) = idle(8, &["a", "b"]);
    ledger.take(seats[0]);
    ledger.park(seats[0], None, at(1));
    assert_eq!(ledger.taken(), 4);
    assert!(ledger.claim_if_free(seats[0]));
    let new = ledger.add(8);
    assert_eq!(ledger.claim(new), ["b"]);
    assert!(!ledger.holds(new));
    assert!(ledger.remove(seats[0]).is_empty());
    assert!(ledger.holds(new));
    assert!(ledger.remove(new).is_empty());
    assert_eq!(ledger.taken(), 0);
}

#[test]
fn parking_twice_is_parking_once() {
    let (mut ledger, seats) = idle(8, &["a"]);
    assert!(ledger.park(seats[0], None, at(5)).is_empty());
    assert_eq!(ledger.take(seats[0]), Some("a"));
}

#[test]
fn instances_of_one_session_count_once_and_go_together() {
    let (mut ledger, pair) = pair(8);
    assert_eq!(ledger.taken(), 4);
    let new = ledger.add(8);
    assert_eq!(ledger.claim(new), ["a", "b"]);
    assert_eq!(ledger.taken(), 8);
    assert!(pair.iter().all(|seat| !ledger.holds(*seat)));
    ledger.park(new, None, at(2));
    assert!(ledger.claim_if_free(pair[0]) && ledger.claim_if_free(pair[1]));
    ledger.remove(pair[0]);
    assert_eq!(ledger.taken(), 4, "the other one has it still");
    ledger.remove(pair[1]);
    assert_eq!(ledger.taken(), 0);
}

#[test]
fn a_session_in_use_stays_while_another_can_go() {
    let (mut ledger, pair) = pair(8);
    ledger.take(pair[1]);
    let other = ledger.add(4);
    ledger.claim(other);
    ledger.park(other, Some("c"), at(5));
    let new = ledger.add(4);
    assert_eq!(ledger.claim(new), ["c"], "though that was idle for less");
    assert_eq!(ledger.take(pair[0]), Some("a"));
}

#[test]
fn a_busy_session_comes_to_rest_for_those_who_wait() {
    let (mut ledger, pair) = pair(4);
    ledger.take(pair[1]);
    let new = ledger.add(4);
    assert_eq!(ledger.claim(new), ["a"], "it frees nothing yet");
    assert!(!ledger.holds(new));
    ledger.claim(pair[0]);
    assert!(!ledger.holds(pair[0]), "although its session is there");
    assert_eq!(ledger.park(pair[1], Some("b"), at(2)), ["b"]);
    assert!(ledger.holds(new));
    assert_eq!(ledger.park(new, Some("c"), at(3)), ["c"]);
    assert!(ledger.holds(pair[0]));
    ledger.claim(pair[1]);
    assert!(ledger.holds(pair[1]), "it needs no more room");
}

#[test]
fn a_session_that_grows_pushes_out_who_is_idle() {
    let (mut ledger, seats) = idle(12, &["a", "b", "c"]);
    ledger.take(seats[2]);
    ledger.resize(seats[2], 5);
    assert_eq!(ledger.taken(), 13);
    assert_eq!(ledger.park(seats[2], Some("c"), at(9)), ["a"]);
    assert_eq!(ledger.taken(), 9);
    ledger.resize(seats[2], 1);
    assert_eq!(ledger.taken(), 8, "never less than at first");
    ledger.resize(seats[2], 100);
    ledger.claim(seats[2]);
    assert_eq!(
        ledger.take(seats[1]),
        None,
        "larger than the budget is all of it"
    );
    assert_eq!((ledger.take(seats[2]), ledger.taken()), (Some("c"), 12));
}
