//! Interrupts: the run in progress ends, others do not notice.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// Products of square matrices, one after the other: minutes of work when they are large.
fn powers() -> TestModel {
    let names: Vec<String> = (0..=2000).map(|step| format!("x{step}")).collect();
    let shape: Option<&[&str]> = Some(&["n", "n"]);
    let model = TestModel::default()
        .input("x0", FLOAT, shape)
        .output("x2000", FLOAT, shape);
    names.windows(2).fold(model, |model, step| {
        model.node("MatMul", &[&step[0], "x0"], &[&step[1]])
    })
}

#[test]
fn a_run_is_ended_and_the_next_one_is_not() {
    let mut model = open(powers());
    let interrupter = model.first.interrupter().unwrap();
    interrupter.interrupt();
    let unit = [1.0f32];
    let alone = run(&mut model, &[1, 1], unit.as_bytes()).unwrap();
    assert_eq!(&alone.data[..], unit.as_bytes(), "nothing was in progress");

    let large = vec![0.0f32; 1024 * 1024];
    let over = AtomicBool::new(false);
    let answer = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                interrupter.interrupt();
                std::thread::yield_now();
            }
        });
        let answer = run(&mut model, &[1024, 1024], large.as_bytes());
        over.store(true, Ordering::SeqCst);
        answer
    });
    assert_eq!(answer.unwrap_err(), EngineError::Interrupted);

    let after = run(&mut model, &[1, 1], unit.as_bytes()).unwrap();
    assert_eq!(&after.data[..], unit.as_bytes());
}

#[test]
fn an_interrupt_as_a_run_ends_reaches_no_later_one() {
    let shape: Option<&[&str]> = Some(&["n", "n"]);
    let small = TestModel::default()
        .input("x", FLOAT, shape)
        .output("y", FLOAT, shape)
        .node("MatMul", &["x", "x"], &["y"]);
    let mut model = open(small);
    let interrupter = model.first.interrupter().unwrap();
    let unit = [1.0f32];
    let over = AtomicBool::new(false);
    let strays = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                interrupter.interrupt();
            }
        });
        let outcomes = (0..150_000).map(|_| run(&mut model, &[1, 1], unit.as_bytes()));
        let strays: Vec<EngineError> = outcomes
            .filter_map(Result::err)
            .filter(|error| *error != EngineError::Interrupted)
            .take(1)
            .collect();
        over.store(true, Ordering::SeqCst);
        strays
    });
    assert_eq!(strays, []);
    assert!(run(&mut model, &[1, 1], unit.as_bytes()).is_ok());
}
