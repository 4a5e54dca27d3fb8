//! Ensembles over models that a script drives: `left` and `right` answer with their own input.

use std::collections::HashMap;

use bytes::Bytes;
use forebay_config::worker::{Model as ModelConfig, Ports, Step as ConfigStep};
use forebay_proto::tensor::DataType;
use opentelemetry::trace::SpanId;

use super::*;
use crate::batch::report::NoObserver;
use crate::engine::LoadedModel;
use crate::engine::fake::{self, BAD, FAIL, Script};
use crate::inference::Tensor;
use crate::model::{Model, ModelSpec};
use crate::repository::labels::Labels;
use crate::service::Fault;
use crate::service::progress::Stage;
use crate::testbed::Spans;
use tonic::Code;

#[derive(Default)]
struct Shelf(Mutex<HashMap<String, Arc<Served>>>);

impl Models for Shelf {
    fn find(&self, name: &str, _: Option<u64>) -> Result<Arc<Served>, String> {
        let found = self.0.lock().get(name).cloned();
        found.ok_or_else(|| format!("unknown model '{name}'"))
    }
}

struct Bed {
    shelf: Arc<Shelf>,
    around: Surroundings,
    spans: Spans,
    scripts: [Arc<Script>; 2],
}

impl Bed {
    fn new() -> Self {
        let shelf = Arc::new(Shelf::default());
        let spans = Spans::default();
        let models: Weak<Shelf> = Arc::downgrade(&shelf);
        let around = Surroundings {
            models: models as Weak<dyn Models>,
            cpu: Cpu::new(2),
            tracing: Tracing::new(Some(&spans.provider()), 1.0),
        };
        let scripts = ["left", "right"].map(|name| {
            let script = Arc::new(Script::default());
            shelf
                .0
                .lock()
                .insert(name.to_owned(), Arc::new(start(name, &script).into()));
            script
        });
        Self {
            shelf,
            around,
            spans,
            scripts,
        }
    }

    fn ensemble(&self, steps: Vec<ConfigStep>) -> Result<Ensemble, String> {
        let config = Config::new(Vec::new(), Vec::new(), steps).unwrap();
        let parts = Parts::load(config, Path::new("/nowhere"))?;
        Ensemble::new("both", parts, &self.around)
    }

    /// Two branches from one input.
    fn fork(&self) -> Ensemble {
        self.ensemble(vec![step("left", "in", "l"), step("right", "in", "r")])
            .unwrap()
    }
}

fn start(name: &str, script: &Arc<Script>) -> Model {
    let factory = script.factory();
    let loaded = LoadedModel {
        signature: fake::signature(),
        provider: "cpu",
        provider_note: None,
        nodes: Vec::new(),
        predictable: true,
        memory_bytes: Arc::new(|| 0),
        shares_session: false,
        first: factory(0).unwrap(),
        factory,
    };
    let spec = ModelSpec {
        name: name.to_owned(),
        version: 1,
        config: ModelConfig {
            max_batch_size: 8,
            ..ModelConfig::default()
        },
        labels: Labels::default(),
        seats: Vec::new(),
        max_answer_bytes: usize::MAX,
        said: None,
        observer: Arc::new(NoObserver),
    };
    let model = Model::start(loaded, spec).unwrap();
    script.runs.lock().clear();
    model
}

fn step(model: &str, input: &str, output: &str) -> ConfigStep {
    let port = |port: &str, tensor: &str| [(port.to_owned(), tensor.to_owned())].into();
    ConfigStep {
        kind: StepKind::Model {
            name: model.to_owned(),
            version: None,
        },
        ports: Ports {
            inputs: port("x", input),
            outputs: port("y", output),
        },
    }
}

fn row(value: f32) -> Tensor {
    let data: Vec<u8> = [value, 1.0]
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    Tensor {
        datatype: DataType::Fp32,
        shape: vec![1, 2],
        data: Bytes::from(data),
    }
}

fn request(value: f32, outputs: &[usize]) -> InferRequest {
    InferRequest {
        inputs: vec![(0, row(value))],
        outputs: outputs.to_vec(),
        rows: 1,
        deadline: None,
        priority: 0,
        trace: None,
    }
}

#[tokio::test]
async fn branches_run_at_the_same_time() {
    let bed = Bed::new();
    let ensemble = Arc::new(bed.fork());
    bed.scripts.iter().for_each(|script| script.close());
    let asked = Arc::clone(&ensemble);
    let answer =
        tokio::spawn(async move { asked.infer(request(7.0, &[1, 0]), Instant::now()).await });
    let scripts = bed.scripts.clone();
    tokio::task::spawn_blocking(move || {
        // Each is inside its run while the other is: neither waits for the other's end.
        scripts
            .iter()
            .for_each(|script| script.wait_for_standing(1));
        scripts.iter().for_each(|script| script.open());
    })
    .await
    .unwrap();
    assert_eq!(answer.await.unwrap().unwrap().outputs, [row(7.0), row(7.0)]);
    let statistics = ensemble.statistics();
    assert_eq!((statistics.submitted, statistics.success.count), (1, 1));
    assert_eq!(
        (statistics.inference_count, statistics.execution_count),
        (1, 1)
    );
}

#[tokio::test]
async fn only_what_is_asked_for_is_run() {
    let bed = Bed::new();
    let ensemble = bed.fork();
    let answer = ensemble.infer(request(7.0, &[0]), Instant::now()).await;
    assert_eq!(answer.unwrap().outputs, [row(7.0)]);
    let runs = bed
        .scripts
        .each_ref()
        .map(|script| script.runs.lock().len());
    assert_eq!(runs, [1, 0]);
}

#[tokio::test]
async fn who_goes_away_takes_back_what_waits() {
    let bed = Bed::new();
    let ensemble = bed.fork();
    bed.scripts[0].close();
    let mut answer = ensemble.infer(request(7.0, &[0, 1]), Instant::now());
    while bed.scripts[1].runs.lock().is_empty() {
        assert!(futures::poll!(answer.as_mut()).is_pending());
        tokio::task::yield_now().await;
    }
    drop(answer);
    assert_eq!(ensemble.statistics().cancelled, 1);
    bed.scripts[0].open();
    let answer = ensemble.infer(request(8.0, &[0]), Instant::now()).await;
    assert_eq!(answer.unwrap().outputs, [row(8.0)]);
}

#[tokio::test]
async fn errors_say_which_step_it_was() {
    let bed = Bed::new();
    let chain = vec![step("left", "in", "mid"), step("right", "mid", "out")];
    let ensemble = bed.ensemble(chain).unwrap();
    let error = async |value| {
        let answer = ensemble.infer(request(value, &[0]), Instant::now()).await;
        answer.unwrap_err()
    };
    let bad = error(BAD).await;
    assert!(
        matches!(&bad, InferError::InvalidInput(what) if what.starts_with("step 1 (model 'left'): ")),
        "{bad}"
    );
    let failed = error(FAIL).await.to_string();
    assert!(
        failed.starts_with("model 'both' failed: step 1 (model 'left'): model 'left' failed"),
        "{failed}"
    );
    assert_eq!(
        (ensemble.statistics().fail.count, ensemble.obstacle()),
        (2, None)
    );

    bed.scripts[0].runs.lock().clear();
    bed.shelf.0.lock().remove("right");
    let missing = error(1.0).await;
    assert_eq!(
        missing.to_string(),
        "model 'both' is not ready: step 2 (model 'right'): unknown model 'right'"
    );
    assert!(
        bed.scripts[0].runs.lock().is_empty(),
        "nothing was run for nothing"
    );
    assert_eq!(
        ensemble.obstacle().as_deref(),
        Some("step 2 (model 'right'): unknown model 'right'")
    );
    assert!(!ensemble.up_to_date());
}

#[tokio::test]
async fn what_a_later_model_refuses_was_begun() {
    let bed = Bed::new();
    let chain = vec![step("left", "in", "mid"), step("right", "mid", "out")];
    let ensemble = bed.ensemble(chain).unwrap();
    let ask = async || {
        let answer = ensemble.infer(request(1.0, &[0]), Instant::now()).await;
        let error = answer.unwrap_err();
        (
            Stage::from(&error),
            Fault::from_model(error, Duration::default).code(),
        )
    };
    let shut = |name: &str| bed.shelf.0.lock()[name].shutdown();
    shut("right");
    assert_eq!(ask().await, (Stage::Executing, Code::Unavailable));
    shut("left");
    assert_eq!(ask().await, (Stage::Queued, Code::Unavailable));
}

#[tokio::test]
async fn deadlines_are_passed_on() {
    let bed = Bed::new();
    let ensemble = bed.fork();
    let now = Instant::now();
    let late = InferRequest {
        deadline: Some(now),
        ..request(1.0, &[0])
    };
    let answer = ensemble.infer(late, now).await;
    assert!(matches!(answer, Err(InferError::DeadlineInQueue(model)) if model == "left"));
}

#[test]
fn an_ensemble_of_nothing_cannot_be_put_together() {
    let bed = Bed::new();
    let missing = bed.ensemble(vec![step("middle", "in", "out")]).unwrap_err();
    assert_eq!(missing, "step 1 (model 'middle'): unknown model 'middle'");
}

#[tokio::test]
async fn a_replaced_model_is_used_at_once_and_noticed() {
    let bed = Bed::new();
    let ensemble = bed.fork();
    assert!(ensemble.up_to_date());
    let script = Arc::new(Script::default());
    let new = Arc::new(start("left", &script).into());
    let old = bed.shelf.0.lock().insert("left".to_owned(), new);
    assert!(!ensemble.up_to_date());
    drop(old);
    ensemble
        .infer(request(3.0, &[0]), Instant::now())
        .await
        .unwrap();
    assert_eq!(script.runs.lock().len(), 1);
}

#[tokio::test]
async fn each_step_has_a_span_below_the_request() {
    let bed = Bed::new();
    let ensemble = bed.fork();
    let server = bed.around.tracing.server("request", None).unwrap();
    let traced = InferRequest {
        trace: Some(server.context()),
        ..request(1.0, &[0, 1])
    };
    ensemble.infer(traced, Instant::now()).await.unwrap();
    let request = server.context();
    let spans = bed.spans.finished();
    let mut steps: Vec<(&str, SpanId)> = spans
        .iter()
        .map(|span| (&*span.name, span.parent_span_id))
        .collect();
    steps.sort_by_key(|(name, _)| *name);
    assert_eq!(
        steps,
        [("left", request.span_id()), ("right", request.span_id())]
    );
    assert!(
        spans
            .iter()
            .all(|span| span.span_context.trace_id() == request.trace_id())
    );
}

#[tokio::test]
async fn an_ensemble_may_be_a_step() {
    let bed = Bed::new();
    let inner = Arc::new(Served::Ensemble(bed.fork()));
    bed.shelf.0.lock().insert("both".to_owned(), inner);
    let ports = |pairs: &[(&str, &str)]| {
        let own = |(port, tensor): &(&str, &str)| ((*port).to_owned(), (*tensor).to_owned());
        pairs.iter().map(own).collect()
    };
    let outer = ConfigStep {
        kind: StepKind::Model {
            name: "both".to_owned(),
            version: None,
        },
        ports: Ports {
            inputs: ports(&[("in", "a")]),
            outputs: ports(&[("r", "b")]),
        },
    };
    let ensemble = bed.ensemble(vec![outer]).unwrap();
    let answer = ensemble.infer(request(5.0, &[0]), Instant::now()).await;
    assert_eq!(answer.unwrap().outputs, [row(5.0)]);
    assert_eq!(
        bed.scripts[0].runs.lock().len(),
        0,
        "its other output was not asked for"
    );
}
