//! Requests larger than a batch.

use super::*;

fn values(rows: usize, from: usize) -> Vec<f32> {
    (0..rows * 2).map(|value| (value + from) as f32).collect()
}

fn small(rows: u32) -> ModelConfig {
    ModelConfig {
        max_batch_size: rows,
        ..config()
    }
}

fn fails(ticket: Ticket) -> InferError {
    ticket.blocking_recv().unwrap().unwrap_err()
}

#[test]
fn a_large_request_shares_batches_and_is_answered_as_one() {
    let script: Arc<Script> = Arc::default();
    let model = start(&script, small(4));
    let busy = occupy(&script, &model);
    let submit = |values: &[f32]| model.submit(request(values), Instant::now()).unwrap();
    let first = submit(&[9.0, 9.0]);
    let large = submit(&values(10, 1));
    let last = submit(&[8.0, 8.0]);
    let statistics = model.statistics();
    assert_eq!(
        (statistics.queued_requests, statistics.queued_rows),
        (3, 12)
    );
    script.open();
    echo(busy);
    let response = large.blocking_recv().unwrap().unwrap();
    assert_eq!(response.outputs[0].shape, [10, 2]);
    assert_eq!(response.outputs[0].data, bytes_of(&values(10, 1)));
    assert_eq!(response.timing.batch_rows, 4);
    assert_eq!(echo(first), bytes_of(&[9.0, 9.0]));
    assert_eq!(echo(last), bytes_of(&[8.0, 8.0]));
    assert_eq!(*script.runs.lock(), [1, 4, 4, 4]);
    let statistics = model.statistics();
    assert_eq!((statistics.success.count, statistics.split), (4, 1));
    assert_eq!(
        (statistics.inference_count, statistics.execution_count),
        (13, 4)
    );
}

#[test]
fn instances_share_a_large_request() {
    let script: Arc<Script> = Arc::default();
    let two = ModelConfig {
        instances: 2,
        ..small(4)
    };
    let model = start(&script, two);
    script.close();
    let large = model
        .submit(request(&values(8, 1)), Instant::now())
        .unwrap();
    script.wait_for_standing(2);
    script.open();
    assert_eq!(echo(large), bytes_of(&values(8, 1)));
    assert_eq!(*script.runs.lock(), [4, 4]);
}

#[test]
fn one_part_that_fails_fails_the_request_and_spares_the_rest() {
    let script: Arc<Script> = Arc::default();
    let model = start(&script, small(2));
    let busy = occupy(&script, &model);
    let mut wrong = values(8, 1);
    wrong[5] = BAD;
    let wrong = model.submit(request(&wrong), Instant::now()).unwrap();
    script.open();
    echo(busy);
    assert!(matches!(fails(wrong), InferError::InvalidInput(message) if message == "bad value"));
    let next = model.submit(request(&[1.0, 1.0]), Instant::now()).unwrap();
    echo(next);
    assert_eq!(*script.runs.lock(), [1, 2, 2, 1], "two parts were not run");
    let statistics = model.statistics();
    assert_eq!((statistics.success.count, statistics.fail.count), (2, 1));
    assert_eq!((statistics.cancelled, statistics.queued_requests), (0, 0));
}

#[test]
fn who_leaves_takes_all_parts_along() {
    let script: Arc<Script> = Arc::default();
    let model = start(&script, small(2));
    script.close();
    let large = model
        .submit(request(&values(8, 1)), Instant::now())
        .unwrap();
    script.wait_for_standing(1);
    assert_eq!(model.statistics().queued_rows, 6);
    drop(large);
    assert_eq!(model.statistics().queued_rows, 0);
    let next = model.submit(request(&[1.0, 1.0]), Instant::now()).unwrap();
    script.open();
    echo(next);
    assert_eq!(*script.runs.lock(), [2, 1]);
    let statistics = model.statistics();
    assert_eq!((statistics.cancelled, statistics.terminated), (1, 1));
    assert_eq!((statistics.success.count, statistics.fail.count), (1, 0));
}

#[test]
fn answers_that_do_not_fit_together_are_computed_again_uncut() {
    let script: Arc<Script> = Arc::default();
    let model = start(&script, small(2));
    script.crooked.store(true, Ordering::SeqCst);
    let large = model
        .submit(request(&values(4, 1)), Instant::now())
        .unwrap();
    let response = large.blocking_recv().unwrap().unwrap();
    assert_eq!(
        response.outputs[0].shape,
        [5, 2],
        "as the model gives it for the whole request"
    );
    assert_eq!(*script.runs.lock(), [2, 2, 4]);
    assert_eq!(model.statistics().success.count, 1);
}

#[test]
fn without_batching_a_request_of_any_size_goes_whole() {
    let script: Arc<Script> = Arc::default();
    let model = start(&script, small(1));
    let large = model
        .submit(request(&values(50, 1)), Instant::now())
        .unwrap();
    assert_eq!(echo(large), bytes_of(&values(50, 1)));
    assert_eq!(*script.runs.lock(), [50]);
}

#[test]
fn who_runs_out_of_time_after_the_first_part_is_told_so() {
    let script: Arc<Script> = Arc::default();
    let cold = ModelConfig {
        warm_up: false,
        ..small(2)
    };
    let model = start(&script, cold);
    script.close();
    let deadline = Instant::now() + Duration::from_millis(500);
    let large = InferRequest {
        deadline: Some(deadline),
        ..request(&values(4, 1))
    };
    let large = model.submit(large, Instant::now()).unwrap();
    script.wait_for_standing(1);
    while Instant::now() < deadline {
        std::thread::yield_now();
    }
    script.open();
    assert!(matches!(fails(large), InferError::DeadlineWhileRunning(model) if model == "fake"));
    assert_eq!(*script.runs.lock(), [2]);
    let statistics = model.statistics();
    assert_eq!((statistics.fail.count, statistics.cancelled), (1, 0));
}

#[test]
fn parts_that_give_more_than_an_answer_may_have_end_the_request() {
    let script: Arc<Script> = Arc::default();
    let spec = ModelSpec {
        max_answer_bytes: 4 * 8,
        ..spec(small(2))
    };
    let model = start_as(&script, spec);
    let submit = |rows| {
        let request = request(&values(rows, 1));
        model.submit(request, Instant::now()).unwrap()
    };
    echo(submit(4));
    let error = fails(submit(12));
    assert!(
        matches!(
            error,
            InferError::AnswerTooLarge {
                bytes: 48,
                limit: 32,
                ..
            }
        ),
        "{error}"
    );
    echo(submit(1));
    assert_eq!(
        *script.runs.lock(),
        [2, 2, 2, 2, 2, 1],
        "three parts were not run"
    );
    let statistics = model.statistics();
    assert_eq!((statistics.success.count, statistics.fail.count), (2, 1));
    assert_eq!((statistics.cancelled, statistics.queued_requests), (0, 0));
}
