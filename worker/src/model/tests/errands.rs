//! Short runs on the caller's own thread.

use std::sync::atomic::AtomicU64;
use std::sync::mpsc;
use std::thread::sleep;

use futures::FutureExt;

use super::*;
use crate::batch::queue::Weight;

const PATIENCE: Duration = Duration::from_secs(10);

/// A time at which nobody has come for long; each is later than those before.
fn alone() -> Instant {
    static SECONDS: AtomicU64 = AtomicU64::new(1);
    Instant::now() + Duration::from_secs(SECONDS.fetch_add(1, Ordering::SeqCst))
}

/// Whatever runs really took, on a machine that may be busy, these were short.
fn teach(model: &Model) {
    for _ in 0..100 {
        let measured = Measured {
            weight: Weight::Rows { row_bytes: 8 },
            rows: 1,
            took: Duration::from_micros(10),
        };
        model.common.lane.done(0, measured, &[], Instant::now());
    }
}

/// One whose instances rest and are known to be quick.
fn steady(script: &Arc<Script>, instances: u32) -> Model {
    let config = ModelConfig {
        instances,
        ..config()
    };
    let model = start(script, config);
    let end = Instant::now() + PATIENCE;
    loop {
        teach(&model);
        if is_answered_at_once(&model) {
            teach(&model);
            return model;
        }
        assert!(Instant::now() < end, "nothing is ever lent");
    }
}

/// Whether it is answered before `submit` returns.
fn is_answered_at_once(model: &Model) -> bool {
    let answer = model.submit(request(&[1.0, 2.0]), alone()).unwrap();
    match answer.now_or_never() {
        Some(answer) => {
            let response = answer.unwrap().unwrap();
            assert_eq!(response.outputs[0].data, bytes_of(&[1.0, 2.0]));
            true
        }
        None => false,
    }
}

/// Fails if it is run by its caller.
fn is_answered_later(script: &Arc<Script>, model: &Model) {
    script.close();
    std::thread::scope(|scope| {
        let (tell, told) = mpsc::channel();
        scope.spawn(move || {
            let mut answer = model.submit(request(&[1.0, 2.0]), alone()).unwrap();
            tell.send((&mut answer).now_or_never().is_none()).unwrap();
            assert_eq!(echo(answer), bytes_of(&[1.0, 2.0]));
        });
        script.wait_for_standing(1);
        let is_free = told.recv_timeout(PATIENCE);
        script.open();
        assert_eq!(is_free, Ok(true));
    });
}

#[test]
fn a_request_that_comes_alone_is_run_by_its_caller() {
    let script = Arc::default();
    let model = steady(&script, 1);
    for _ in 0..3 {
        teach(&model);
        assert!(is_answered_at_once(&model));
    }
    assert_eq!(model.statistics().queued_requests, 0);
}

#[test]
fn nothing_is_lent_before_runs_were_seen_to_be_short() {
    let script = Arc::default();
    let model = start(&script, config());
    is_answered_later(&script, &model);
}

#[test]
fn after_a_run_that_took_long_callers_wait_as_before() {
    for value in [1.0, FAIL] {
        let script = Arc::default();
        let model = steady(&script, 1);
        *script.cost.lock() = Duration::from_millis(2);
        let answer = model.submit(request(&[value, 1.0]), alone()).unwrap();
        let answer = answer.now_or_never().expect("nobody knew").unwrap();
        assert_eq!(answer.is_err(), value == FAIL);
        *script.cost.lock() = Duration::ZERO;
        is_answered_later(&script, &model);
    }
}

#[test]
fn a_request_that_meets_another_is_left_to_the_instance() {
    let script = Arc::default();
    let model = steady(&script, 1);
    script.close();
    std::thread::scope(|scope| {
        // It is run on this thread, until the gate opens.
        let lent = scope.spawn(|| is_answered_at_once(&model));
        script.wait_for_standing(1);
        let waiting: Vec<_> = (0..3)
            .map(|_| model.submit(request(&[3.0, 4.0]), alone()).unwrap())
            .collect();
        assert_eq!(model.statistics().queued_requests, 3);
        script.open();
        assert!(lent.join().unwrap());
        for answer in waiting {
            assert_eq!(echo(answer), bytes_of(&[3.0, 4.0]));
        }
    });
    assert_eq!(script.runs.lock().last(), Some(&3), "together");
}

/// Callers on one thread would never meet: what each of them waits for is over before the next one comes.
#[test]
fn now_and_then_the_instance_has_its_turn() {
    let script: Arc<Script> = Arc::default();
    let model = steady(&script, 1);
    let before = script.own_runs.load(Ordering::SeqCst);
    for _ in 0..51 {
        teach(&model);
        echo(model.submit(request(&[1.0, 2.0]), alone()).unwrap());
    }
    // Every seventeenth at least.
    let own_runs = script.own_runs.load(Ordering::SeqCst) - before;
    assert!(own_runs >= 3, "{own_runs}");
}

#[test]
fn a_lent_instance_is_waited_for_at_the_end() {
    let script = Arc::default();
    let model = steady(&script, 1);
    script.close();
    std::thread::scope(|scope| {
        let lent = scope.spawn(|| is_answered_at_once(&model));
        script.wait_for_standing(1);
        let ending = scope.spawn(|| model.shutdown());
        script.open();
        assert!(lent.join().unwrap());
        ending.join().unwrap();
    });
}

#[test]
fn a_panic_on_an_errand_costs_the_engine_and_not_the_instance() {
    let script = Arc::default();
    let model = steady(&script, 1);
    let answer = model.submit(request(&[PANIC, 0.0]), alone()).unwrap();
    let error = answer.now_or_never().unwrap().unwrap().unwrap_err();
    assert!(error.to_string().contains("panic"), "{error}");
    // Who makes the engine anew takes its time, and does so on the instance's thread.
    let before = script.instances.load(Ordering::SeqCst);
    teach(&model);
    is_answered_later(&script, &model);
    assert_eq!(script.instances.load(Ordering::SeqCst), before + 1);
}

#[test]
fn nobody_is_forgotten_between_callers_and_instances() {
    for instances in [1, 2] {
        let script = Arc::default();
        let model = steady(&script, instances);
        let before = model.statistics().success.count;
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let model = &model;
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(thread);
                    for number in 0..300 {
                        let value = (thread * 1_000 + number) as f32;
                        let answer = model.submit(request(&[value, value]), Instant::now());
                        assert_eq!(echo(answer.unwrap()), bytes_of(&[value, value]));
                        if random.u8(..16) == 0 {
                            sleep(Duration::from_millis(random.u64(..12)));
                        }
                    }
                });
            }
        });
        assert_eq!(model.statistics().success.count, before + 1_200);
        model.shutdown();
    }
}
