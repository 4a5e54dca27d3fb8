//! Calls that stay open: inference streams and health watches.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_answered_in_order_and_goes_on_after_an_error() {
    let bed = Bed::start().await;
    let mut last = request(&[3.0, 3.0]);
    let wanted = InferParameter {
        parameter_choice: Some(ParameterChoice::BoolParam(true)),
    };
    last.parameters
        .insert("triton_enable_empty_final_response".to_owned(), wanted);
    let sent = [request(&[1.0, 1.0]), request(&[BAD, 2.0]), last];
    let stream = || tonic::Request::new(tokio_stream::iter(sent.clone()));

    let mut answers = bed
        .client()
        .await
        .model_stream_infer(stream())
        .await
        .unwrap()
        .into_inner();
    let mut found = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        found.push(answer);
    }
    let raw = |index: usize| {
        found[index]
            .infer_response
            .clone()
            .unwrap()
            .raw_output_contents
    };
    assert_eq!(
        (raw(0), raw(2)),
        (
            sent[0].raw_input_contents.clone(),
            sent[2].raw_input_contents.clone()
        )
    );
    let failed: Vec<bool> = found
        .iter()
        .map(|answer| !answer.error_message.is_empty())
        .collect();
    assert_eq!(failed, [false, true, false]);
    assert!(
        found[2]
            .infer_response
            .as_ref()
            .unwrap()
            .parameters
            .contains_key("triton_final_response")
    );

    let mut strict = stream();
    strict
        .metadata_mut()
        .insert("triton_grpc_error", "true".parse().unwrap());
    let mut answers = bed
        .client()
        .await
        .model_stream_infer(strict)
        .await
        .unwrap()
        .into_inner();
    assert!(answers.message().await.unwrap().is_some());
    assert_eq!(
        answers.message().await.unwrap_err().code(),
        Code::InvalidArgument
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_stream_ends_when_the_process_drains() {
    let bed = Bed::start().await;
    let (send, receive) = tokio::sync::mpsc::channel(1);
    let stream = tokio_stream::wrappers::ReceiverStream::new(receive);
    let mut answers = bed
        .client()
        .await
        .model_stream_infer(stream)
        .await
        .unwrap()
        .into_inner();
    send.send(request(&[1.0, 1.0])).await.unwrap();
    assert!(answers.message().await.unwrap().is_some());
    bed.start_drain.send(true).unwrap();
    assert_eq!(
        answers.message().await.unwrap_err().code(),
        Code::Unavailable
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_told_for_server_and_models_and_each_change_once() {
    let bed = Bed::start().await;
    let mut client = HealthClient::new(bed.channel().await);
    let of = |service: &str| HealthCheckRequest {
        service: service.to_owned(),
    };
    let serving = HealthCheckResponse {
        status: ServingStatus::Serving.into(),
    };
    for service in ["", "inference.GRPCInferenceService", "fake"] {
        assert_eq!(
            client.check(of(service)).await.unwrap().into_inner(),
            serving,
            "{service}"
        );
    }
    assert_eq!(
        client.check(of("no-such")).await.unwrap_err().code(),
        Code::NotFound
    );
    let mut unknown = client.watch(of("no-such")).await.unwrap().into_inner();
    let told = unknown.message().await.unwrap().unwrap();
    assert_eq!(told.status(), ServingStatus::ServiceUnknown);

    let mut server = client.watch(of("")).await.unwrap().into_inner();
    let mut model = client.watch(of("fake")).await.unwrap().into_inner();
    for stream in [&mut server, &mut model] {
        assert_eq!(stream.message().await.unwrap().unwrap(), serving);
    }
    bed.start_drain.send(true).unwrap();
    for stream in [&mut server, &mut model] {
        assert_eq!(
            stream.message().await.unwrap().unwrap().status(),
            ServingStatus::NotServing
        );
        assert!(stream.message().await.unwrap().is_none());
    }
    assert!(!bed.front.ready());
}
