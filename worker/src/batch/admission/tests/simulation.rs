//! Callers with deadlines at twice the capacity: who is refused would not have been served.

use super::*;
use crate::batch::forming::Asking;
use crate::batch::queue::{Decision, Group, Queue, Waiting};

#[derive(Debug, Clone)]
struct Row {
    number: u64,
    deadline: Instant,
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
        ROW
    }
    fn deadline(&self) -> Option<Instant> {
        Some(self.deadline)
    }
    fn is_cancelled(&self) -> bool {
        false
    }
    fn split(self, _: usize) -> Result<(Self, Self), Self> {
        Err(self)
    }
}

#[derive(Debug, Default)]
struct Outcome {
    refused: usize,
    expired: usize,
    in_time: usize,
    late: usize,
}

/// One instance, single rows evenly at `rate` a second, each with so much patience.
fn run(rate: f64, patience: Duration, checked: bool) -> Outcome {
    let start = Instant::now();
    let mut random = fastrand::Rng::with_seed(3);
    let mut forming = forming();
    let mut queue: Queue<Row> = Queue::new(usize::MAX);
    let mut outcome = Outcome::default();
    let group = Group::Shape {
        dims: Box::new([0, 1, 32]),
        row_bytes: 128,
    };
    let mut free_at = start;
    let mut measured = start;
    for number in 0..5_000u64 {
        let now = start + Duration::from_secs_f64(number as f64 / rate);
        while free_at <= now && !queue.is_empty() {
            let asking = Asking {
                now: free_at,
                idle: 1,
                instances: 1,
                draining: false,
            };
            let turn = queue.next(free_at, |standing| forming.call(standing, asking));
            outcome.expired += turn.dropped.len();
            let Decision::Run(batch) = turn.decision else {
                continue;
            };
            // The curve of `forming`, a tenth more or less.
            let took = (8 + 2 * batch.len() as u32) * MS.mul_f64(0.9 + 0.2 * random.f64());
            free_at += took;
            measured = free_at;
            forming.record(ROW, batch.len(), took);
            let in_time = batch.iter().filter(|row| row.deadline >= free_at).count();
            outcome.in_time += in_time;
            outcome.late += batch.len() - in_time;
        }
        let deadline = now + patience;
        let busy = free_at > now;
        let applicant = Applicant {
            rows: 1,
            priority: 0,
            weight: ROW,
            measured: Some(measured),
            deadline,
        };
        let ends = [free_at];
        let situation = Situation {
            forming: &forming,
            backlog: queue.backlog(),
            idle: usize::from(!busy),
            free_at: if busy { &ends } else { &[] },
        };
        if checked && admit(applicant, situation, now).is_err() {
            outcome.refused += 1;
            continue;
        }
        let group = group.clone();
        let row = Row {
            number,
            deadline,
            group,
        };
        assert!(queue.push(row, now).place.is_ok());
        if !busy {
            free_at = now;
        }
    }
    outcome
}

#[test]
fn beyond_capacity_as_many_are_served_and_the_rest_learn_at_once() {
    let patience = 100 * MS;
    let (with, without) = (run(660.0, patience, true), run(660.0, patience, false));
    assert_eq!(without.refused, 0);
    assert!(
        with.in_time as f64 >= without.in_time as f64 * 0.97,
        "refusing costs answers: {with:?}, without {without:?}"
    );
    let vain = |outcome: &Outcome| outcome.expired + outcome.late;
    assert!(
        vain(&with) * 2 < vain(&without),
        "most wait in vain all the same: {with:?}, without {without:?}"
    );
}

#[test]
fn below_capacity_nobody_is_refused() {
    let outcome = run(200.0, 100 * MS, true);
    assert_eq!(outcome.refused, 0, "{outcome:?}");
}
