//! One instance and callers that come whether or not they are served: what a latency target does to them.

use super::*;
use crate::batch::queue::{Decision, Queue, Waiting};

#[derive(Debug, Clone)]
struct Row {
    number: u64,
    arrived: Instant,
    group: Group,
}

impl Waiting for Row {
    fn group(&self) -> &Group {
        &self.group
    }
    fn rows(&self) -> usize {
        1
    }
    fn number(&self) -> u64 {
        self.number
    }
    fn priority(&self) -> u32 {
        0
    }
    fn weight(&self) -> Weight {
        Weight::Rows { row_bytes: ROW }
    }
    fn deadline(&self) -> Option<Instant> {
        None
    }
    fn is_cancelled(&self) -> bool {
        false
    }
    fn split(self, _: usize) -> Result<(Self, Self), Self> {
        Err(self)
    }
}

/// What came of it: the latencies in order, and the time it took to answer everybody.
struct Outcome {
    latencies: Vec<Duration>,
    took: Duration,
}

impl Outcome {
    fn quantile(&self, share: f64) -> Duration {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        sorted[(sorted.len() as f64 * share) as usize]
    }

    fn late(&self, target: Duration) -> usize {
        self.latencies
            .iter()
            .filter(|latency| **latency > target)
            .count()
    }
}

/// A run takes 2 ms, and 3 ms per row: 32 rows take 98 ms, 326 rows a second at most.
fn duration(rows: usize) -> Duration {
    Duration::from_millis(2 + 3 * rows as u64)
}

const CAPACITY: f64 = 326.0;

/// Poisson arrivals of `number` single rows at `rate` a second.
fn run(target: Option<Duration>, rate: f64, number: u64) -> Outcome {
    let start = Instant::now();
    let mut random = fastrand::Rng::with_seed(7);
    let mut forming = Forming::new(Rules {
        latency_target: target,
        ..rules(32, 0)
    });
    let weight = Weight::Rows { row_bytes: ROW };
    for rows in [1, 2, 4, 8, 16, 32] {
        for _ in 0..2 {
            forming.record(weight, rows, duration(rows));
        }
    }
    let mut arrivals = Vec::new();
    let mut moment = start;
    for _ in 0..number {
        moment += Duration::from_secs_f64(-(1.0 - random.f64()).ln() / rate);
        arrivals.push(moment);
    }
    let mut arrivals = arrivals.into_iter().zip(0..).peekable();
    let mut queue = Queue::new(usize::MAX);
    let mut latencies = Vec::new();
    let mut now = start;
    loop {
        while let Some((arrived, number)) = arrivals.next_if(|(arrived, _)| *arrived <= now) {
            let group = shape();
            let row = Row {
                number,
                arrived,
                group,
            };
            assert!(queue.push(row, arrived).place.is_ok());
        }
        let asking = Asking {
            now,
            idle: 1,
            instances: 1,
            draining: false,
        };
        match queue
            .next(now, |standing| forming.call(standing, asking))
            .decision
        {
            Decision::Run(batch) => {
                let took = duration(batch.len());
                now += took;
                forming.record(weight, batch.len(), took);
                latencies.extend(batch.iter().map(|row| now.duration_since(row.arrived)));
            }
            Decision::WaitUntil(until) => now = until,
            Decision::Empty => match arrivals.peek() {
                Some((arrived, _)) => now = *arrived,
                None => break,
            },
        }
    }
    Outcome {
        latencies,
        took: now.duration_since(start),
    }
}

const TARGET: Duration = Duration::from_millis(80);

/// With the target and without, at so much of the capacity.
fn both(load: f64) -> [Outcome; 2] {
    [Some(TARGET), None].map(|target| run(target, CAPACITY * load, 20_000))
}

#[test]
fn below_capacity_fewer_are_late_with_the_target_than_without() {
    let [with, without] = both(0.85).map(|outcome| outcome.late(TARGET));
    assert!(
        with * 10 < without * 9,
        "{with} late with the target, {without} without"
    );
}

#[test]
fn close_to_capacity_the_queue_does_not_collapse() {
    let [with, without] = both(0.97);
    let [late, late_without] = [&with, &without].map(|outcome| outcome.late(TARGET));
    assert!(
        late * 10 < late_without * 11,
        "{late} late with the target, {late_without} without"
    );
    let [median, median_without] = [&with, &without].map(|outcome| outcome.quantile(0.5));
    assert!(
        median < median_without.mul_f64(1.25),
        "{median:?} and {median_without:?}"
    );
}

#[test]
fn beyond_capacity_no_throughput_is_lost_to_the_target() {
    let [with, without] = both(1.3).map(|outcome| outcome.took.as_secs_f64());
    assert!(
        with < without * 1.02,
        "{with} s with the target, {without} s without"
    );
}
