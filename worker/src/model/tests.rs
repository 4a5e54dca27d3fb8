use std::sync::atomic::Ordering;

use bytes::Bytes;
use forebay_config::worker::Provider;
use forebay_proto::tensor::DataType;

use super::*;
use crate::batch::lane::Measured;
use crate::batch::report::{BatchReport, NoObserver};
use crate::engine::fake::{BAD, FAIL, PANIC, Script, signature};
use crate::inference::Tensor;

fn config() -> ModelConfig {
    ModelConfig {
        max_batch_size: 8,
        max_queue_size: 100,
        provider: Provider::Cpu,
        learn_batch_size: false,
        ..ModelConfig::default()
    }
}

/// Knows no durations, so that nobody is refused for his deadline.
fn ignorant() -> ModelConfig {
    ModelConfig {
        warm_up: false,
        ..config()
    }
}

fn start_with(
    script: &Arc<Script>,
    config: ModelConfig,
    observer: Arc<dyn BatchObserver>,
) -> Model {
    let spec = ModelSpec {
        observer,
        ..spec(config)
    };
    start_as(script, spec)
}

fn spec(config: ModelConfig) -> ModelSpec {
    ModelSpec {
        name: "fake".to_owned(),
        version: 3,
        config,
        labels: Labels::default(),
        said: None,
        seats: Vec::new(),
        max_answer_bytes: usize::MAX,
        observer: Arc::new(NoObserver),
    }
}

fn start_as(script: &Arc<Script>, spec: ModelSpec) -> Model {
    let factory = script.factory();
    let loaded = LoadedModel {
        signature: signature(),
        provider: "cpu",
        provider_note: None,
        nodes: Vec::new(),
        predictable: true,
        memory_bytes: Arc::new(|| 0),
        shares_session: false,
        first: factory(0).unwrap(),
        factory,
    };
    let model = Model::start(loaded, spec).unwrap();
    script.runs.lock().clear();
    model
}

fn start(script: &Arc<Script>, config: ModelConfig) -> Model {
    start_with(script, config, Arc::new(NoObserver))
}

fn request(values: &[f32]) -> InferRequest {
    let rows = values.len() / 2;
    InferRequest {
        inputs: vec![(
            0,
            Tensor {
                datatype: DataType::Fp32,
                shape: vec![rows as i64, 2],
                data: bytes_of(values),
            },
        )],
        outputs: vec![0],
        rows,
        deadline: None,
        priority: 0,
        trace: None,
    }
}

fn bytes_of(values: &[f32]) -> Bytes {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect::<Vec<u8>>()
        .into()
}

/// Keeps the only instance busy until the gate opens, so that what is submitted meanwhile gathers.
fn occupy(script: &Arc<Script>, model: &Model) -> Ticket {
    script.close();
    let answer = model.submit(request(&[0.0, 0.0]), Instant::now()).unwrap();
    script.wait_for_standing(1);
    answer
}

fn echo(answer: Ticket) -> Bytes {
    let response = answer.blocking_recv().unwrap().unwrap();
    response.outputs[0].data.clone()
}

#[test]
fn what_waits_goes_together_and_everybody_gets_their_rows() {
    let script = Arc::default();
    let model = start(&script, config());
    let busy = occupy(&script, &model);
    let inputs = [vec![1.0, 2.0], vec![3.0, 4.0, 5.0, 6.0], vec![7.0, 8.0]];
    let answers: Vec<_> = inputs
        .iter()
        .map(|input| model.submit(request(input), Instant::now()).unwrap())
        .collect();
    assert_eq!(model.statistics().queued_rows, 4);
    script.open();
    echo(busy);
    for (answer, input) in answers.into_iter().zip(&inputs) {
        let response = answer.blocking_recv().unwrap().unwrap();
        assert_eq!(response.outputs[0].shape, [input.len() as i64 / 2, 2]);
        assert_eq!(response.outputs[0].data, bytes_of(input));
        assert_eq!(response.timing.batch_rows, 4);
    }
    assert_eq!(*script.runs.lock(), [1, 4]);
    let statistics = model.statistics();
    assert_eq!((statistics.success.count, statistics.fail.count), (4, 0));
    assert_eq!(
        (statistics.inference_count, statistics.execution_count),
        (5, 2)
    );
    assert_eq!(
        statistics.batch_sizes.keys().copied().collect::<Vec<_>>(),
        [1, 4]
    );
    assert!(statistics.last_inference_ms > 0);
    assert_eq!(statistics.queued_requests, 0);
}

#[test]
fn no_batch_is_larger_than_the_maximum() {
    let script = Arc::default();
    let limited = ModelConfig {
        max_batch_size: 2,
        ..config()
    };
    let model = start(&script, limited);
    let busy = occupy(&script, &model);
    let answers: Vec<_> = (0..5)
        .map(|_| model.submit(request(&[1.0, 1.0]), Instant::now()).unwrap())
        .collect();
    let large = model.submit(request(&[2.0; 12]), Instant::now()).unwrap();
    script.open();
    echo(busy);
    answers
        .into_iter()
        .for_each(|answer| assert_eq!(echo(answer), bytes_of(&[1.0, 1.0])));
    assert_eq!(echo(large), bytes_of(&[2.0; 12]));
    assert_eq!(*script.runs.lock(), [1, 2, 2, 2, 2, 2, 1]);
}

#[test]
fn a_bad_request_fails_alone() {
    let script = Arc::default();
    let model = start(&script, config());
    let busy = occupy(&script, &model);
    let bad = [2, 5];
    let value = |number: usize| {
        if bad.contains(&number) {
            BAD
        } else {
            number as f32
        }
    };
    let submit = |number| {
        model
            .submit(request(&[value(number), 0.0]), Instant::now())
            .unwrap()
    };
    let answers: Vec<_> = (0..7).map(submit).collect();
    script.open();
    echo(busy);
    for (number, answer) in answers.into_iter().enumerate() {
        match answer.blocking_recv().unwrap() {
            Ok(response) => assert_eq!(response.outputs[0].data, bytes_of(&[value(number), 0.0])),
            Err(InferError::InvalidInput(message)) => {
                assert!(bad.contains(&number), "request {number} was sound");
                assert_eq!(message, "bad value");
            }
            Err(other) => panic!("unexpected error {other}"),
        }
    }
    let statistics = model.statistics();
    assert_eq!((statistics.success.count, statistics.fail.count), (6, 2));
}

#[test]
fn a_failing_engine_is_not_the_callers_fault() {
    let script = Arc::default();
    let model = start(&script, config());
    let answer = model.submit(request(&[FAIL, 0.0]), Instant::now()).unwrap();
    let error = answer.blocking_recv().unwrap().unwrap_err();
    assert!(
        matches!(&error, InferError::Engine { message, .. } if message == "out of order"),
        "{error}"
    );
}

#[test]
fn a_panic_costs_the_engine_but_not_the_instance() {
    let script: Arc<Script> = Arc::default();
    let model = start(&script, config());
    let made = script.instances.load(Ordering::SeqCst);
    let answer = model
        .submit(request(&[PANIC, 0.0]), Instant::now())
        .unwrap();
    let error = answer.blocking_recv().unwrap().unwrap_err();
    assert!(
        matches!(&error, InferError::Engine { message, .. } if message.contains("told to")),
        "{error}"
    );

    script.barren.store(true, Ordering::SeqCst);
    let answer = model.submit(request(&[1.0, 1.0]), Instant::now()).unwrap();
    let error = answer.blocking_recv().unwrap().unwrap_err();
    assert!(error.to_string().contains("no more of these"), "{error}");

    script.barren.store(false, Ordering::SeqCst);
    let answer = model.submit(request(&[1.0, 1.0]), Instant::now()).unwrap();
    assert_eq!(echo(answer), bytes_of(&[1.0, 1.0]));
    assert_eq!(script.instances.load(Ordering::SeqCst), made + 1);
}

#[test]
fn a_dropped_call_leaves_the_queue() {
    let script = Arc::default();
    let model = start(&script, config());
    let busy = occupy(&script, &model);
    let gone = model.submit(request(&[1.0, 1.0]), Instant::now()).unwrap();
    let stays = model.submit(request(&[2.0, 2.0]), Instant::now()).unwrap();
    drop(gone);
    script.open();
    echo(busy);
    assert_eq!(echo(stays), bytes_of(&[2.0, 2.0]));
    assert_eq!(*script.runs.lock(), [1, 1]);
    assert_eq!(model.statistics().cancelled, 1);
}

#[test]
fn a_call_dropped_while_it_runs_harms_nobody() {
    let script = Arc::default();
    let model = start(&script, config());
    drop(occupy(&script, &model));
    let next = model.submit(request(&[2.0, 2.0]), Instant::now()).unwrap();
    script.open();
    assert_eq!(echo(next), bytes_of(&[2.0, 2.0]));
}

#[test]
fn expired_requests_are_told_so() {
    let script = Arc::default();
    let model = start(&script, ignorant());
    let over = InferRequest {
        deadline: Some(Instant::now()),
        ..request(&[1.0, 1.0])
    };
    let refused = model.submit(over, Instant::now() + Duration::from_millis(1));
    assert!(matches!(refused, Err(InferError::DeadlineInQueue(model)) if model == "fake"));

    let busy = occupy(&script, &model);
    // Submitted as if an hour ago with a deadline a second later: over by the time the instance looks.
    let Some(past) = Instant::now().checked_sub(Duration::from_secs(3600)) else {
        return;
    };
    let late = InferRequest {
        deadline: Some(past + Duration::from_secs(1)),
        ..request(&[1.0, 1.0])
    };
    let late = model.submit(late, past).unwrap();
    script.open();
    echo(busy);
    assert!(matches!(
        late.blocking_recv().unwrap(),
        Err(InferError::DeadlineInQueue(_))
    ));
    assert_eq!(*script.runs.lock(), [1]);
    assert_eq!(model.statistics().fail.count, 2);
}

#[test]
fn a_full_queue_refuses_at_once() {
    let script = Arc::default();
    let small = ModelConfig {
        max_queue_size: 2,
        ..config()
    };
    let model = start(&script, small);
    let busy = occupy(&script, &model);
    let waiting = [1.0, 2.0].map(|value| {
        model
            .submit(request(&[value, value]), Instant::now())
            .unwrap()
    });
    let refused = model.submit(request(&[3.0, 3.0]), Instant::now());
    assert!(matches!(
        refused,
        Err(InferError::QueueFull { limit: 2, .. })
    ));
    script.open();
    echo(busy);
    waiting.into_iter().for_each(|answer| {
        echo(answer);
    });
}

#[test]
fn content_that_no_engine_takes_never_reaches_a_batch() {
    let script = Arc::default();
    let model = start(&script, config());
    let mut crooked = request(&[1.0, 1.0]);
    crooked.inputs[0].1.shape = vec![1, -2];
    assert!(matches!(
        model.submit(crooked, Instant::now()),
        Err(InferError::InvalidInput(_))
    ));
    assert!(script.runs.lock().is_empty());
    assert_eq!(model.statistics().fail.count, 1);
}

#[test]
fn shutdown_answers_what_waits_and_refuses_the_rest() {
    let script: Arc<Script> = Arc::default();
    let model = Arc::new(start(&script, config()));
    let busy = occupy(&script, &model);
    let waiting = model.submit(request(&[1.0, 1.0]), Instant::now()).unwrap();
    model.common.lane.drain();
    let refused = model.submit(request(&[2.0, 2.0]), Instant::now());
    assert!(matches!(refused, Err(InferError::Unavailable(_))));
    script.open();
    model.shutdown();
    echo(busy);
    assert_eq!(echo(waiting), bytes_of(&[1.0, 1.0]));
}

#[test]
fn rows_that_do_not_come_back_as_rows_switch_batching_off() {
    let script: Arc<Script> = Arc::default();
    let model = start(&script, config());
    let busy = occupy(&script, &model);
    script.crooked.store(true, Ordering::SeqCst);
    let answers: Vec<_> = (0..3)
        .map(|_| model.submit(request(&[1.0, 2.0]), Instant::now()).unwrap())
        .collect();
    script.open();
    drop(busy);
    for answer in answers {
        assert_eq!(
            echo(answer),
            bytes_of(&[1.0, 2.0, 1.0, 2.0]),
            "alone, the output is passed on as it is"
        );
    }
    assert_eq!(*script.runs.lock(), [1, 3, 1, 1, 1]);
    assert_eq!(model.statistics().best_size, 1);
}

#[test]
fn instances_work_side_by_side() {
    let script: Arc<Script> = Arc::default();
    let two = ModelConfig {
        instances: 2,
        ..config()
    };
    let model = start(&script, two);
    script.close();
    let answers: Vec<_> = (0..2)
        .map(|number| {
            let answer = model.submit(request(&[1.0, 1.0]), Instant::now()).unwrap();
            script.wait_for_standing(number + 1);
            answer
        })
        .collect();
    script.open();
    answers.into_iter().for_each(|answer| {
        echo(answer);
    });
    assert_eq!(*script.runs.lock(), [1, 1]);
}

/// Rows, requests, error, traced.
type Note = (usize, usize, Option<String>, bool);

#[derive(Default)]
struct Notes(Mutex<Vec<Note>>);

impl BatchObserver for Notes {
    fn batch_done(&self, report: BatchReport<'_>) {
        assert_eq!(
            (report.model, report.version, report.instance),
            ("fake", 3, 0)
        );
        assert!(report.gather.end <= report.run.start && report.run.end <= report.scatter.start);
        assert!(
            report
                .requests
                .iter()
                .all(|request| request.enqueued <= request.started)
        );
        let error = report.error.map(str::to_owned);
        self.0
            .lock()
            .push((report.rows, report.requests.len(), error, report.any_traced));
    }
}

#[test]
fn every_run_is_reported() {
    let script = Arc::default();
    let notes: Arc<Notes> = Arc::default();
    let model = start_with(
        &script,
        config(),
        Arc::clone(&notes) as Arc<dyn BatchObserver>,
    );
    let busy = occupy(&script, &model);
    let traced = InferRequest {
        trace: Some(opentelemetry::trace::SpanContext::empty_context()),
        ..request(&[1.0, 1.0, 1.0, 1.0])
    };
    let bad = model.submit(request(&[BAD, 1.0]), Instant::now()).unwrap();
    let good = model.submit(traced, Instant::now()).unwrap();
    script.open();
    echo(busy);
    assert!(bad.blocking_recv().unwrap().is_err());
    echo(good);
    model.shutdown();
    let error = Some("bad value".to_owned());
    let expected = [
        (1, 1, None, false),
        (3, 2, error.clone(), true),
        (1, 1, error, false),
        (2, 1, None, true),
    ];
    assert_eq!(*notes.0.lock(), expected);
}

mod bounded;
mod errands;
mod hot_path;
mod leaving;
mod order;
mod padded;
mod parts;
mod real;
