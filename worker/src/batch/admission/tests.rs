use proptest::prelude::*;

use super::*;
use crate::batch::forming::Rules;

mod simulation;

const ROW: Weight = Weight::Rows { row_bytes: 128 };
const MS: Duration = Duration::from_millis(1);

/// Batches of up to 8; 1 row takes 10 ms, 8 take 24.
fn forming() -> Forming {
    let mut forming = Forming::new(Rules {
        max_rows: 8,
        preferred: vec![],
        max_delay: Duration::ZERO,
        latency_target: None,
        learn: true,
    });
    for (rows, took) in [(1, 10), (2, 12), (4, 16), (8, 24)] {
        for _ in 0..2 {
            forming.record(ROW, rows, took * MS);
        }
    }
    forming
}

struct Scene {
    forming: Forming,
    backlog: Backlog,
    idle: usize,
    free_at: Vec<Instant>,
    now: Instant,
}

impl Scene {
    fn busy(free_in: &[u32]) -> Self {
        let now = Instant::now();
        Self {
            forming: forming(),
            backlog: Backlog::new(),
            idle: 0,
            free_at: free_in.iter().map(|time| now + *time * MS).collect(),
            now,
        }
    }

    fn idle() -> Self {
        Self {
            idle: 1,
            ..Self::busy(&[])
        }
    }

    fn with(mut self, priority: u32, weight: Weight, rows: usize) -> Self {
        self.backlog.insert((priority, weight.class()), rows);
        self
    }

    fn applicant(&self, patience: u32) -> Applicant {
        Applicant {
            rows: 1,
            priority: 1,
            weight: ROW,
            measured: Some(self.now),
            deadline: self.now + patience * MS,
        }
    }

    fn situation(&self) -> Situation<'_> {
        Situation {
            forming: &self.forming,
            backlog: &self.backlog,
            idle: self.idle,
            free_at: &self.free_at,
        }
    }

    fn admits(&self, applicant: Applicant) -> bool {
        admit(applicant, self.situation(), self.now).is_ok()
    }

    fn expects(&self, applicant: Applicant) -> u128 {
        let expected = expected(applicant, self.situation(), self.now);
        expected.unwrap().as_micros().div_ceil(10) / 100
    }
}

#[test]
fn an_idle_instance_takes_whoever_can_be_run_in_time() {
    let scene = Scene::idle().with(1, ROW, 1000);
    assert_eq!(scene.expects(scene.applicant(1)), 10);
    assert!(scene.admits(scene.applicant(10)));
    assert!(
        scene.admits(scene.applicant(9)),
        "the estimate may be wrong"
    );
    assert_eq!(
        admit(scene.applicant(5), scene.situation(), scene.now).map_err(|time| time.as_millis()),
        Err(10)
    );
}

#[test]
fn what_runs_and_what_waits_comes_first() {
    assert_eq!(
        Scene::busy(&[20]).expects(Scene::busy(&[20]).applicant(1)),
        30
    );
    let scene = Scene::busy(&[20]).with(1, ROW, 8);
    assert_eq!(scene.expects(scene.applicant(1)), 20 + 24 + 10);
    let scene = Scene::busy(&[20]).with(1, ROW, 15);
    assert_eq!(
        scene.expects(scene.applicant(1)),
        54,
        "seven of them share its batch"
    );
    let scene = Scene::busy(&[20, 10]).with(1, ROW, 80);
    assert_eq!(scene.expects(scene.applicant(1)), (30 + 240) / 2 + 10);
    let scene = Scene::busy(&[20, 90]);
    assert_eq!(scene.expects(scene.applicant(1)), 55 + 10);
    assert!(!scene.admits(scene.applicant(40)) && scene.admits(scene.applicant(60)));
}

#[test]
fn only_those_who_go_before_count() {
    let scene = Scene::busy(&[20]).with(2, ROW, 800).with(1, ROW, 8);
    assert_eq!(scene.expects(scene.applicant(1)), 54);
    let low = Applicant {
        priority: 2,
        ..scene.applicant(1)
    };
    assert_eq!(scene.expects(low), 54 + 2400);
}

#[test]
fn what_is_not_known_stands_in_nobodys_way() {
    let heavy = Weight::Rows { row_bytes: 1 << 20 };
    let alone = Weight::Alone { bytes: 128 };
    let scene = Scene::busy(&[20]).with(1, heavy, 800).with(1, alone, 50);
    assert_eq!(scene.expects(scene.applicant(1)), 30);
    let unknown = Applicant {
        weight: heavy,
        ..scene.applicant(1)
    };
    assert!(scene.admits(unknown));
    for measured in [None, scene.now.checked_sub(2 * STALE)] {
        let applicant = Applicant {
            measured,
            ..scene.applicant(1)
        };
        assert!(
            scene.admits(applicant),
            "nobody knows whether it still holds"
        );
    }
}

#[test]
fn requests_that_go_alone_have_durations_of_their_own() {
    let alone = Weight::Alone { bytes: 128 };
    let mut scene = Scene::busy(&[20]).with(1, alone, 3);
    for _ in 0..2 {
        scene.forming.record(alone, 7, 50 * MS);
    }
    let applicant = Applicant {
        weight: alone,
        ..scene.applicant(1)
    };
    assert_eq!(scene.expects(applicant), 20 + 150 + 50);
}

#[test]
fn a_request_in_parts_takes_all_of_them() {
    let scene = Scene::idle();
    let large = Applicant {
        rows: 80,
        ..scene.applicant(1)
    };
    assert_eq!(scene.expects(large), 240);
}

proptest! {
    #[test]
    fn more_time_and_less_work_never_turn_a_yes_into_a_no(
        waiting in 0usize..200,
        fewer in 0usize..200,
        busy in proptest::collection::vec(0u32..100, 1..4),
        patience in 1u32..500,
        more in 0u32..100,
        (rows, priority) in (1usize..40, 0u32..3),
    ) {
        let crowded = Scene::busy(&busy).with(1, ROW, waiting);
        let applicant = Applicant { rows, priority, ..crowded.applicant(patience) };
        if crowded.admits(applicant) {
            let patient = Applicant { deadline: applicant.deadline + more * MS, ..applicant };
            prop_assert!(crowded.admits(patient));
            let quieter = Scene { now: crowded.now, free_at: crowded.free_at.clone(), ..Scene::busy(&[]) }
                .with(1, ROW, waiting.saturating_sub(fewer));
            prop_assert!(quieter.admits(applicant));
        }
    }
}
