//! A simulated server in virtual time: the limit comes to rest near the knee, and comes back after a slowdown.

use std::collections::{BinaryHeap, VecDeque};

use proptest::prelude::*;

use super::*;

const BOUNDS: AdaptiveLimit = AdaptiveLimit { min: 2, max: 1000 };

fn milliseconds(time: f64) -> Duration {
    Duration::from_secs_f64(time / 1e3)
}

/// Takes up to `batch` waiting requests whenever one of its `lanes` is free; a run of n takes `base + each · n`
/// milliseconds times what `slower` says of the time.
struct Server {
    lanes: usize,
    batch: usize,
    base: f64,
    each: f64,
    tells: bool,
    slower: fn(f64) -> f64,
}

/// What was seen from `from` to the end.
#[derive(Debug)]
struct Seen {
    limit: f64,
    /// Answers a second.
    goodput: f64,
    /// Milliseconds, the mean.
    latency: f64,
}

/// An event of the simulation, the earliest first.
#[derive(PartialEq)]
struct Event {
    at: f64,
    /// None: a request arrives. Else the requests of a run that is over, by arrival, and when it began.
    over: Option<(Vec<f64>, f64)>,
}

impl Eq for Event {}

impl Ord for Event {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.at.total_cmp(&self.at)
    }
}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Offers `rate` requests a millisecond, at random, to `server` behind the limit, until `end`.
fn simulate(server: &Server, rate: f64, from: f64, end: f64, seed: u64) -> Seen {
    let start = Instant::now();
    let mut random = fastrand::Rng::with_seed(seed);
    let mut gradient = Gradient::new(BOUNDS, start);
    let mut events = BinaryHeap::from([Event {
        at: 0.0,
        over: None,
    }]);
    let mut waiting: VecDeque<f64> = VecDeque::new();
    let (mut served, mut busy) = (0_u32, 0);
    let (mut answers, mut latency, mut limits, mut windows) = (0_u32, 0.0, 0.0, 0_u32);
    while let Some(Event { at, over }) = events.pop() {
        if at > end {
            break;
        }
        let now = start + milliseconds(at);
        match over {
            None => {
                let pause = -(1.0 - random.f64()).ln() / rate;
                events.push(Event {
                    at: at + pause,
                    over: None,
                });
                if served < gradient.limit() {
                    served += 1;
                    waiting.push_back(at);
                }
            }
            Some((requests, began)) => {
                busy -= 1;
                for arrived in requests {
                    let timing = server.tells.then(|| Timing {
                        queued: milliseconds(began - arrived),
                        run: milliseconds(at - began),
                    });
                    gradient.answered(now, milliseconds(at - arrived), timing, served);
                    served -= 1;
                    if at > from {
                        answers += 1;
                        latency += at - arrived;
                        limits += f64::from(gradient.limit());
                        windows += 1;
                    }
                }
            }
        }
        while busy < server.lanes && !waiting.is_empty() {
            busy += 1;
            let size = waiting.len().min(server.batch);
            let took = (server.base + server.each * size as f64) * (server.slower)(at);
            events.push(Event {
                at: at + took,
                over: Some((waiting.drain(..size).collect(), at)),
            });
        }
    }
    Seen {
        limit: limits / f64::from(windows.max(1)),
        goodput: f64::from(answers) / (end - from) * 1e3,
        latency: latency / f64::from(answers.max(1)),
    }
}

/// One lane, batches of up to 32: 1.6 requests a millisecond at most.
const BATCHING: Server = Server {
    lanes: 1,
    batch: 32,
    base: 4.0,
    each: 0.5,
    tells: true,
    slower: |_| 1.0,
};

#[test]
fn batches_stay_full_and_no_queue_builds_up_behind_them() {
    for seed in 0..3 {
        let seen = simulate(&BATCHING, 3.2, 5_000.0, 20_000.0, seed);
        // The knee: one batch that runs and one that is ready.
        assert!((50.0..=110.0).contains(&seen.limit), "{seen:?}");
        assert!(seen.goodput > 0.95 * 1_600.0, "{seen:?}");
        assert!(seen.latency < 3.5 * 20.0, "{seen:?}");
    }
}

#[test]
fn the_least_time_alone_would_have_shrunk_them() {
    let silent = Server {
        tells: false,
        ..BATCHING
    };
    let seen = simulate(&silent, 3.2, 5_000.0, 20_000.0, 1);
    let told = simulate(&BATCHING, 3.2, 5_000.0, 20_000.0, 1);
    assert!(
        seen.goodput < 0.9 * told.goodput,
        "{seen:?} beside {told:?}"
    );
}

#[test]
fn without_timings_a_pool_of_threads_is_filled_and_not_flooded() {
    let pool = Server {
        lanes: 16,
        batch: 1,
        base: 20.0,
        each: 0.0,
        tells: false,
        slower: |_| 1.0,
    };
    for seed in 0..3 {
        let seen = simulate(&pool, 1.6, 5_000.0, 50_000.0, seed);
        assert!((15.0..=40.0).contains(&seen.limit), "{seen:?}");
        assert!(seen.goodput > 0.95 * 800.0, "{seen:?}");
        assert!(seen.latency < 2.5 * 20.0, "{seen:?}");
    }
}

#[test]
fn after_a_slowdown_everything_is_as_before() {
    // Five times as slow for five seconds.
    let server = Server {
        slower: |at| {
            if (5_000.0..10_000.0).contains(&at) {
                5.0
            } else {
                1.0
            }
        },
        ..BATCHING
    };
    let seen = simulate(&server, 3.2, 12_000.0, 20_000.0, 1);
    assert!(seen.goodput > 0.95 * 1_600.0, "{seen:?}");
    let pool = Server {
        lanes: 16,
        batch: 1,
        base: 20.0,
        each: 0.0,
        tells: false,
        ..server
    };
    let seen = simulate(&pool, 1.6, 12_000.0, 20_000.0, 1);
    assert!(seen.goodput > 0.9 * 800.0, "{seen:?}");
}

#[test]
fn a_light_load_does_not_raise_the_limit() {
    let seen = simulate(&BATCHING, 0.05, 0.0, 20_000.0, 1);
    assert!(seen.limit <= 21.0, "{seen:?}");
}

#[test]
fn refusals_shrink_it_at_once() {
    let start = Instant::now();
    let mut gradient = Gradient::new(BOUNDS, start);
    for number in 1..=20 {
        gradient.overloaded(start + Duration::from_millis(10 * number), 20);
    }
    assert!(gradient.limit() < 20, "{}", gradient.limit());
}

proptest! {
    #[test]
    fn it_stays_within_its_bounds(
        min in 1..50_u32,
        more in 0..500_u32,
        answers in prop::collection::vec((0..200_u64, 0..10_000_u64, prop::option::of((0..10_000_u64, 0..10_000_u64)), 0..1_000_u32), 0..300),
    ) {
        let bounds = AdaptiveLimit { min, max: min + more };
        let mut now = Instant::now();
        let mut gradient = Gradient::new(bounds, now);
        for (pause, took, timing, served) in answers {
            now += Duration::from_millis(pause);
            let timing = timing.map(|(queued, run)| Timing {
                queued: Duration::from_micros(queued),
                run: Duration::from_micros(run),
            });
            gradient.answered(now, Duration::from_micros(took), timing, served);
            prop_assert!((min..=min + more).contains(&gradient.limit()));
        }
    }
}
