//! Every answer of an inference says how far the request got.

use super::*;

fn stage_of(answer: &Result<tonic::Response<wire::ModelInferResponse>, Status>) -> String {
    let metadata = match answer {
        Ok(answer) => answer.metadata(),
        Err(status) => status.metadata(),
    };
    let stage = metadata.get("forebay-stage").unwrap();
    stage.to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_done_and_errors_say_whether_the_model_began() {
    let bed = Bed::start().await;
    let mut client = bed.client().await;
    let unknown = wire::ModelInferRequest {
        model_name: "no-such".to_owned(),
        ..request(&[1.0, 2.0])
    };
    let cases = [
        (request(&[1.0, 2.0]), Code::Ok, "done"),
        (unknown, Code::NotFound, "queued"),
        (request(&[1.0]), Code::InvalidArgument, "queued"),
        (request(&[BAD, 2.0]), Code::InvalidArgument, "executing"),
        (request(&[FAIL, 2.0]), Code::Internal, "executing"),
    ];
    for (request, code, stage) in cases {
        let answer = client.model_infer(request).await;
        let found = answer.as_ref().map_or_else(Status::code, |_| Code::Ok);
        assert_eq!((found, &stage_of(&answer)[..]), (code, stage));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_full_queue_refuses_was_never_begun() {
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
    let mut calls = JoinSet::from_iter([call(), call()]);
    let refused = calls.join_next().await.unwrap().unwrap();
    assert_eq!(
        refused.as_ref().unwrap_err().code(),
        Code::ResourceExhausted
    );
    assert_eq!(stage_of(&refused), "queued");
    bed.script.open();
    for answer in [
        running.await.unwrap(),
        calls.join_next().await.unwrap().unwrap(),
    ] {
        assert_eq!(stage_of(&answer), "done");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_passes_in_a_run_leaves_it_open_whether_it_was_begun() {
    let bed = Bed::start().await;
    bed.script.close();
    let mut client = bed.client().await;
    let mut late = tonic::Request::new(request(&[1.0, 2.0]));
    // The server's clock decides: the client itself would wait for a minute.
    late.get_mut().parameters.insert(
        "timeout".to_owned(),
        InferParameter {
            parameter_choice: Some(ParameterChoice::Int64Param(20_000)),
        },
    );
    let answer = client.model_infer(late).await;
    assert_eq!(answer.as_ref().unwrap_err().code(), Code::DeadlineExceeded);
    assert_eq!(stage_of(&answer), "executing");
    bed.script.open();
}
