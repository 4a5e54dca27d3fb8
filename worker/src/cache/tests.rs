//! The cache with runs that end when the test says so.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use forebay_proto::tensor::DataType;
use futures::channel::mpsc;
use futures::{StreamExt, poll};

use super::*;
use crate::inference::Tensor;

/// Runs that wait for their answers; each answer ends one run.
struct Runs {
    answers: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<Answer>>>,
    begun: Arc<AtomicUsize>,
    given_up: Arc<AtomicUsize>,
}

/// Counts a run that is dropped before it ended.
struct GivenUp(Option<Arc<AtomicUsize>>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        if let Some(count) = &self.0 {
            count.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Runs {
    fn new() -> (Runs, mpsc::UnboundedSender<Answer>) {
        let (send, answers) = mpsc::unbounded();
        let runs = Runs {
            answers: Arc::new(tokio::sync::Mutex::new(answers)),
            begun: Arc::default(),
            given_up: Arc::default(),
        };
        (runs, send)
    }

    fn run(&self) -> impl Fn(InferRequest) -> BoxFuture<'static, Answer> + '_ {
        |_| {
            let answers = Arc::clone(&self.answers);
            let begun = Arc::clone(&self.begun);
            let given_up = Arc::clone(&self.given_up);
            async move {
                let mut unless_ended = GivenUp(Some(given_up));
                begun.fetch_add(1, Ordering::SeqCst);
                let answer = answers.lock().await.next().await;
                unless_ended.0 = None;
                answer.unwrap()
            }
            .boxed()
        }
    }

    fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }
}

fn request(value: u8) -> InferRequest {
    InferRequest {
        inputs: vec![(0, tensor(vec![value]))],
        outputs: vec![0],
        rows: 1,
        deadline: None,
        priority: 0,
        trace: None,
    }
}

fn tensor(data: Vec<u8>) -> Tensor {
    Tensor {
        datatype: DataType::Uint8,
        shape: vec![1, data.len() as i64],
        data: Bytes::from(data),
    }
}

fn answer(value: u8) -> Answer {
    Ok(InferResponse {
        outputs: vec![tensor(vec![value])],
        timing: Timing::default(),
        origin: Origin::Run,
    })
}

fn cache(limit: u64) -> Arc<Cache> {
    Arc::new(Cache::new(limit))
}

fn now() -> Instant {
    Instant::now()
}

#[tokio::test]
async fn a_second_request_is_answered_without_a_run_or_a_copy() {
    let (runs, answers) = Runs::new();
    let cache = cache(10_000);
    answers.unbounded_send(answer(7)).unwrap();
    let first = cache.answer(request(1), now(), runs.run()).await.unwrap();
    assert_eq!(first.origin, Origin::Run);
    let mut hits = Vec::new();
    for _ in 0..2 {
        let hit = cache.answer(request(1), now(), runs.run()).await.unwrap();
        assert_eq!((hit.origin, &hit.outputs), (Origin::Kept, &first.outputs));
        hits.push(hit.outputs[0].data.as_ptr());
    }
    assert_eq!(hits[0], hits[1], "hits share what is kept");
    assert_eq!(runs.begun(), 1);
    let statistics = cache.statistics();
    let counts = statistics.counts;
    assert_eq!((counts.hit.count, counts.miss.count), (2, 1));
    assert_eq!((counts.joined, statistics.entries), (0, 1));
    assert!(statistics.bytes > 0 && statistics.runs == 0);
}

#[tokio::test]
async fn identical_requests_share_one_run_and_survive_its_starter() {
    let (runs, answers) = Runs::new();
    let cache = cache(10_000);
    let run = runs.run();
    let mut starter = Box::pin(cache.answer(request(1), now(), &run));
    assert!(poll!(&mut starter).is_pending());
    let mut followers: Vec<_> = (0..3)
        .map(|_| Box::pin(cache.answer(request(1), now(), &run)))
        .collect();
    for follower in &mut followers {
        assert!(poll!(follower).is_pending());
    }
    let mut other = pin!(cache.answer(request(2), now(), &run));
    assert!(poll!(&mut other).is_pending());
    assert_eq!(runs.begun(), 2, "another request is another run");
    drop(starter);
    drop(followers.pop());
    answers.unbounded_send(answer(7)).unwrap();
    for follower in followers {
        let joined = follower.await.unwrap();
        assert_eq!(
            (joined.origin, &joined.outputs[0].data[..]),
            (Origin::Joined, &[7][..])
        );
    }
    answers.unbounded_send(answer(8)).unwrap();
    assert_eq!(other.await.unwrap().outputs[0].data[..], [8]);
    let counts = cache.statistics().counts;
    assert_eq!((counts.hit.count, counts.joined), (2, 2));
    assert_eq!(counts.miss.count, 2);
    assert_eq!(
        counts.cancelled, 1,
        "the starter's run is the model's to count"
    );
    assert_eq!(runs.given_up.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_run_that_nobody_waits_for_is_given_up() {
    let (runs, answers) = Runs::new();
    let cache = cache(10_000);
    let run = runs.run();
    let mut starter = Box::pin(cache.answer(request(1), now(), &run));
    assert!(poll!(&mut starter).is_pending());
    let mut follower = Box::pin(cache.answer(request(1), now(), &run));
    assert!(poll!(&mut follower).is_pending());
    drop(starter);
    assert_eq!(cache.statistics().runs, 1);
    drop(follower);
    assert_eq!(runs.given_up.load(Ordering::SeqCst), 1);
    assert_eq!(cache.statistics().runs, 0);
    // The next one starts afresh.
    answers.unbounded_send(answer(7)).unwrap();
    let next = cache.answer(request(1), now(), &run).await.unwrap();
    assert_eq!((next.origin, runs.begun()), (Origin::Run, 2));
}

#[tokio::test]
async fn an_error_reaches_all_and_is_not_kept() {
    let (runs, answers) = Runs::new();
    let cache = cache(10_000);
    let run = runs.run();
    let mut starter = pin!(cache.answer(request(1), now(), &run));
    assert!(poll!(&mut starter).is_pending());
    let mut follower = pin!(cache.answer(request(1), now(), &run));
    assert!(poll!(&mut follower).is_pending());
    answers
        .unbounded_send(Err(InferError::InvalidInput("index 9".to_owned())))
        .unwrap();
    for failed in [starter.await, follower.await] {
        assert_eq!(failed.unwrap_err().to_string(), "index 9");
    }
    let statistics = cache.statistics();
    assert_eq!(statistics.counts.fail.count, 1);
    assert_eq!((statistics.entries, statistics.runs), (0, 0));
    answers.unbounded_send(answer(7)).unwrap();
    let next = cache.answer(request(1), now(), &run).await.unwrap();
    assert_eq!(next.origin, Origin::Run);
}

#[tokio::test]
async fn who_has_more_time_than_the_starter_gets_a_run_of_its_own() {
    let model = || "m".to_owned();
    who_has_more_time_gets_a_run(InferError::DeadlineInQueue(model())).await;
    who_has_more_time_gets_a_run(InferError::DeadlineWhileRunning(model())).await;
}

async fn who_has_more_time_gets_a_run(late: InferError) {
    let (runs, answers) = Runs::new();
    let cache = cache(10_000);
    let run = runs.run();
    let start = now();
    let within = |seconds| InferRequest {
        deadline: Some(start + Duration::from_secs(seconds)),
        ..request(1)
    };
    let mut starter = pin!(cache.answer(within(10), start, &run));
    assert!(poll!(&mut starter).is_pending());
    let mut hasty = pin!(cache.answer(within(9), start, &run));
    assert!(poll!(&mut hasty).is_pending());
    let mut patient = pin!(cache.answer(request(1), start, &run));
    assert!(poll!(&mut patient).is_pending());
    answers.unbounded_send(Err(late)).unwrap();
    assert!(starter.await.is_err() && hasty.await.is_err());
    assert!(poll!(&mut patient).is_pending());
    assert_eq!(runs.begun(), 2);
    answers.unbounded_send(answer(7)).unwrap();
    assert_eq!(patient.await.unwrap().origin, Origin::Run);
    let counts = cache.statistics().counts;
    assert_eq!(
        (counts.miss.count, counts.fail.count, counts.cancelled),
        (2, 1, 0)
    );
}

#[tokio::test]
async fn an_answer_larger_than_the_cache_is_given_but_not_kept() {
    let (runs, answers) = Runs::new();
    let cache = cache(100);
    for begun in 1..3 {
        answers.unbounded_send(answer(7)).unwrap();
        let given = cache.answer(request(1), now(), runs.run()).await.unwrap();
        assert_eq!((given.origin, runs.begun()), (Origin::Run, begun));
    }
    assert_eq!(cache.statistics().entries, 0);
}

#[tokio::test]
async fn long_inputs_are_digested_aside_and_found_again() {
    let (runs, answers) = Runs::new();
    let cache = cache(10_000);
    let long = InferRequest {
        inputs: vec![(0, tensor(vec![1; WORTH_A_THREAD]))],
        ..request(1)
    };
    answers.unbounded_send(answer(7)).unwrap();
    cache.answer(long.clone(), now(), runs.run()).await.unwrap();
    let hit = cache.answer(long, now(), runs.run()).await.unwrap();
    assert_eq!(hit.origin, Origin::Kept);
}

#[test]
fn no_deadline_outlasts_any() {
    let early = Instant::now();
    let late = early + Duration::from_secs(1);
    let cases = [
        (None, None, false),
        (None, Some(early), true),
        (Some(late), None, false),
        (Some(late), Some(early), true),
        (Some(early), Some(early), false),
        (Some(early), Some(late), false),
    ];
    for (deadline, other, want) in cases {
        assert_eq!(outlasts(deadline, other), want);
    }
}
