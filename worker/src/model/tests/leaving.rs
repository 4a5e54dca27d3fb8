//! Callers who leave, and those who are not let in.

use super::*;

/// Closes the gate when a batch of two rows is done.
struct ClosesAfterTwo(Arc<Script>);

impl BatchObserver for ClosesAfterTwo {
    fn batch_done(&self, report: BatchReport<'_>) {
        if report.rows == 2 && report.error.is_none() {
            self.0.close();
        }
    }
}

/// A call of one row.
fn submit(model: &Model, value: f32) -> Ticket {
    model
        .submit(request(&[value, value]), Instant::now())
        .unwrap()
}

#[test]
fn who_leaves_frees_the_place_at_once() {
    let script = Arc::default();
    let small = ModelConfig {
        max_queue_size: 1,
        ..config()
    };
    let model = start(&script, small);
    let busy = occupy(&script, &model);
    let gone = submit(&model, 1.0);
    assert_eq!(model.statistics().queued_requests, 1);
    drop(gone);
    let statistics = model.statistics();
    assert_eq!((statistics.queued_requests, statistics.queued_rows), (0, 0));
    assert_eq!((statistics.cancelled, statistics.fail.count), (1, 0));
    let stays = submit(&model, 2.0);
    script.open();
    echo(busy);
    assert_eq!(echo(stays), bytes_of(&[2.0, 2.0]));
}

#[test]
fn who_leaves_because_time_is_up_has_failed() {
    let script = Arc::default();
    let model = start(&script, ignorant());
    let busy = occupy(&script, &model);
    let Some(past) = Instant::now().checked_sub(Duration::from_secs(3600)) else {
        return;
    };
    let late = InferRequest {
        deadline: Some(past + Duration::from_secs(1)),
        ..request(&[1.0, 1.0])
    };
    drop(model.submit(late, past).unwrap());
    let statistics = model.statistics();
    assert_eq!((statistics.cancelled, statistics.fail.count), (0, 1));
    script.open();
    echo(busy);
}

#[test]
fn a_run_that_nobody_waits_for_ends() {
    let script: Arc<Script> = Arc::default();
    let model = start(&script, config());
    let busy = occupy(&script, &model);
    let pair = [submit(&model, 1.0), submit(&model, 2.0)];
    drop(busy);
    script.wait_for_standing(1);
    while *script.runs.lock() != [1, 2] {
        std::thread::yield_now();
    }
    let [first, second] = pair;
    drop(first);
    let next = submit(&model, 3.0);
    assert_eq!(
        model.statistics().queued_requests,
        1,
        "somebody still waits for the run"
    );
    drop(second);
    while *script.runs.lock() != [1, 2, 1] {
        std::thread::yield_now();
    }
    script.open();
    assert_eq!(echo(next), bytes_of(&[3.0, 3.0]));
    let statistics = model.statistics();
    assert_eq!((statistics.cancelled, statistics.terminated), (3, 2));
    assert_eq!((statistics.success.count, statistics.fail.count), (1, 0));
}

#[test]
fn a_deadline_that_cannot_be_met_is_refused_at_once() {
    let script: Arc<Script> = Arc::default();
    let model = start(&script, ignorant());
    let lane = &model.common.lane;
    let request = InferRequest {
        deadline: Instant::now().checked_add(Duration::from_secs(1)),
        ..request(&[1.0, 1.0])
    };
    let group = job::group(&model.signature, None, &request);
    for _ in 0..2 {
        let slow = Measured {
            weight: job::weight(&group, &request),
            rows: 1,
            took: Duration::from_secs(3600),
        };
        lane.done(0, slow, &[], Instant::now());
    }
    let refused = model.submit(request.clone(), Instant::now());
    let Err(InferError::CannotMeetDeadline { expected_wait, .. }) = refused else {
        panic!("it was let in");
    };
    assert!(expected_wait > Duration::from_secs(1));
    let statistics = model.statistics();
    assert_eq!((statistics.refused.deadline, statistics.fail.count), (1, 1));
    let patient = InferRequest {
        deadline: None,
        ..request
    };
    echo(model.submit(patient, Instant::now()).unwrap());
}

#[test]
fn what_was_learned_is_shown_for_every_weight() {
    let script: Arc<Script> = Arc::default();
    let learning = ModelConfig {
        learn_batch_size: true,
        ..config()
    };
    let model = start(&script, learning);
    let learned = model.learned();
    let class = learned.first().expect("warm-up taught one class");
    assert_eq!((class.row_bytes, learned.len()), (8, 1));
    assert!(class.best_size >= 1 && !class.curve.is_empty());
    let script: Arc<Script> = Arc::default();
    let cold = ModelConfig {
        warm_up: false,
        ..config()
    };
    let model = start(&script, cold);
    assert!(model.learned().is_empty());
}

#[test]
fn an_engine_that_stays_interrupted_is_made_anew() {
    let script: Arc<Script> = Arc::default();
    script.brittle.store(true, Ordering::SeqCst);
    let model = start(&script, config());
    drop(occupy(&script, &model));
    let next = submit(&model, 1.0);
    script.open();
    assert_eq!(echo(next), bytes_of(&[1.0, 1.0]));
    assert_eq!(script.instances.load(Ordering::SeqCst), 2);
    let statistics = model.statistics();
    assert_eq!((statistics.cancelled, statistics.terminated), (1, 1));
}

#[test]
fn what_is_run_again_after_a_failure_ends_too_when_nobody_waits_for_it() {
    let script: Arc<Script> = Arc::default();
    let observer = Arc::new(ClosesAfterTwo(Arc::clone(&script)));
    let cold = ModelConfig {
        warm_up: false,
        ..config()
    };
    let model = start_with(&script, cold, observer);
    let busy = occupy(&script, &model);
    let done = [submit(&model, 1.0), submit(&model, 2.0)];
    let left = [submit(&model, 3.0), submit(&model, FAIL)];
    script.open();
    echo(busy);
    for answer in done {
        echo(answer);
    }
    script.wait_for_standing(1);
    assert_eq!(*script.runs.lock(), [1, 4, 2, 2]);
    drop(left);
    let next = submit(&model, 4.0);
    while *script.runs.lock() != [1, 4, 2, 2, 1] {
        std::thread::yield_now();
    }
    script.open();
    assert_eq!(echo(next), bytes_of(&[4.0, 4.0]));
    let statistics = model.statistics();
    assert_eq!((statistics.cancelled, statistics.terminated), (2, 1));
}

#[test]
fn who_lets_go_last_does_not_wait_for_a_run() {
    let script = Arc::default();
    let model = start(&script, config());
    let (tell, hear) = std::sync::mpsc::channel();
    model.at_end(Box::new(move |threads| tell.send(threads).unwrap()));
    let busy = occupy(&script, &model);
    drop(model);
    let threads = hear.recv().unwrap();
    assert!(
        threads.iter().all(|thread| !thread.is_finished()),
        "they run"
    );
    script.open();
    echo(busy);
    farewell::join("fake", threads);
}
