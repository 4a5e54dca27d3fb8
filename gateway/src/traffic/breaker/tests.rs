//! Every transition with made-up instants, cancellation included.

use forebay_config::gateway::Breaker as Config;
use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn in_a_row(failures: u32) -> Config {
    Config {
        consecutive_failures: failures,
        success_rate: 0.0,
        window: 10 * SECOND,
        minimum_requests: 10,
        open_for: SECOND,
    }
}

fn by_rate() -> Config {
    Config {
        success_rate: 0.5,
        ..in_a_row(0)
    }
}

fn call(breaker: &mut Breaker, now: Instant, ok: bool) -> Option<Transition> {
    let permit = breaker.admit(now).unwrap();
    breaker.on_result(now, permit, ok)
}

fn opened(open_for: Duration) -> Option<Transition> {
    Some(Transition::Opened { open_for })
}

#[test]
fn failures_in_a_row_open_it() {
    let now = Instant::now();
    let mut breaker = Breaker::new(in_a_row(3));
    for ok in [false, false, true, false, false] {
        assert_eq!(call(&mut breaker, now, ok), None);
    }
    assert_eq!(breaker.state(now), BreakerState::Closed);
    assert_eq!(call(&mut breaker, now, false), opened(SECOND));
    assert_eq!(breaker.state(now), BreakerState::Open);
    assert!(!breaker.would_admit(now));
    assert_eq!(breaker.admit(now), None);
    assert_eq!(breaker.admit(now + SECOND - Duration::from_nanos(1)), None);
}

#[test]
fn a_low_success_rate_opens_it() {
    let now = Instant::now();
    let mut breaker = Breaker::new(by_rate());
    for call_number in 0..9 {
        assert_eq!(
            call(&mut breaker, now, call_number >= 5),
            None,
            "below the minimum of requests"
        );
    }
    assert_eq!(call(&mut breaker, now, false), opened(SECOND), "4 of 10");
}

#[test]
fn a_success_never_opens_it() {
    let now = Instant::now();
    let mut breaker = Breaker::new(by_rate());
    for _ in 0..9 {
        call(&mut breaker, now, false);
    }
    assert_eq!(call(&mut breaker, now, true), None);
    assert_eq!(breaker.state(now), BreakerState::Closed);
}

#[test]
fn outcomes_older_than_the_window_do_not_count() {
    let now = Instant::now();
    let mut breaker = Breaker::new(by_rate());
    for _ in 0..9 {
        call(&mut breaker, now, false);
    }
    assert_eq!(call(&mut breaker, now + 10 * SECOND, false), None);
}

#[test]
fn with_both_conditions_off_it_stays_closed() {
    let now = Instant::now();
    let mut breaker = Breaker::new(in_a_row(0));
    for _ in 0..1_000 {
        assert_eq!(call(&mut breaker, now, false), None);
    }
}

#[test]
fn half_open_lets_one_probe_through_and_its_success_closes() {
    let now = Instant::now();
    let mut breaker = Breaker::new(in_a_row(1));
    call(&mut breaker, now, false);
    let later = now + SECOND;
    assert_eq!(breaker.state(later), BreakerState::HalfOpen);
    assert!(breaker.would_admit(later));
    let probe = breaker.admit(later).unwrap();
    assert!(probe.is_probe);
    assert!(!breaker.would_admit(later));
    assert_eq!(breaker.admit(later), None, "one at a time");
    assert_eq!(
        breaker.on_result(later, probe, true),
        Some(Transition::Closed)
    );
    assert_eq!(breaker.state(later), BreakerState::Closed);
    assert!(!breaker.admit(later).unwrap().is_probe);
}

#[test]
fn a_failed_probe_opens_for_twice_as_long_up_to_ten_times() {
    let mut now = Instant::now();
    let mut breaker = Breaker::new(in_a_row(1));
    let mut transition = call(&mut breaker, now, false);
    for seconds in [1, 2, 4, 8, 10, 10] {
        let open_for = seconds * SECOND;
        assert_eq!(transition, opened(open_for));
        assert!(!breaker.would_admit(now + open_for - Duration::from_nanos(1)));
        now += open_for;
        transition = call(&mut breaker, now, false);
    }
}

#[test]
fn staying_closed_for_the_longest_time_makes_the_next_opening_short() {
    let start = Instant::now();
    for (closed_for, expected) in [(9 * SECOND, 2 * SECOND), (10 * SECOND, SECOND)] {
        let mut breaker = Breaker::new(in_a_row(1));
        call(&mut breaker, start, false);
        let closed = start + SECOND;
        assert_eq!(call(&mut breaker, closed, true), Some(Transition::Closed));
        assert_eq!(
            call(&mut breaker, closed + closed_for, false),
            opened(expected)
        );
    }
}

#[test]
fn closing_forgets_the_window() {
    let now = Instant::now();
    let mut breaker = Breaker::new(by_rate());
    for _ in 0..10 {
        call(&mut breaker, now, false);
    }
    assert_eq!(
        call(&mut breaker, now + SECOND, true),
        Some(Transition::Closed)
    );
    assert_eq!(call(&mut breaker, now + SECOND, false), None);
}

#[test]
fn a_cancelled_probe_is_replaced_at_once() {
    let now = Instant::now();
    let mut breaker = Breaker::new(in_a_row(1));
    call(&mut breaker, now, false);
    let later = now + SECOND;
    let cancelled = breaker.admit(later).unwrap();
    breaker.on_cancel(cancelled);
    assert_eq!(breaker.state(later), BreakerState::HalfOpen);
    let probe = breaker.admit(later).unwrap();
    assert_eq!(
        breaker.on_result(later, cancelled, true),
        None,
        "it was given back"
    );
    assert_eq!(breaker.admit(later), None);
    assert_eq!(
        breaker.on_result(later, probe, true),
        Some(Transition::Closed)
    );
}

#[test]
fn a_lost_probe_is_replaced_after_open_for() {
    let now = Instant::now();
    let mut breaker = Breaker::new(in_a_row(1));
    call(&mut breaker, now, false);
    let probing = now + SECOND;
    let lost = breaker.admit(probing).unwrap();
    assert_eq!(
        breaker.admit(probing + SECOND - Duration::from_nanos(1)),
        None
    );
    let replaced = probing + SECOND;
    let probe = breaker.admit(replaced).unwrap();
    assert_eq!(
        breaker.on_result(replaced, lost, true),
        None,
        "its word no longer counts"
    );
    breaker.on_cancel(lost);
    assert_eq!(
        breaker.admit(replaced),
        None,
        "nor does its cancellation free the place"
    );
    assert_eq!(
        breaker.on_result(replaced, probe, false),
        opened(2 * SECOND)
    );
}

#[test]
fn outcomes_from_before_a_transition_do_not_count() {
    let now = Instant::now();
    let mut breaker = Breaker::new(in_a_row(1));
    let [first, second, third] = std::array::from_fn(|_| breaker.admit(now).unwrap());
    assert_eq!(breaker.on_result(now, first, false), opened(SECOND));
    assert_eq!(breaker.on_result(now, second, false), None);
    assert_eq!(breaker.on_result(now, second, true), None);
    assert_eq!(breaker.state(now), BreakerState::Open);
    let later = now + SECOND;
    assert_eq!(call(&mut breaker, later, true), Some(Transition::Closed));
    assert_eq!(breaker.on_result(later, third, false), None);
    assert_eq!(breaker.state(later), BreakerState::Closed);
}

#[test]
fn cancelling_while_closed_changes_nothing() {
    let now = Instant::now();
    let mut breaker = Breaker::new(in_a_row(2));
    call(&mut breaker, now, false);
    let permit = breaker.admit(now).unwrap();
    breaker.on_cancel(permit);
    assert_eq!(breaker.state(now), BreakerState::Closed);
    assert_eq!(
        call(&mut breaker, now, false),
        opened(SECOND),
        "the count went on"
    );
}

#[test]
fn endless_openings_do_not_overflow() {
    let now = Instant::now();
    let mut breaker = Breaker::new(Config {
        open_for: Duration::MAX,
        ..in_a_row(1)
    });
    assert_eq!(call(&mut breaker, now, false), opened(Duration::MAX));
    assert!(!breaker.would_admit(now + 1_000_000 * SECOND));
}

proptest! {
    /// Whatever is reported and however late: never two probes whose results count, and `would_admit` tells what
    /// `admit` does.
    #[test]
    fn at_most_one_probe_counts(steps in prop::collection::vec((0_u8..5, 0_u64..700, any::<prop::sample::Index>()), 1..200)) {
        let mut now = Instant::now();
        let mut breaker = Breaker::new(in_a_row(2));
        let mut permits: Vec<Permit> = Vec::new();
        for (action, milliseconds, which) in steps {
            now += Duration::from_millis(milliseconds);
            let promised = breaker.would_admit(now);
            if action < 2 || permits.is_empty() {
                let permit = breaker.admit(now);
                prop_assert_eq!(permit.is_some(), promised);
                permits.extend(permit);
            } else {
                let permit = permits.swap_remove(which.index(permits.len()));
                match action {
                    2 => breaker.on_cancel(permit),
                    _ => {
                        let before = breaker.state(now);
                        let transition = breaker.on_result(now, permit, action == 3);
                        if transition == Some(Transition::Closed) {
                            prop_assert!(permit.is_probe && before == BreakerState::HalfOpen);
                        }
                    }
                }
            }
            let counting = permits.iter().filter(|p| p.is_probe && p.generation == breaker.generation);
            prop_assert!(counting.count() <= 1);
        }
    }
}

#[test]
fn passed_health_checks_end_the_pause() {
    let now = Instant::now();
    let mut breaker = Breaker::new(forebay_config::gateway::Breaker {
        consecutive_failures: 1,
        success_rate: 0.0,
        window: Duration::from_secs(10),
        minimum_requests: 20,
        open_for: Duration::from_secs(3600),
    });
    breaker.end_pause();
    assert_eq!(breaker.state(now), BreakerState::Closed, "nothing to end");
    let permit = breaker.admit(now).unwrap();
    assert!(breaker.on_result(now, permit, false).is_some());
    assert!(!breaker.would_admit(now));
    breaker.end_pause();
    let probe = breaker.admit(now).unwrap();
    assert!(breaker.admit(now).is_none(), "one probe at a time");
    assert_eq!(
        breaker.on_result(now, probe, true),
        Some(Transition::Closed)
    );
}

#[test]
fn a_pause_is_short_for_what_has_nowhere_else_to_go() {
    let now = Instant::now();
    let mut breaker = Breaker::new(in_a_row(1));
    assert_eq!(call(&mut breaker, now, false), opened(SECOND));
    assert_eq!(breaker.admit_lone(now + LONE_PAUSE / 2), None);
    let mut later = now;
    // However long the outage, and whether the probe came early or on time.
    for pause in [LONE_PAUSE, LONE_PAUSE, 10 * SECOND] {
        later += pause;
        let probe = breaker.admit_lone(later).expect("a probe");
        assert_eq!(breaker.admit_lone(later), None, "one at a time");
        assert_eq!(breaker.admit(later), None);
        assert_eq!(breaker.on_result(later, probe, false), opened(LONE_PAUSE));
    }
    later += LONE_PAUSE;
    let probe = breaker.admit(later).expect("its time is up");
    assert_eq!(
        breaker.on_result(later, probe, true),
        Some(Transition::Closed)
    );
    assert_eq!(
        call(&mut breaker, later, false),
        opened(2 * SECOND),
        "the second opening of its own"
    );
    let lone = breaker.admit_lone(later + LONE_PAUSE).expect("a probe");
    breaker.on_cancel(lone);
    assert_eq!(breaker.state(later + LONE_PAUSE), BreakerState::HalfOpen);
}

#[test]
fn a_closed_breaker_admits_the_lone_as_any_other() {
    let now = Instant::now();
    let mut breaker = Breaker::new(in_a_row(1));
    let permit = breaker.admit_lone(now).expect("closed");
    assert!(!permit.is_probe());
    assert_eq!(
        breaker.on_result(now, permit, false),
        opened(SECOND),
        "a whole opening"
    );
}
