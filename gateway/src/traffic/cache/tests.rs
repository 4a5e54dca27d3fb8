//! Who is answered, who waits and who leads.

use forebay_cache::Digest;
use proptest::prelude::*;

use super::*;

const TTL: Duration = Duration::from_secs(60);

fn key(number: usize) -> Key {
    let mut digest = Digest::new();
    digest.number(number);
    digest.key()
}

fn kept(model: &str, bytes: usize, now: Instant) -> Arc<Kept> {
    Arc::new(Kept {
        message: vec![0; bytes].into(),
        model: model.into(),
        endpoint: HeaderValue::from_static("worker-1:8001"),
        made: now,
        until: now + TTL,
    })
}

fn shelf() -> Shelf<usize> {
    Shelf::new(100_000)
}

/// What a call finds: `kept`, the number of whom it waits for, or `run`.
fn found(found: &Found<usize>) -> String {
    match found {
        Found::Kept(_) => "kept".to_owned(),
        Found::Underway(wait) => wait.to_string(),
        Found::Nothing(_) => "run".to_owned(),
    }
}

fn run(found: Found<usize>) -> Run {
    match found {
        Found::Nothing(run) => run,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_call_waits_for_an_identical_one_and_then_finds_its_answer() {
    let (mut shelf, now) = (shelf(), Instant::now());
    let look =
        |shelf: &mut Shelf<usize>, number, wait| shelf.look(key(number), Wish::Any, now, || wait);
    let first = run(look(&mut shelf, 1, 10));
    assert_eq!(found(&look(&mut shelf, 1, 11)), "10");
    let other = run(look(&mut shelf, 2, 20));
    assert_eq!(shelf.contents().underway, 2);
    drop(shelf.end(&first, Some(kept("m", 100, now))));
    assert_eq!(found(&look(&mut shelf, 1, 12)), "kept");
    drop(shelf.end(&other, None));
    // Without an answer the next one leads.
    assert_eq!(found(&look(&mut shelf, 2, 21)), "run");
    let contents = shelf.contents();
    assert_eq!((contents.entries, contents.underway), (1, 1));
}

#[test]
fn answers_are_given_until_their_time_is_over() {
    let (mut shelf, now) = (shelf(), Instant::now());
    let first = run(shelf.look(key(1), Wish::Any, now, || 1));
    drop(shelf.end(&first, Some(kept("m", 100, now))));
    let almost = now + TTL - Duration::from_millis(1);
    assert_eq!(found(&shelf.look(key(1), Wish::Any, almost, || 2)), "kept");
    assert_eq!(
        found(&shelf.look(key(1), Wish::Any, now + TTL, || 3)),
        "run"
    );
    assert_eq!(shelf.contents().entries, 0);
}

#[test]
fn who_wants_a_young_answer_gets_one() {
    let (mut shelf, now) = (shelf(), Instant::now());
    let first = run(shelf.look(key(1), Wish::Any, now, || 1));
    drop(shelf.end(&first, Some(kept("m", 100, now))));
    let later = now + Duration::from_secs(10);
    let younger = |seconds| Wish::Younger(Duration::from_secs(seconds));
    assert_eq!(found(&shelf.look(key(1), younger(11), later, || 2)), "kept");
    let second = run(shelf.look(key(1), younger(10), later, || 2));
    // One that is under way is young enough, unless nothing is.
    assert_eq!(found(&shelf.look(key(1), younger(10), later, || 3)), "2");
    let third = run(shelf.look(key(1), younger(0), later, || 4));
    // Others still find what is kept.
    assert_eq!(found(&shelf.look(key(1), Wish::Any, later, || 5)), "kept");
    drop(shelf.end(&third, Some(kept("m", 200, later))));
    assert_eq!(found(&shelf.look(key(1), younger(1), later, || 6)), "kept");
    assert_eq!(shelf.contents().underway, 1);
    drop(shelf.end(&second, Some(kept("m", 100, later))));
    let contents = shelf.contents();
    assert_eq!((contents.entries, contents.underway), (1, 0));
    assert_eq!(contents.evictions, 0);
}

#[test]
fn a_purge_leaves_nothing_of_before() {
    let (mut shelf, now) = (shelf(), Instant::now());
    for (number, model) in [(1, "a"), (2, "a"), (3, "b")] {
        let run = run(shelf.look(key(number), Wish::Any, now, || number));
        drop(shelf.end(&run, Some(kept(model, 100, now))));
    }
    let before = run(shelf.look(key(4), Wish::Any, now, || 4));
    assert_eq!(shelf.purge(Some("a")), 2);
    assert_eq!(found(&shelf.look(key(3), Wish::Any, now, || 0)), "kept");
    // Nobody joins what began before, and its answer is not kept.
    let after = run(shelf.look(key(4), Wish::Any, now, || 5));
    drop(shelf.end(&before, Some(kept("a", 100, now))));
    assert_eq!(found(&shelf.look(key(4), Wish::Any, now, || 6)), "5");
    drop(shelf.end(&after, Some(kept("a", 100, now))));
    assert_eq!(shelf.purge(None), 2);
    assert_eq!(shelf.contents().entries, 0);
}

#[test]
fn what_has_no_room_at_all_is_not_kept() {
    let (mut shelf, now) = (shelf(), Instant::now());
    let first = run(shelf.look(key(1), Wish::Any, now, || 1));
    drop(shelf.end(&first, Some(kept("m", 100_000, now))));
    let contents = shelf.contents();
    assert_eq!((contents.entries, contents.evictions), (0, 0));
}

proptest! {
    /// Whatever happens, each key has one leader at most, and all runs leave the table.
    #[test]
    fn runs_leave_the_table(
        steps in prop::collection::vec((0_usize..4, 0_u8..5), 0..60)
    ) {
        let (mut shelf, now) = (shelf(), Instant::now());
        let mut runs: Vec<Run> = Vec::new();
        for (number, step) in steps {
            match step {
                0 | 1 => {
                    let wish = if step == 0 { Wish::Any } else { Wish::Younger(Duration::ZERO) };
                    if let Found::Nothing(run) = shelf.look(key(number), wish, now, || 0) {
                        runs.push(run);
                    }
                }
                2 => { shelf.purge(None); }
                _ if runs.is_empty() => {}
                _ => {
                    let run = runs.swap_remove(number % runs.len());
                    let answer = (step == 3).then(|| kept("m", 10, now));
                    drop(shelf.end(&run, answer));
                }
            }
            let contents = shelf.contents();
            prop_assert!(contents.underway <= runs.len());
            prop_assert!(contents.bytes <= 100_000);
        }
        for run in runs {
            drop(shelf.end(&run, None));
        }
        prop_assert_eq!(shelf.contents().underway, 0);
    }
}
