//! Short runs on the caller's own thread.

use std::thread::sleep;

use futures::FutureExt;

use super::*;

/// Longer than requests that met are remembered.
const ALONE: Duration = Duration::from_millis(6);

/// What a run takes that is not done by the time a caller looks for the answer, unless it ran it itself.
const VISIBLE: Duration = Duration::from_micros(500);

/// One that has seen enough short runs.
fn steady(script: &Arc<Script>, instances: u32) -> Model {
    let config = ModelConfig {
        instances,
        ..config()
    };
    let model = start(script, config);
    // On a busy machine even such a run may take its time.
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        for _ in 0..40 {
            echo(model.submit(request(&[0.0, 0.0]), Instant::now()).unwrap());
        }
        sleep(ALONE);
        if is_answered_at_once(&model) {
            return model;
        }
        assert!(Instant::now() < end, "nothing is ever lent");
    }
}

/// Whether it is answered before `submit` returns.
fn is_answered_at_once(model: &Model) -> bool {
    let answer = model.submit(request(&[1.0, 2.0]), Instant::now()).unwrap();
    match answer.now_or_never() {
        Some(answer) => {
            let response = answer.unwrap().unwrap();
            assert_eq!(response.outputs[0].data, bytes_of(&[1.0, 2.0]));
            true
        }
        None => false,
    }
}

/// Fails if it is answered before `submit` returns.
fn is_answered_later(model: &Model) {
    let mut answer = model.submit(request(&[1.0, 2.0]), Instant::now()).unwrap();
    assert!((&mut answer).now_or_never().is_none());
    assert_eq!(echo(answer), bytes_of(&[1.0, 2.0]));
}

#[test]
fn a_request_that_comes_alone_is_run_by_its_caller() {
    let script = Arc::default();
    let model = steady(&script, 1);
    for _ in 0..3 {
        assert!(is_answered_at_once(&model));
    }
    let statistics = model.statistics();
    assert_eq!(statistics.success.count, statistics.submitted);
    assert_eq!(statistics.queued_requests, 0);
}

#[test]
fn nothing_is_lent_before_runs_were_seen_to_be_short() {
    let script = Arc::default();
    let model = start(&script, config());
    *script.cost.lock() = VISIBLE;
    is_answered_later(&model);
}

#[test]
fn after_a_run_that_took_long_callers_wait_as_before() {
    let script = Arc::default();
    let model = steady(&script, 1);
    *script.cost.lock() = Duration::from_millis(2);
    assert!(is_answered_at_once(&model), "nobody knew");
    *script.cost.lock() = VISIBLE;
    sleep(ALONE);
    is_answered_later(&model);
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
            .map(|_| model.submit(request(&[3.0, 4.0]), Instant::now()).unwrap())
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

#[test]
fn a_lent_instance_is_waited_for_at_the_end() {
    let script = Arc::default();
    let model = steady(&script, 1);
    script.close();
    std::thread::scope(|scope| {
        let lent = scope.spawn(|| is_answered_at_once(&model));
        script.wait_for_standing(1);
        let ending = scope.spawn(|| model.shutdown());
        sleep(ALONE);
        assert!(!ending.is_finished());
        script.open();
        assert!(lent.join().unwrap());
        ending.join().unwrap();
    });
}

#[test]
fn a_panic_on_an_errand_costs_the_engine_and_not_the_instance() {
    let script = Arc::default();
    let model = steady(&script, 1);
    let answer = model
        .submit(request(&[PANIC, 0.0]), Instant::now())
        .unwrap();
    let error = answer.now_or_never().unwrap().unwrap().unwrap_err();
    assert!(error.to_string().contains("panic"), "{error}");
    // Who makes the engine anew takes its time, and does so on the instance's thread.
    let before = script.instances.load(Ordering::SeqCst);
    *script.cost.lock() = VISIBLE;
    is_answered_later(&model);
    assert_eq!(script.instances.load(Ordering::SeqCst), before + 1);
}

#[test]
fn nobody_is_forgotten_between_callers_and_instances() {
    let script = Arc::default();
    for instances in [1, 2] {
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
