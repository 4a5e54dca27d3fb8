//! Deadlines, full queues, and callers who leave.

use super::*;

#[test]
fn the_earliest_named_deadline_wins_and_the_default_only_fills_in() {
    let at = Instant::now();
    let second = Duration::from_secs(1);
    let arrival = |timeout| Arrival { at, timeout };
    let cases = [
        (None, None, None, None),
        (None, None, Some(second), Some(second)),
        (Some(3 * second), None, Some(second), Some(3 * second)),
        (Some(3 * second), Some(2_000_000), None, Some(2 * second)),
        (Some(second), Some(2_000_000), None, Some(second)),
        (None, Some(5_000_000), Some(second), Some(5 * second)),
    ];
    for (transport, parameter, default, want) in cases {
        let found = deadline(&arrival(transport), parameter, default);
        assert_eq!(found, want.map(|want| at + want));
    }
    assert_eq!(deadline(&arrival(Some(Duration::MAX)), None, None), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_the_wait_even_while_the_model_runs() {
    let bed = Bed::start().await;
    bed.script.close();
    let short = [("grpc-timeout", "30m")];
    let (code, _) = bed
        .raw(
            MODEL_INFER,
            &short,
            framed(&request(&[1.0, 2.0]).encode_to_vec()),
        )
        .await;
    assert_eq!(code, Code::DeadlineExceeded);
    let gone = [("grpc-timeout", "0n")];
    let (code, _) = bed
        .raw(
            MODEL_INFER,
            &gone,
            framed(&request(&[1.0, 2.0]).encode_to_vec()),
        )
        .await;
    assert_eq!(code, Code::DeadlineExceeded);
    let mut timed = request(&[1.0, 2.0]);
    let microseconds = InferParameter {
        parameter_choice: Some(ParameterChoice::Int64Param(20_000)),
    };
    timed.parameters.insert("timeout".to_owned(), microseconds);
    let (code, _) = bed
        .raw(MODEL_INFER, &[], framed(&timed.encode_to_vec()))
        .await;
    assert_eq!(code, Code::DeadlineExceeded);
    bed.script.open();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_says_when_to_come_back() {
    let bed = Bed::with(ModelConfig {
        max_queue_size: 1,
        ..ModelConfig::default()
    })
    .await;
    let client = bed.client().await;
    let call = || {
        let mut client = client.clone();
        async move { client.model_infer(request(&[1.0, 2.0])).await }
    };
    bed.script.close();
    let running = tokio::spawn(call());
    bed.wait_for_standing(1).await;
    // One of the three waits in the queue; the two others are refused before anything runs.
    let mut calls = JoinSet::from_iter([call(), call(), call()]);
    for _ in 0..2 {
        let status = calls.join_next().await.unwrap().unwrap().unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        let pushback = status
            .metadata()
            .get("grpc-retry-pushback-ms")
            .unwrap()
            .to_str()
            .unwrap();
        assert!(pushback.parse::<u64>().unwrap() > 0);
    }
    bed.script.open();
    assert!(calls.join_next().await.unwrap().unwrap().is_ok());
    assert!(running.await.unwrap().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_leaves_is_not_run() {
    let bed = Bed::with(ModelConfig {
        max_queue_size: 1,
        ..ModelConfig::default()
    })
    .await;
    let client = bed.client().await;
    bed.script.close();
    let mut first = client.clone();
    let running = tokio::spawn(async move { first.model_infer(request(&[1.0, 2.0])).await });
    bed.wait_for_standing(1).await;
    let model = bed.front.model("fake", "").unwrap();
    let runs = bed.script.runs.lock().len();

    let mut leaver = client.clone();
    let leaving = tokio::spawn(async move { leaver.model_infer(request(&[7.0, 7.0])).await });
    while model.statistics().queued_requests == 0 {
        tokio::task::yield_now().await;
    }
    leaving.abort();
    // The queue has room for one: somebody else gets in once it is known that the first one left.
    let mut next = client;
    let next = tokio::spawn(async move {
        loop {
            match next.model_infer(request(&[1.0, 2.0])).await {
                Err(status) if status.code() == Code::ResourceExhausted => {}
                answer => return answer,
            }
        }
    });
    while model.statistics().cancelled == 0 {
        tokio::task::yield_now().await;
    }
    bed.script.open();
    assert!(running.await.unwrap().is_ok() && next.await.unwrap().is_ok());
    let rows: usize = bed.script.runs.lock()[runs..].iter().sum();
    assert_eq!(rows, 1, "the caller who left was run");
}
