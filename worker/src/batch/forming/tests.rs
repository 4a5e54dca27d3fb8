use super::*;

const ROW: usize = 128;

fn rules(max_rows: usize, delay_ms: u64) -> Rules {
    Rules {
        max_rows,
        preferred: vec![],
        max_delay: Duration::from_millis(delay_ms),
        latency_target: None,
        learn: true,
    }
}

fn taught(rules: Rules, milliseconds: &[(usize, u64)]) -> Forming {
    let mut forming = Forming::new(rules);
    for (rows, duration) in milliseconds {
        for _ in 0..2 {
            let weight = Weight::Rows { row_bytes: ROW };
            forming.record(weight, *rows, Duration::from_millis(*duration));
        }
    }
    forming
}

/// The rows of the batch that goes.
fn sent(call: Call) -> usize {
    match call {
        Call::Send(cut) => cut.rows,
        Call::Wait { until } => panic!("waits until {until:?}"),
    }
}

fn forming(max_rows: usize, delay_ms: u64, milliseconds: &[(usize, u64)]) -> Forming {
    taught(rules(max_rows, delay_ms), milliseconds)
}

fn shape() -> Group {
    Group::Shape {
        dims: Box::new([0, 4]),
        row_bytes: ROW,
    }
}

struct Scene {
    group: Group,
    start: Instant,
}

impl Scene {
    fn new() -> Self {
        Self {
            group: shape(),
            start: Instant::now(),
        }
    }

    fn standing(&self, rows: usize) -> Standing<'_> {
        Standing {
            group: &self.group,
            rows,
            first: (Weight::Rows { row_bytes: ROW }, 1),
            oldest: self.start,
            deadline: None,
        }
    }

    fn asking(&self, after_ms: u64) -> Asking {
        Asking {
            now: self.start + Duration::from_millis(after_ms),
            idle: 1,
            instances: 1,
            draining: false,
        }
    }
}

const FLAT_FROM_FOUR: &[(usize, u64)] = &[(1, 10), (2, 16), (4, 20), (8, 60)];

#[test]
fn without_delay_whatever_waits_goes() {
    let scene = Scene::new();
    let mut forming = forming(8, 0, FLAT_FROM_FOUR);
    assert_eq!(sent(forming.call(scene.standing(1), scene.asking(0))), 1);
    assert_eq!(sent(forming.call(scene.standing(3), scene.asking(0))), 3);
}

#[test]
fn no_batch_beyond_the_best_size() {
    let scene = Scene::new();
    let mut forming = forming(8, 0, FLAT_FROM_FOUR);
    assert_eq!(sent(forming.call(scene.standing(60), scene.asking(0))), 4);
}

#[test]
fn without_learning_the_maximum_rules() {
    let scene = Scene::new();
    let blind = Rules {
        learn: false,
        ..rules(8, 0)
    };
    let mut forming = taught(blind, &[(1, 10), (8, 80)]);
    assert_eq!(sent(forming.call(scene.standing(60), scene.asking(0))), 8);
}

#[test]
fn waits_its_delay_while_that_pays_and_no_longer() {
    let scene = Scene::new();
    let mut forming = forming(8, 5, FLAT_FROM_FOUR);
    let until = scene.start + Duration::from_millis(5);
    assert_eq!(
        forming.call(scene.standing(1), scene.asking(0)),
        Call::Wait { until }
    );
    assert_eq!(sent(forming.call(scene.standing(1), scene.asking(5))), 1);
    assert_eq!(
        sent(forming.call(scene.standing(4), scene.asking(0))),
        4,
        "as large as pays"
    );
}

#[test]
fn does_not_wait_when_company_gains_nothing() {
    let scene = Scene::new();
    let mut forming = forming(8, 5, &[(1, 10), (2, 30), (4, 90), (8, 300)]);
    assert_eq!(sent(forming.call(scene.standing(1), scene.asking(0))), 1);
}

#[test]
fn a_deadline_cuts_the_wait_short() {
    let scene = Scene::new();
    let mut forming = forming(8, 50, FLAT_FROM_FOUR);
    let standing = Standing {
        deadline: Some(scene.start + Duration::from_millis(30)),
        ..scene.standing(1)
    };
    let until = scene.start + Duration::from_millis(8);
    assert_eq!(
        forming.call(standing, scene.asking(0)),
        Call::Wait { until }
    );
    assert_eq!(sent(forming.call(standing, scene.asking(8))), 1);
}

#[test]
fn draining_waits_for_nobody() {
    let scene = Scene::new();
    let mut forming = forming(8, 50, FLAT_FROM_FOUR);
    let asking = Asking {
        draining: true,
        ..scene.asking(0)
    };
    assert_eq!(sent(forming.call(scene.standing(1), asking)), 1);
}

#[test]
fn idle_instances_share_the_work() {
    let scene = Scene::new();
    let mut forming = forming(8, 0, FLAT_FROM_FOUR);
    let asking = Asking {
        idle: 2,
        instances: 2,
        ..scene.asking(0)
    };
    assert_eq!(sent(forming.call(scene.standing(4), asking)), 2);
    assert_eq!(sent(forming.call(scene.standing(1), asking)), 1);
}

#[test]
fn requests_that_share_nothing_go_by_themselves() {
    let start = Instant::now();
    let standing = Standing {
        group: &Group::Alone,
        rows: 9,
        first: (Weight::Alone { bytes: 40 }, 9),
        oldest: start,
        deadline: None,
    };
    let asking = Asking {
        now: start,
        idle: 1,
        instances: 1,
        draining: false,
    };
    assert_eq!(sent(forming(8, 50, &[]).call(standing, asking)), 1);
}

#[test]
fn preferred_sizes_go_at_once_and_less_waits() {
    let scene = Scene::new();
    let preferring = Rules {
        preferred: vec![2, 4],
        ..rules(8, 5)
    };
    let mut learned = taught(preferring.clone(), FLAT_FROM_FOUR);
    let until = scene.start + Duration::from_millis(5);
    let asking = scene.asking(0);
    assert_eq!(
        learned.call(scene.standing(1), asking),
        Call::Wait { until }
    );
    for (waiting, rows) in [(2, 2), (3, 2), (4, 4), (9, 4)] {
        assert_eq!(sent(learned.call(scene.standing(waiting), asking)), rows);
    }
    assert_eq!(sent(learned.call(scene.standing(1), scene.asking(5))), 1);

    let large = Rules {
        preferred: vec![8],
        ..preferring
    };
    let mut learned = taught(large.clone(), FLAT_FROM_FOUR);
    assert_eq!(
        sent(learned.call(scene.standing(9), asking)),
        4,
        "a batch of 8 is slower per row than one of 4"
    );
    let blind = Rules {
        learn: false,
        ..large
    };
    let mut blind = taught(blind, FLAT_FROM_FOUR);
    assert_eq!(sent(blind.call(scene.standing(9), asking)), 8);
    assert_eq!(blind.call(scene.standing(7), asking), Call::Wait { until });
    assert_eq!(sent(blind.call(scene.standing(7), scene.asking(5))), 7);
}

const GAINS: &[(usize, u64)] = &[(1, 10), (2, 12), (4, 16), (8, 24)];

fn in_a_hurry(target_ms: u64, delay_ms: u64) -> Forming {
    let rules = Rules {
        latency_target: Some(Duration::from_millis(target_ms)),
        ..rules(8, delay_ms)
    };
    taught(rules, GAINS)
}

#[test]
fn a_latency_target_makes_batches_smaller_while_that_helps() {
    let scene = Scene::new();
    let mut forming = in_a_hurry(80, 0);
    let mut sent =
        |waiting, after_ms| sent(forming.call(scene.standing(waiting), scene.asking(after_ms)));
    assert_eq!(sent(5, 0), 5, "time enough");
    assert_eq!(
        sent(5, 62),
        4,
        "18 ms are left, 5 rows take 18 at best and 4 take 16"
    );
    assert_eq!(
        sent(2, 68),
        1,
        "12 ms are left, 2 rows take 12 at best and 1 takes 10"
    );
    assert_eq!(sent(9, 66), 8, "pairs would take 60 ms for all that wait");
    assert_eq!(sent(5, 75), 5, "too late for any size");
}

#[test]
fn company_is_waited_for_while_the_target_can_be_kept() {
    let scene = Scene::new();
    let mut forming = in_a_hurry(40, 100);
    let until = scene.start + Duration::from_secs_f64(0.040 - 0.024 * HEADROOM);
    let Call::Wait { until: told } = forming.call(scene.standing(1), scene.asking(0)) else {
        panic!("did not wait");
    };
    assert!(
        told.duration_since(until) < Duration::from_micros(1)
            || until.duration_since(told) < Duration::from_micros(1)
    );
    assert_eq!(sent(forming.call(scene.standing(1), scene.asking(14))), 1);
}

#[test]
fn requests_are_cut_where_the_curve_says_so() {
    let scene = Scene::new();
    let cut = |forming: &mut Forming| match forming.call(scene.standing(64), scene.asking(0)) {
        Call::Send(cut) => (cut.rows, cut.whole, cut.fill),
        Call::Wait { .. } => panic!("nobody should wait"),
    };
    let expected = |rows, whole, fill| (rows, whole, fill);
    assert_eq!(cut(&mut forming(8, 0, FLAT_FROM_FOUR)), expected(4, 4, 4));
    assert_eq!(cut(&mut forming(8, 0, GAINS)), expected(8, 8, 8));
    assert_eq!(cut(&mut in_a_hurry(1000, 0)), expected(8, 8, 0));
    let mut off = forming(1, 0, &[(1, 10)]);
    assert_eq!(cut(&mut off), (1, usize::MAX, 0), "batching is off");
}

#[test]
fn the_end_of_a_batch_is_told_where_it_is_known() {
    let scene = Scene::new();
    let done_at = |forming: &mut Forming| match forming.call(scene.standing(3), scene.asking(0)) {
        Call::Send(cut) => cut.done_at,
        Call::Wait { .. } => panic!("nobody should wait"),
    };
    assert_eq!(done_at(&mut forming(8, 0, &[])), None);
    let near = |moment: Option<Instant>, milliseconds: u64| {
        let expected = scene.start + Duration::from_millis(milliseconds);
        let off = moment.unwrap().max(expected) - moment.unwrap().min(expected);
        assert!(off < Duration::from_micros(1), "{off:?}");
    };
    near(done_at(&mut forming(8, 0, FLAT_FROM_FOUR)), 18);
    near(done_at(&mut forming(1, 0, &[(1, 10)])), 10);
}

mod simulation;

proptest::proptest! {
    #[test]
    fn sizes_keep_to_the_limits(
        samples in proptest::collection::vec((1usize..40, 1u64..1000), 0..60),
        preferred in proptest::collection::btree_set(1usize..33, 0..4),
        (waiting, idle, max_rows) in (1usize..200, 1usize..4, 1usize..33),
        (delay, target, age) in (0u64..50, proptest::option::of(1u64..100), 0u64..120),
        learn: bool,
    ) {
        let scene = Scene::new();
        let rules = Rules {
            preferred: preferred.iter().copied().filter(|size| *size <= max_rows).collect(),
            latency_target: target.map(Duration::from_millis),
            learn,
            ..rules(max_rows, delay)
        };
        let mut forming = Forming::new(rules);
        for (rows, took) in samples {
            forming.record(Weight::Rows { row_bytes: ROW }, rows, Duration::from_millis(took));
        }
        let asking = Asking { idle, instances: idle, ..scene.asking(age) };
        match forming.call(scene.standing(waiting), asking) {
            Call::Wait { until } => {
                proptest::prop_assert!(until > asking.now);
                proptest::prop_assert!(until <= scene.start + Duration::from_millis(delay));
                proptest::prop_assert!(target.is_none_or(|target| until <= scene.start + Duration::from_millis(target)));
            }
            Call::Send(cut) => {
                proptest::prop_assert!((1..=waiting).contains(&cut.rows) && cut.rows <= max_rows);
                proptest::prop_assert!(max_rows == 1 || (1..=max_rows).contains(&cut.whole));
                proptest::prop_assert!(cut.fill <= max_rows);
            }
        }
    }
}
