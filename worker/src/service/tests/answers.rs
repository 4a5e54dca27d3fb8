//! What a well-behaved client gets: tensors, documents, spans.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_inference_answers_raw_and_echoes_the_id() {
    let bed = Bed::start().await;
    let mut client = bed.client().await;
    let sent = wire::ModelInferRequest {
        id: "abc-1".to_owned(),
        ..request(&[1.0, 2.0, 3.0, 4.0])
    };
    let answer = client.model_infer(sent.clone()).await.unwrap().into_inner();
    assert_eq!(
        (
            &answer.model_name[..],
            &answer.model_version[..],
            &answer.id[..]
        ),
        ("fake", "1", "abc-1")
    );
    assert_eq!(
        (&answer.outputs[0].name[..], &answer.outputs[0].shape[..]),
        ("y", &[2, 2][..])
    );
    assert_eq!(answer.raw_output_contents, sent.raw_input_contents);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_may_have_more_rows_than_a_batch() {
    let bed = Bed::with(ModelConfig {
        max_batch_size: 4,
        learn_batch_size: false,
        ..ModelConfig::default()
    })
    .await;
    let mut client = bed.client().await;
    let values: Vec<f32> = (0..46).map(|value| value as f32).collect();
    let mut sent = request(&values);
    let priority = InferParameter {
        parameter_choice: Some(ParameterChoice::Uint64Param(7)),
    };
    sent.parameters.insert("priority".to_owned(), priority);
    let answer = client.model_infer(sent.clone()).await.unwrap().into_inner();
    assert_eq!(answer.outputs[0].shape, [23, 2]);
    assert_eq!(answer.raw_output_contents, sent.raw_input_contents);
    let all = wire::ModelStatisticsRequest::default();
    let statistics = client.model_statistics(all).await.unwrap().into_inner();
    let fake = &statistics.model_stats[0];
    assert_eq!((fake.inference_count, fake.execution_count), (23, 6));
    let success = fake.inference_stats.as_ref().unwrap().success.as_ref();
    assert_eq!(success.unwrap().count, 1);

    let too_many = client.model_infer(request(&vec![0.0; 2 * (4 * 1024 + 1)]));
    let status = too_many.await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(
        status.message(),
        "inference request batch-size must be <= 4096 for 'fake'"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documents_describe_server_and_model() {
    let bed = Bed::start().await;
    let mut client = bed.client().await;
    assert!(
        client
            .server_live(wire::ServerLiveRequest {})
            .await
            .unwrap()
            .into_inner()
            .live
    );
    assert!(
        client
            .server_ready(wire::ServerReadyRequest {})
            .await
            .unwrap()
            .into_inner()
            .ready
    );
    let server = client
        .server_metadata(wire::ServerMetadataRequest {})
        .await
        .unwrap()
        .into_inner();
    for extension in [
        "statistics",
        "model_configuration",
        "binary_tensor_data",
        "execution_provider(cpu)",
        "execution_provider_fallback(fake: cuda is not available)",
    ] {
        assert!(
            server.extensions.iter().any(|found| found == extension),
            "{extension}"
        );
    }

    let named = |name: &str| wire::ModelMetadataRequest {
        name: name.to_owned(),
        version: String::new(),
    };
    let metadata = client
        .model_metadata(named("fake"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (&metadata.versions[..], &metadata.inputs[0].shape[..]),
        (&["1".to_owned()][..], &[-1, 2][..])
    );
    let unknown = client.model_metadata(named("no-such")).await.unwrap_err();
    assert_eq!(
        (unknown.code(), unknown.message()),
        (
            Code::NotFound,
            "Request for unknown model: 'no-such' is not found"
        )
    );

    let config = wire::ModelConfigRequest {
        name: "fake".to_owned(),
        version: "1".to_owned(),
    };
    let config = client
        .model_config(config)
        .await
        .unwrap()
        .into_inner()
        .config
        .unwrap();
    assert_eq!(
        (config.max_batch_size, &config.input[0].dims[..]),
        (32, &[2][..])
    );
    assert_eq!(
        (&config.platform[..], &config.backend[..]),
        ("onnxruntime_onnx", "onnxruntime")
    );
    let wrong = wire::ModelConfigRequest {
        name: "fake".to_owned(),
        version: "999".to_owned(),
    };
    let wrong = client.model_config(wrong).await.unwrap_err();
    assert_eq!(
        wrong.message(),
        "Request for unknown model: 'fake' version 999 is not found"
    );

    client
        .model_infer(request(&[1.0, 2.0, 3.0, 4.0]))
        .await
        .unwrap();
    let statistics = client
        .model_statistics(wire::ModelStatisticsRequest::default())
        .await
        .unwrap()
        .into_inner();
    let statistics = &statistics.model_stats[0];
    assert_eq!(
        (statistics.inference_count, statistics.execution_count),
        (2, 1)
    );
    assert_eq!(
        statistics.inference_stats.unwrap().success.unwrap().count,
        1
    );

    let batching = statistics.batching.as_ref().unwrap();
    assert_eq!(batching.submitted, 1);
    assert_eq!(batching.learned[0].points[0].rows, 1);

    let index = client
        .repository_index(wire::RepositoryIndexRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (
            &index.models[0].name[..],
            &index.models[0].version[..],
            &index.models[0].state[..]
        ),
        ("fake", "1", "READY")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_with_batching_off_takes_any_number_of_rows() {
    let bed = Bed::with(ModelConfig {
        max_batch_size: 1,
        ..ModelConfig::default()
    })
    .await;
    let mut client = bed.client().await;
    let config = wire::ModelConfigRequest {
        name: "fake".to_owned(),
        version: String::new(),
    };
    let config = client
        .model_config(config)
        .await
        .unwrap()
        .into_inner()
        .config
        .unwrap();
    assert_eq!(
        (config.max_batch_size, &config.input[0].dims[..]),
        (0, &[-1, 2][..])
    );
    let answer = client
        .model_infer(request(&[1.0; 6]))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.outputs[0].shape, [3, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_traced_call_leaves_its_whole_tree_of_spans() {
    let bed = Bed::start().await;
    let body = framed(&request(&[1.0, 2.0]).encode_to_vec());
    let parent = [(
        "traceparent",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )];
    assert_eq!(bed.raw(MODEL_INFER, &[], body.clone()).await.0, Code::Ok);
    assert_eq!(bed.raw(MODEL_INFER, &parent, body).await.0, Code::Ok);
    // The instance tells of the batch after it has answered; shutting it down waits for that.
    let registry = bed.front.registry.clone();
    tokio::task::spawn_blocking(move || registry.shutdown())
        .await
        .unwrap();

    let spans = bed.spans.finished();
    let find = |name: &str| {
        let mut found = spans.iter().filter(|span| span.name == name);
        let span = found.next().unwrap_or_else(|| panic!("no span '{name}'"));
        assert!(found.next().is_none(), "more than one span '{name}'");
        span
    };
    let server = find("inference.GRPCInferenceService/ModelInfer");
    assert_eq!(server.parent_span_id.to_string(), "b7ad6b7169203331");
    let batch = find("batch");
    let parents = [
        ("queue", server),
        ("execute", server),
        ("batch", server),
        ("execution", batch),
    ];
    for (child, parent) in parents {
        let child = find(child);
        assert_eq!(
            child.parent_span_id,
            parent.span_context.span_id(),
            "{}",
            child.name
        );
        assert_eq!(
            child.span_context.trace_id().to_string(),
            "0af7651916cd43dd8448eb211c80319c"
        );
    }
    assert!(
        server
            .attributes
            .contains(&opentelemetry::KeyValue::new("forebay.model.name", "fake"))
    );
    assert!(
        server
            .attributes
            .contains(&opentelemetry::KeyValue::new("rpc.grpc.status_code", 0))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_loaded_by_clients_only_where_the_configuration_says_so() {
    let bed = Bed::start().await;
    let mut client = bed.client().await;
    let load = wire::RepositoryModelLoadRequest {
        model_name: "fake".to_owned(),
        ..Default::default()
    };
    let unload = wire::RepositoryModelUnloadRequest {
        model_name: "fake".to_owned(),
        ..Default::default()
    };
    for status in [
        client.repository_model_load(load).await.unwrap_err(),
        client.repository_model_unload(unload).await.unwrap_err(),
    ] {
        assert_eq!(status.code(), Code::Unavailable);
        let words = "explicit model load / unload is not allowed";
        assert!(status.message().starts_with(words), "{status}");
    }
    assert!(bed.front.model_ready("fake", ""));
}
