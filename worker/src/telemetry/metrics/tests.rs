use std::time::{Duration, Instant};

use bytes::Bytes;
use forebay_config::worker::Model as ModelConfig;
use forebay_proto::tensor::DataType;

use super::*;
use crate::batch::report::NoObserver;
use crate::engine::LoadedModel;
use crate::engine::fake::{self, Script};
use crate::inference::{InferRequest, Tensor};
use crate::measure::Reason;
use crate::model::ModelSpec;
use crate::repository::labels::Labels;

fn model(name: &str) -> Arc<Served> {
    let script: Arc<Script> = Arc::default();
    *script.cost.lock() = Duration::from_millis(1);
    let factory = script.factory();
    let loaded = LoadedModel {
        signature: fake::signature(),
        provider: "cpu",
        provider_note: Some("cuda is not available".to_owned()),
        nodes: Vec::new(),
        predictable: true,
        memory_bytes: Arc::new(|| 77),
        shares_session: false,
        first: factory(0).unwrap(),
        factory,
    };
    let spec = ModelSpec {
        name: name.to_owned(),
        version: 2,
        config: ModelConfig::default(),
        labels: Labels::default(),
        said: None,
        seats: Vec::new(),
        max_answer_bytes: usize::MAX,
        observer: Arc::new(NoObserver),
    };
    Arc::new(Model::start(loaded, spec).unwrap().into())
}

fn rows(rows: usize) -> InferRequest {
    InferRequest {
        inputs: vec![(
            0,
            Tensor {
                datatype: DataType::Fp32,
                shape: vec![rows as i64, 2],
                data: Bytes::from(vec![0; rows * 8]),
            },
        )],
        outputs: vec![0],
        rows,
        deadline: None,
        priority: 0,
        trace: None,
    }
}

fn has(page: &str, line: &str) {
    assert!(
        page.lines().any(|found| found == line),
        "no '{line}' in:\n{page}"
    );
}

#[tokio::test]
async fn the_page_holds_tritons_names_and_ours() {
    let served = model("a\"b");
    let arrival = Instant::now();
    let underway = served.requests().begin(arrival);
    served.infer(rows(3), arrival).await.unwrap();
    underway.answered(arrival + Duration::from_millis(16));
    served.requests().begin(arrival).failed(Reason::Rejected);
    let open = served.requests().begin(arrival);
    let mut late = rows(1);
    late.deadline = Some(arrival);
    served.infer(late, arrival).await.unwrap_err();
    // An instance tells of a batch after it has answered.
    served.shutdown();

    let page = Metrics::default().page(std::slice::from_ref(&served));
    drop(open);
    let labels = r#"model="a\"b",version="2""#;
    for line in [
        format!("nv_inference_request_success{{{labels}}} 1"),
        format!("nv_inference_request_failure{{{labels},reason=\"REJECTED\"}} 1"),
        format!("nv_inference_request_failure{{{labels},reason=\"CANCELED\"}} 0"),
        format!("nv_inference_request_duration_us{{{labels}}} 16000"),
        format!("nv_inference_first_response_histogram_ms_bucket{{{labels},le=\"10\"}} 0"),
        format!("nv_inference_first_response_histogram_ms_bucket{{{labels},le=\"25\"}} 1"),
        format!("nv_inference_first_response_histogram_ms_sum{{{labels}}} 16"),
        format!("forebay_requests_in_flight{{{labels}}} 1"),
        format!("nv_inference_count{{{labels}}} 3"),
        format!("nv_inference_exec_count{{{labels}}} 1"),
        format!("nv_inference_pending_request_count{{{labels}}} 0"),
        format!("forebay_requests_refused_total{{{labels},reason=\"deadline\"}} 1"),
        format!("forebay_batch_rows_bucket{{{labels},le=\"2\"}} 0"),
        format!("forebay_batch_rows_bucket{{{labels},le=\"4\"}} 1"),
        format!("forebay_queue_seconds_count{{{labels}}} 1"),
        format!("forebay_execution_seconds_count{{{labels}}} 1"),
        format!("forebay_model_memory_bytes{{{labels}}} 77"),
        format!("forebay_instances_unloaded{{{labels}}} 0"),
        format!("forebay_model_info{{{labels},provider=\"cpu\",fell_back=\"true\"}} 1"),
    ] {
        has(&page, &line);
    }
    let expected =
        format!("forebay_expected_batch_seconds{{{labels},row_bytes=\"8\",rows=\"1\"}} ");
    assert!(page.contains(&expected), "{page}");
    assert!(
        !page.contains("\nforebay_padding_elements_total{"),
        "the model is not padded"
    );
}

#[tokio::test]
async fn what_is_not_served_is_not_shown() {
    let metrics = Metrics::default();
    let (first, second) = (model("first"), model("second"));
    let page = metrics.page(&[first, second.clone()]);
    assert!(page.contains("model=\"first\"") && page.contains("model=\"second\""));
    let page = metrics.page(&[second]);
    assert!(!page.contains("model=\"first\"") && page.contains("model=\"second\""));
}

/// Names and types in the tables of the documentation, and on the page.
#[test]
fn the_documentation_lists_what_the_page_says() {
    let text = include_str!("../../../../docs/metrics.md");
    let (_, worker) = text.split_once("\n## Worker\n").unwrap();
    let worker = worker.split("\n## ").next().unwrap();
    let mut documented: Vec<String> = worker
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .map(|row| {
            let mut cells = row.split(" | ");
            let name = cells.next().unwrap().trim_end_matches('`');
            format!("{name} {}", cells.next().unwrap())
        })
        .collect();
    let page = Metrics::default().page(&[]);
    let mut written: Vec<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .map(str::to_owned)
        .collect();
    documented.sort_unstable();
    written.sort_unstable();
    assert_eq!(documented, written);
}
