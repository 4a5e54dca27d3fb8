//! The response cache as callers, statistics and traces see it.

use super::*;

async fn bed() -> Bed {
    Bed::with(ModelConfig {
        response_cache_bytes: 1 << 20,
        ..ModelConfig::default()
    })
    .await
}

async fn statistics(
    client: &mut GrpcInferenceServiceClient<Channel>,
) -> (wire::ModelStatistics, wire::InferStatistics) {
    let answer = client
        .model_statistics(wire::ModelStatisticsRequest {
            name: "fake".to_owned(),
            ..Default::default()
        })
        .await
        .unwrap();
    let mut model = answer.into_inner().model_stats.remove(0);
    let inference = model.inference_stats.take().unwrap();
    (model, inference)
}

fn count(duration: &Option<wire::StatisticDuration>) -> u64 {
    duration.as_ref().unwrap().count
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_runs_once_whatever_its_transport() {
    let bed = bed().await;
    let mut client = bed.client().await;
    let first = client.model_infer(request(&[1.0, 2.0])).await.unwrap();
    let again = wire::ModelInferRequest {
        id: "another".to_owned(),
        ..request(&[1.0, 2.0])
    };
    let second = client.model_infer(again).await.unwrap().into_inner();
    assert_eq!(
        second.raw_output_contents,
        first.into_inner().raw_output_contents
    );
    assert_eq!(second.id, "another");
    let json =
        r#"{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}"#;
    let rest = Client::builder(TokioExecutor::new()).build_http();
    let uri = format!("http://{}/v2/models/fake/infer", bed.http);
    let third = rest
        .request(
            Request::post(uri)
                .body(Full::new(Bytes::from_static(json.as_bytes())))
                .unwrap(),
        )
        .await
        .unwrap();
    assert_eq!(third.status(), 200);
    client.model_infer(request(&[2.0, 1.0])).await.unwrap();

    let (model, inference) = statistics(&mut client).await;
    assert_eq!((model.execution_count, model.inference_count), (2, 2));
    assert_eq!(count(&inference.success), 4);
    assert_eq!(
        (count(&inference.cache_hit), count(&inference.cache_miss)),
        (2, 2)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn identical_requests_in_flight_run_once_and_leavers_hurt_nobody() {
    let bed = bed().await;
    let mut client = bed.client().await;
    bed.script.close();
    let call = || {
        let mut client = client.clone();
        async move { client.model_infer(request(&[1.0, 2.0])).await }
    };
    let starter = tokio::spawn(call());
    bed.wait_for_standing(1).await;
    let followers = JoinSet::from_iter((0..8).map(|_| call()));
    let model = bed.front.model("fake", "").unwrap();
    let cache = || model.cache_statistics().unwrap();
    while cache().counts.waiting < 8 {
        tokio::task::yield_now().await;
    }
    assert_eq!(cache().runs, 1);
    starter.abort();
    bed.script.open();
    for answer in followers.join_all().await {
        assert_eq!(
            answer.unwrap().into_inner().raw_output_contents,
            request(&[1.0, 2.0]).raw_input_contents
        );
    }
    let (model, inference) = statistics(&mut client).await;
    assert_eq!(model.execution_count, 1);
    assert_eq!(
        count(&inference.success),
        9,
        "the starter's run counts for it"
    );
    assert_eq!(
        (count(&inference.cache_hit), count(&inference.cache_miss)),
        (8, 1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_tells_hit_from_miss() {
    let bed = bed().await;
    let mut client = bed.client().await;
    for _ in 0..2 {
        let mut traced = tonic::Request::new(request(&[1.0, 2.0]));
        traced.metadata_mut().insert(
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
                .parse()
                .unwrap(),
        );
        client.model_infer(traced).await.unwrap();
    }
    let spans = bed.spans.finished();
    let words: Vec<String> = spans
        .iter()
        .flat_map(|span| &span.attributes)
        .filter(|attribute| attribute.key.as_str() == "forebay.cache")
        .map(|attribute| attribute.value.to_string())
        .collect();
    assert_eq!(words, ["miss", "hit"]);
}
