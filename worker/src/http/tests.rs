//! REST over a real socket: what clients send and what they get.

use std::io::Write;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use opentelemetry_sdk::trace::SpanData;
use serde_json::{Value, json};

use super::*;
use crate::testbed::{Bed, MAX_MESSAGE_BYTES};

const INFER: &str = "/v2/models/fake/infer";

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn error(&self) -> String {
        self.json()["error"].as_str().unwrap().to_owned()
    }
}

async fn send(
    bed: &Bed,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Answer {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let mut request = Request::builder()
        .method(method)
        .uri(format!("http://{}{path}", bed.http));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = client
        .request(request.body(Full::new(body.into())).unwrap())
        .await
        .unwrap();
    let (parts, body) = answer.into_parts();
    Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body: body.collect().await.unwrap().to_bytes(),
    }
}

async fn get(bed: &Bed, path: &str) -> Answer {
    send(bed, "GET", path, &[], "").await
}

fn request() -> Value {
    json!({"id": "7", "inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [[1, 2], [3, 4.5]]}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn json_in_json_out() {
    let bed = Bed::start().await;
    let answer = send(&bed, "POST", INFER, &[], request().to_string()).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    let answer = answer.json();
    assert_eq!(
        (&answer["id"], &answer["model_version"]),
        (&json!("7"), &json!("1"))
    );
    assert_eq!(answer["outputs"][0]["data"], json!([1.0, 2.0, 3.0, 4.5]));
    let versioned = send(
        &bed,
        "POST",
        "/v2/models/fake/versions/1/infer",
        &[],
        request().to_string(),
    )
    .await;
    assert_eq!(versioned.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_room_for_its_body_a_request_is_refused_for_now() {
    let bed = Bed::start().await;
    let body = request().to_string();
    let mut others = bed.front.bodies.share();
    others.grow(usize::MAX - body.len() + 1).unwrap();
    let refused = send(&bed, "POST", INFER, &[], body.clone()).await;
    assert_eq!(refused.status, 429, "{:?}", refused.body);
    assert_eq!(refused.headers["retry-after"], "1");
    drop(others);
    assert_eq!(send(&bed, "POST", INFER, &[], body).await.status, 200);
    assert_eq!(bed.front.bodies.held(), 0);
}

#[tokio::test]
async fn large_bodies_are_converted_aside() {
    let here = std::thread::current().id();
    let thread = || std::thread::current().id();
    assert_eq!(aside(WORTH_A_THREAD - 1, thread).await, Ok(here));
    assert_ne!(aside(WORTH_A_THREAD, thread).await, Ok(here));
}

#[tokio::test(flavor = "multi_thread")]
async fn binary_in_binary_out() {
    let bed = Bed::start().await;
    let tensor: Vec<u8> = [1.0_f32, 2.0]
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let head = json!({
        "parameters": {"binary_data_output": true},
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}],
    })
    .to_string();
    let body = [head.as_bytes(), &tensor].concat();
    let length = head.len().to_string();
    let answer = send(
        &bed,
        "POST",
        INFER,
        &[("inference-header-content-length", &length)],
        body,
    )
    .await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    let json_length: usize = answer.headers["inference-header-content-length"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(answer.body[json_length..], tensor[..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_bodies_are_inflated_within_the_limit() {
    let bed = Bed::start().await;
    let text = request().to_string();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(text.as_bytes()).unwrap();
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
    zlib.write_all(text.as_bytes()).unwrap();
    let mut bomb = GzEncoder::new(Vec::new(), Compression::fast());
    bomb.write_all(&vec![b' '; MAX_MESSAGE_BYTES + 1]).unwrap();
    let cases = [
        ("gzip", gzip.finish().unwrap(), 200),
        ("deflate", zlib.finish().unwrap(), 200),
        ("gzip", bomb.finish().unwrap(), 413),
        ("gzip", b"plain".to_vec(), 400),
        ("br", b"plain".to_vec(), 501),
    ];
    for (encoding, body, status) in cases {
        let answer = send(&bed, "POST", INFER, &[("content-encoding", encoding)], body).await;
        assert_eq!(answer.status, status, "{encoding}: {:?}", answer.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_error_is_a_status_and_a_json_object() {
    let bed = Bed::start().await;
    let changed = |change: fn(&mut Value)| {
        let mut request = request();
        change(&mut request);
        request.to_string()
    };
    let cases = [
        ("POST", INFER, "{".to_owned(), 400),
        ("POST", INFER, "\u{0}\u{1}".to_owned(), 400),
        (
            "POST",
            INFER,
            changed(|request| request["inputs"][0]["shape"] = json!([2, 3])),
            400,
        ),
        (
            "POST",
            INFER,
            changed(|request| request["inputs"][0]["shape"] = json!([-2, 2])),
            400,
        ),
        (
            "POST",
            INFER,
            changed(|request| request["inputs"][0]["shape"] = json!([1_u64 << 62, 1_u64 << 62])),
            400,
        ),
        (
            "POST",
            INFER,
            changed(|request| request["inputs"][0]["name"] = json!("zz")),
            400,
        ),
        (
            "POST",
            INFER,
            changed(|request| request["inputs"][0]["datatype"] = json!("INT64")),
            400,
        ),
        ("POST", INFER, " ".repeat(MAX_MESSAGE_BYTES + 1), 413),
        (
            "POST",
            "/v2/models/no-such/infer",
            request().to_string(),
            404,
        ),
        (
            "POST",
            "/v2/models/fake/versions/999/infer",
            request().to_string(),
            404,
        ),
        ("GET", INFER, String::new(), 405),
        ("POST", "/metrics", String::new(), 405),
        ("GET", "/v2/models/no-such", String::new(), 404),
        ("GET", "/nope", String::new(), 404),
        (
            "POST",
            "/v2/repository/models/fake/load",
            String::new(),
            503,
        ),
        ("GET", "/v2/models/%ff", String::new(), 400),
    ];
    for (method, path, body, status) in cases {
        let answer = send(&bed, method, path, &[], body).await;
        assert_eq!(answer.status, status, "{method} {path}: {:?}", answer.body);
        assert!(!answer.error().is_empty());
    }
    let lying = [("inference-header-content-length", "999999")];
    let answer = send(&bed, "POST", INFER, &lying, request().to_string()).await;
    assert_eq!(answer.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documents_are_served() {
    let bed = Bed::start().await;
    assert_eq!(get(&bed, "/v2").await.json()["name"], "forebay-worker");
    for path in [
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/fake/ready",
        "/v2/models/fake/versions/1/ready",
    ] {
        assert_eq!(get(&bed, path).await.status, 200, "{path}");
    }
    assert_eq!(get(&bed, "/v2/models/no-such/ready").await.status, 503);
    assert_eq!(
        get(&bed, "/v2/models/fake").await.json()["inputs"][0]["shape"],
        json!([-1, 2])
    );
    assert_eq!(
        get(&bed, "/v2/models/fake/config").await.json()["max_batch_size"],
        32
    );
    for path in ["/v2/models/stats", "/v2/models/fake/stats"] {
        assert_eq!(
            get(&bed, path).await.json()["model_stats"][0]["name"],
            "fake"
        );
    }
    let index = send(&bed, "POST", "/v2/repository/index", &[], "").await;
    assert_eq!(index.json()[0]["state"], "READY");
    bed.start_drain.send(true).unwrap();
    assert!(!bed.front.ready());
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_what_happened() {
    let bed = Bed::start().await;
    send(&bed, "POST", INFER, &[], request().to_string()).await;
    send(
        &bed,
        "POST",
        INFER,
        &[],
        request().to_string().replace("FP32", "FP64"),
    )
    .await;
    // The instance tells of the batch after it has answered; shutting it down waits for that.
    let model = bed.front.model("fake", "").unwrap();
    tokio::task::spawn_blocking(move || model.shutdown())
        .await
        .unwrap();
    let page = String::from_utf8(get(&bed, "/metrics").await.body.to_vec()).unwrap();
    for line in [
        "nv_inference_request_success{model=\"fake\",version=\"1\"} 1",
        "nv_inference_request_failure{model=\"fake\",version=\"1\",reason=\"OTHER\"} 1",
        "nv_inference_count{model=\"fake\",version=\"1\"} 2",
        "forebay_batch_rows_count{model=\"fake\",version=\"1\"} 1",
        "forebay_model_info{model=\"fake\",version=\"1\",provider=\"cpu\",fell_back=\"true\"} 1",
    ] {
        assert!(
            page.lines().any(|found| found == line),
            "no '{line}' in:\n{page}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_traced_request_has_its_server_span() {
    let bed = Bed::start().await;
    let parent = [(
        "traceparent",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )];
    send(&bed, "POST", INFER, &parent, request().to_string()).await;
    for path in ["infer", "generate", "generate_stream"] {
        let path = format!("/v2/models/fake/{path}");
        send(&bed, "POST", &path, &parent, "{").await;
    }
    let spans = bed.spans.finished();
    let said = |route: &str| -> Vec<(String, String)> {
        let name = format!("POST {route}");
        let servers = spans.iter().filter(|span| span.name == name);
        let said = |span: &SpanData, key: &str| {
            let attributes = span.attributes.iter();
            let mut values = attributes.filter(|attribute| attribute.key.as_str() == key);
            values.next().unwrap().value.as_str().into_owned()
        };
        let said = servers.map(|span| {
            assert_eq!(said(span, "http.request.method"), "POST");
            (
                said(span, "http.route"),
                said(span, "http.response.status_code"),
            )
        });
        said.collect()
    };
    let of = |route: &str, status: &str| (route.to_owned(), status.to_owned());
    let [infer, generate, stream] =
        ["infer", "generate", "generate_stream"].map(|call| format!("/v2/models/{{model}}/{call}"));
    assert_eq!(said(&infer), [of(&infer, "200"), of(&infer, "400")]);
    assert_eq!(said(&generate), [of(&generate, "400")]);
    assert_eq!(said(&stream), [of(&stream, "400")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_say_how_far_the_request_got() {
    let bed = Bed::start().await;
    let bad =
        json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [-3, 1]}]});
    for (body, status, stage) in [
        (request(), 200, "done"),
        (json!({"inputs": []}), 400, "queued"),
        (bad, 500, "executing"),
    ] {
        let answer = send(&bed, "POST", INFER, &[], body.to_string()).await;
        assert_eq!(answer.status, status, "{:?}", answer.body);
        assert_eq!(answer.headers["forebay-stage"], stage);
    }
}
