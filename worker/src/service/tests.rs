//! The gRPC services over a real socket: what clients send and what they get, the wrong requests above all.

use bytes::Bytes;
use forebay_config::worker::Model as ModelConfig;
use forebay_proto::health::health_check_response::ServingStatus;
use forebay_proto::health::health_client::HealthClient;
use forebay_proto::health::{HealthCheckRequest, HealthCheckResponse};
use forebay_proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use forebay_proto::inference::infer_parameter::ParameterChoice;
use forebay_proto::inference::model_infer_request::InferInputTensor;
use forebay_proto::inference::{self as wire, InferParameter};
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use prost::Message;
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::*;
use crate::engine::fake::{BAD, FAIL};
use crate::testbed::{Bed, MAX_MESSAGE_BYTES};

const MODEL_INFER: &str = "/inference.GRPCInferenceService/ModelInfer";

impl Bed {
    async fn channel(&self) -> Channel {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", self.grpc)).unwrap();
        endpoint.connect().await.unwrap()
    }

    async fn client(&self) -> GrpcInferenceServiceClient<Channel> {
        GrpcInferenceServiceClient::new(self.channel().await)
    }

    /// Sends these very bytes; code and message of the answer.
    async fn raw(&self, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> (Code, String) {
        let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
        let mut request = Request::post(format!("http://{}{path}", self.grpc)).header("content-type", "application/grpc");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = client.request(request.body(Full::new(Bytes::from(body))).unwrap()).await.unwrap();
        let (parts, body) = answer.into_parts();
        let trailers = body.collect().await.unwrap().trailers().cloned().unwrap_or_default();
        let headers = if parts.headers.contains_key("grpc-status") { &parts.headers } else { &trailers };
        let status = Status::from_header_map(headers).unwrap();
        (status.code(), status.message().to_owned())
    }
}

fn request(values: &[f32]) -> wire::ModelInferRequest {
    wire::ModelInferRequest {
        model_name: "fake".to_owned(),
        inputs: vec![InferInputTensor {
            name: "x".to_owned(),
            datatype: "FP32".to_owned(),
            shape: vec![values.len() as i64 / 2, 2],
            ..InferInputTensor::default()
        }],
        raw_input_contents: vec![values.iter().flat_map(|value| value.to_le_bytes()).collect()],
        ..wire::ModelInferRequest::default()
    }
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat()
}

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
async fn an_inference_answers_raw_and_echoes_the_id() {
    let bed = Bed::start().await;
    let mut client = bed.client().await;
    let sent = wire::ModelInferRequest { id: "abc-1".to_owned(), ..request(&[1.0, 2.0, 3.0, 4.0]) };
    let answer = client.model_infer(sent.clone()).await.unwrap().into_inner();
    assert_eq!((&answer.model_name[..], &answer.model_version[..], &answer.id[..]), ("fake", "1", "abc-1"));
    assert_eq!((&answer.outputs[0].name[..], &answer.outputs[0].shape[..]), ("y", &[2, 2][..]));
    assert_eq!(answer.raw_output_contents, sent.raw_input_contents);
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_bytes_get_a_status_and_the_next_caller_an_answer() {
    let bed = Bed::start().await;
    let good = request(&[1.0, 2.0]).encode_to_vec();
    let mut bad_utf8 = request(&[1.0, 2.0]);
    bad_utf8.model_name = "~".to_owned();
    let bad_utf8: Vec<u8> =
        bad_utf8.encode_to_vec().iter().map(|byte| if *byte == b'~' { 0xff } else { *byte }).collect();
    let claim = |length: u32| [&[0][..], &length.to_be_bytes(), b"x"].concat();
    let invalid = Code::InvalidArgument;
    let cases: [(&str, Vec<u8>, Code); 9] = [
        ("nothing", vec![], invalid),
        ("half a header", vec![0, 0], invalid),
        ("a message cut short", framed(&good)[..20].to_vec(), invalid),
        ("truncated protobuf", framed(&good[..good.len() - 3]), invalid),
        ("bad UTF-8", framed(&bad_utf8), invalid),
        ("noise", framed(&[0xff; 64]), invalid),
        ("a claim of 1 GiB", claim(1 << 30), Code::ResourceExhausted),
        ("a claim within the limit", claim(MAX_MESSAGE_BYTES as u32), invalid),
        ("two messages", [framed(&good), framed(&good)].concat(), invalid),
    ];
    for (what, body, want) in cases {
        let (code, message) = bed.raw(MODEL_INFER, &[], body).await;
        assert_eq!(code, want, "{what}: {message}");
        assert!(!message.is_empty(), "{what}");
    }
    assert_eq!(bed.raw(MODEL_INFER, &[], framed(&good)).await.0, Code::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn impossible_tensors_are_refused_and_the_neighbours_succeed() {
    let bed = Bed::start().await;
    let mut client = bed.client().await;
    let shapes: [&[i64]; 6] = [&[1 << 40, 1 << 40], &[-1, 2], &[1 << 62, 2], &[1, 3], &[2], &[i64::MAX, 2]];
    for shape in shapes {
        let mut wrong = request(&[1.0, 2.0]);
        wrong.inputs[0].shape = shape.to_vec();
        let status = client.model_infer(wrong).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{shape:?}: {status}");
    }
    let (mut first, mut second, mut third) = (client.clone(), client.clone(), client);
    let (good, bad, failing) = tokio::join!(
        first.model_infer(request(&[1.0, 2.0])),
        second.model_infer(request(&[BAD, 2.0])),
        third.model_infer(request(&[FAIL, 2.0])),
    );
    assert!(good.is_ok());
    assert_eq!(bad.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(failing.unwrap_err().code(), Code::Internal);
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_messages_are_inflated_within_the_limit() {
    use std::io::Write;
    let bed = Bed::start().await;
    let gzip = |data: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        let mut message = framed(&encoder.finish().unwrap());
        message[0] = 1;
        message
    };
    let encoding = [("grpc-encoding", "gzip")];
    let good = gzip(&request(&[1.0, 2.0]).encode_to_vec());
    assert_eq!(bed.raw(MODEL_INFER, &encoding, good.clone()).await.0, Code::Ok);
    assert_eq!(bed.raw(MODEL_INFER, &[], good.clone()).await.0, Code::InvalidArgument);
    assert_eq!(bed.raw(MODEL_INFER, &[("grpc-encoding", "br")], good).await.0, Code::Unimplemented);
    let bomb = gzip(&vec![0; MAX_MESSAGE_BYTES + 1]);
    assert_eq!(bed.raw(MODEL_INFER, &encoding, bomb).await.0, Code::ResourceExhausted);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_do_not_exist_are_unimplemented() {
    let bed = Bed::start().await;
    for path in ["/inference.GRPCInferenceService/RepositoryModelLoad", "/inference.GRPCInferenceService/Nope", "/x.Y/Z", "/"] {
        assert_eq!(bed.raw(path, &[], framed(&[])).await.0, Code::Unimplemented, "{path}");
    }
    let status = bed.client().await.log_settings(wire::LogSettingsRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert!(status.message().contains("LogSettings"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_the_wait_even_while_the_model_runs() {
    let bed = Bed::start().await;
    bed.script.close();
    let short = [("grpc-timeout", "30m")];
    let (code, _) = bed.raw(MODEL_INFER, &short, framed(&request(&[1.0, 2.0]).encode_to_vec())).await;
    assert_eq!(code, Code::DeadlineExceeded);
    let gone = [("grpc-timeout", "0n")];
    let (code, _) = bed.raw(MODEL_INFER, &gone, framed(&request(&[1.0, 2.0]).encode_to_vec())).await;
    assert_eq!(code, Code::DeadlineExceeded);
    let mut timed = request(&[1.0, 2.0]);
    let microseconds = InferParameter { parameter_choice: Some(ParameterChoice::Int64Param(20_000)) };
    timed.parameters.insert("timeout".to_owned(), microseconds);
    let (code, _) = bed.raw(MODEL_INFER, &[], framed(&timed.encode_to_vec())).await;
    assert_eq!(code, Code::DeadlineExceeded);
    bed.script.open();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_says_when_to_come_back() {
    let bed = Bed::with(ModelConfig { max_queue_size: 1, ..ModelConfig::default() }).await;
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
        let pushback = status.metadata().get("grpc-retry-pushback-ms").unwrap().to_str().unwrap();
        assert!(pushback.parse::<u64>().unwrap() > 0);
    }
    bed.script.open();
    assert!(calls.join_next().await.unwrap().unwrap().is_ok());
    assert!(running.await.unwrap().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_leaves_is_not_run() {
    let bed = Bed::start().await;
    let mut client = bed.client().await;
    bed.script.close();
    let mut first = client.clone();
    let running = tokio::spawn(async move { first.model_infer(request(&[1.0, 2.0])).await });
    bed.wait_for_standing(1).await;
    let model = bed.front.model("fake", "").unwrap();
    let runs = bed.script.runs.lock().len();
    let mut leaving = Box::pin(client.model_infer(request(&[7.0, 7.0])));
    while model.statistics().queued_requests == 0 {
        tokio::select! {
            _ = &mut leaving => panic!("nothing can have answered"),
            () = tokio::task::yield_now() => {}
        }
    }
    drop(leaving);
    let mut last = bed.client().await;
    let last = tokio::spawn(async move { last.model_infer(request(&[1.0, 2.0])).await });
    while model.statistics().cancelled == 0 {
        bed.script.open();
        tokio::task::yield_now().await;
    }
    assert!(running.await.unwrap().is_ok() && last.await.unwrap().is_ok());
    let rows: usize = bed.script.runs.lock()[runs..].iter().sum();
    assert_eq!(rows, 1, "the caller who left was run");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documents_describe_server_and_model() {
    let bed = Bed::start().await;
    let mut client = bed.client().await;
    assert!(client.server_live(wire::ServerLiveRequest {}).await.unwrap().into_inner().live);
    assert!(client.server_ready(wire::ServerReadyRequest {}).await.unwrap().into_inner().ready);
    let server = client.server_metadata(wire::ServerMetadataRequest {}).await.unwrap().into_inner();
    for extension in [
        "statistics",
        "model_configuration",
        "binary_tensor_data",
        "execution_provider(cpu)",
        "execution_provider_fallback(fake: cuda is not available)",
    ] {
        assert!(server.extensions.iter().any(|found| found == extension), "{extension}");
    }

    let named = |name: &str| wire::ModelMetadataRequest { name: name.to_owned(), version: String::new() };
    let metadata = client.model_metadata(named("fake")).await.unwrap().into_inner();
    assert_eq!((&metadata.versions[..], &metadata.inputs[0].shape[..]), (&["1".to_owned()][..], &[-1, 2][..]));
    let unknown = client.model_metadata(named("no-such")).await.unwrap_err();
    assert_eq!((unknown.code(), unknown.message()), (Code::NotFound, "Request for unknown model: 'no-such' is not found"));

    let config = wire::ModelConfigRequest { name: "fake".to_owned(), version: "1".to_owned() };
    let config = client.model_config(config).await.unwrap().into_inner().config.unwrap();
    assert_eq!((config.max_batch_size, &config.input[0].dims[..]), (32, &[2][..]));
    assert_eq!((&config.platform[..], &config.backend[..]), ("onnxruntime_onnx", "onnxruntime"));
    let wrong = wire::ModelConfigRequest { name: "fake".to_owned(), version: "999".to_owned() };
    let wrong = client.model_config(wrong).await.unwrap_err();
    assert_eq!(wrong.message(), "Request for unknown model: 'fake' version 999 is not found");

    client.model_infer(request(&[1.0, 2.0, 3.0, 4.0])).await.unwrap();
    let statistics = client.model_statistics(wire::ModelStatisticsRequest::default()).await.unwrap().into_inner();
    let statistics = &statistics.model_stats[0];
    assert_eq!((statistics.inference_count, statistics.execution_count), (2, 1));
    assert_eq!(statistics.inference_stats.unwrap().success.unwrap().count, 1);

    let index = client.repository_index(wire::RepositoryIndexRequest::default()).await.unwrap().into_inner();
    assert_eq!((&index.models[0].name[..], &index.models[0].version[..], &index.models[0].state[..]), ("fake", "1", "READY"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_with_batching_off_takes_any_number_of_rows() {
    let bed = Bed::with(ModelConfig { max_batch_size: 1, ..ModelConfig::default() }).await;
    let mut client = bed.client().await;
    let config = wire::ModelConfigRequest { name: "fake".to_owned(), version: String::new() };
    let config = client.model_config(config).await.unwrap().into_inner().config.unwrap();
    assert_eq!((config.max_batch_size, &config.input[0].dims[..]), (0, &[-1, 2][..]));
    let answer = client.model_infer(request(&[1.0; 6])).await.unwrap().into_inner();
    assert_eq!(answer.outputs[0].shape, [3, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_answered_in_order_and_goes_on_after_an_error() {
    let bed = Bed::start().await;
    let mut last = request(&[3.0, 3.0]);
    let wanted = InferParameter { parameter_choice: Some(ParameterChoice::BoolParam(true)) };
    last.parameters.insert("triton_enable_empty_final_response".to_owned(), wanted);
    let sent = [request(&[1.0, 1.0]), request(&[BAD, 2.0]), last];
    let stream = || tonic::Request::new(tokio_stream::iter(sent.clone()));

    let mut answers = bed.client().await.model_stream_infer(stream()).await.unwrap().into_inner();
    let mut found = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        found.push(answer);
    }
    let raw = |index: usize| found[index].infer_response.clone().unwrap().raw_output_contents;
    assert_eq!((raw(0), raw(2)), (sent[0].raw_input_contents.clone(), sent[2].raw_input_contents.clone()));
    let failed: Vec<bool> = found.iter().map(|answer| !answer.error_message.is_empty()).collect();
    assert_eq!(failed, [false, true, false]);
    assert!(found[2].infer_response.as_ref().unwrap().parameters.contains_key("triton_final_response"));

    let mut strict = stream();
    strict.metadata_mut().insert("triton_grpc_error", "true".parse().unwrap());
    let mut answers = bed.client().await.model_stream_infer(strict).await.unwrap().into_inner();
    assert!(answers.message().await.unwrap().is_some());
    assert_eq!(answers.message().await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_stream_ends_when_the_process_drains() {
    let bed = Bed::start().await;
    let (send, receive) = tokio::sync::mpsc::channel(1);
    let stream = tokio_stream::wrappers::ReceiverStream::new(receive);
    let mut answers = bed.client().await.model_stream_infer(stream).await.unwrap().into_inner();
    send.send(request(&[1.0, 1.0])).await.unwrap();
    assert!(answers.message().await.unwrap().is_some());
    bed.start_drain.send(true).unwrap();
    assert_eq!(answers.message().await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_told_for_server_and_models_and_each_change_once() {
    let bed = Bed::start().await;
    let mut client = HealthClient::new(bed.channel().await);
    let of = |service: &str| HealthCheckRequest { service: service.to_owned() };
    let serving = HealthCheckResponse { status: ServingStatus::Serving.into() };
    for service in ["", "inference.GRPCInferenceService", "fake"] {
        assert_eq!(client.check(of(service)).await.unwrap().into_inner(), serving, "{service}");
    }
    assert_eq!(client.check(of("no-such")).await.unwrap_err().code(), Code::NotFound);
    let mut unknown = client.watch(of("no-such")).await.unwrap().into_inner();
    let told = unknown.message().await.unwrap().unwrap();
    assert_eq!(told.status(), ServingStatus::ServiceUnknown);

    let mut server = client.watch(of("")).await.unwrap().into_inner();
    let mut model = client.watch(of("fake")).await.unwrap().into_inner();
    for stream in [&mut server, &mut model] {
        assert_eq!(stream.message().await.unwrap().unwrap(), serving);
    }
    bed.front.changes.send_modify(|changes| *changes += 1);
    bed.start_drain.send(true).unwrap();
    for stream in [&mut server, &mut model] {
        assert_eq!(stream.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
        assert!(stream.message().await.unwrap().is_none());
    }
    assert!(!bed.front.ready());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_traced_call_leaves_its_whole_tree_of_spans() {
    let bed = Bed::start().await;
    let body = framed(&request(&[1.0, 2.0]).encode_to_vec());
    let parent = [("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")];
    assert_eq!(bed.raw(MODEL_INFER, &[], body.clone()).await.0, Code::Ok);
    assert_eq!(bed.raw(MODEL_INFER, &parent, body).await.0, Code::Ok);
    // The instance tells of the batch after it has answered; shutting it down waits for that.
    let registry = bed.front.registry.clone();
    tokio::task::spawn_blocking(move || registry.shutdown()).await.unwrap();

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
    let parents = [("queue", server), ("execute", server), ("batch", server), ("execution", batch)];
    for (child, parent) in parents {
        let child = find(child);
        assert_eq!(child.parent_span_id, parent.span_context.span_id(), "{}", child.name);
        assert_eq!(child.span_context.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
    }
    assert!(server.attributes.contains(&opentelemetry::KeyValue::new("forebay.model.name", "fake")));
    assert!(server.attributes.contains(&opentelemetry::KeyValue::new("rpc.grpc.status_code", 0)));
}
