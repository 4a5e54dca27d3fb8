//! A repository on disk, loaded by the real ONNX Runtime.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use forebay_config::worker::{Model as ModelConfig, Provider, VersionPolicy};
use forebay_proto::tensor::DataType;
use parking_lot::Mutex;

use super::*;
use crate::batch::report::NoObserver;
use crate::engine::onnx;
use crate::engine::onnx::testmodel::{FLOAT, INT64, TestModel};
use crate::inference::{InferError, InferRequest, Tensor};
use crate::repository::layout::MODEL_FILE;
use crate::repository::lifecycle::ModelState;
use crate::repository::registry::LookupError;
use crate::telemetry::spans::Tracing;

mod changes;
mod ensembles;
mod memory;

type Events = Arc<Mutex<Vec<String>>>;

struct Repository(PathBuf);

impl Repository {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        let path = std::env::temp_dir().join(format!(
            "forebay-repository-{}-{number}",
            std::process::id()
        ));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn with(self, name: &str, version: &str, model: &[u8]) -> Self {
        let folder = self.0.join(name).join(version);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(MODEL_FILE), model).unwrap();
        self
    }

    fn worker(&self) -> Worker {
        let mut worker = Worker::default_for(self.0.clone());
        worker.defaults = ModelConfig {
            max_batch_size: 8,
            provider: Provider::Cpu,
            ..worker.defaults
        };
        worker.threads = Some(1);
        worker
    }

    /// A loader that nobody gave a command yet; what it tells is noted in `events`.
    fn loader(&self, worker: Worker, events: &Events) -> Loader {
        let events = Arc::clone(events);
        let note = move |event: LoadEvent<'_>| {
            events.lock().push(match event {
                LoadEvent::Started { name, version } => format!("start {name} {version}"),
                LoadEvent::Ready { name, provider, .. } => format!("ready {name} {provider}"),
                LoadEvent::Failed { name, version, .. } => format!("failed {name} {version:?}"),
                LoadEvent::LetGo { name, version } => format!("let go {name} {version}"),
            });
        };
        let registry = Arc::new(Registry::new());
        Loader {
            ensembles: Ensembles::new(&registry, Tracing::default()),
            retirement: Retirement::new(&registry).unwrap(),
            registry,
            runtime: onnx::load(None)
                .map_err(|error| error.to_string())
                .expect("these tests need ONNX Runtime"),
            config: worker,
            observer: Arc::new(NoObserver),
            tell: Box::new(note),
            memory: None,
            watch: Watch::default(),
        }
    }

    /// Everything that is served from the start is loaded.
    fn started(&self, worker: Worker) -> Loader {
        let mut loader = self.loader(worker, &Events::default());
        loader.start().unwrap();
        loader
    }

    fn load(&self, worker: &Worker, events: &Events) -> Arc<Registry> {
        let mut loader = self.loader(worker.clone(), events);
        loader.start().unwrap();
        loader.registry
    }
}

impl Drop for Repository {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn negate() -> Vec<u8> {
    let shape: Option<&[&str]> = Some(&["batch", "2"]);
    TestModel::default()
        .input("x", FLOAT, shape)
        .output("y", FLOAT, shape)
        .node("Neg", &["x"], &["y"])
        .encode()
}

/// Looks rows of two up in a table of three.
fn lookup() -> Vec<u8> {
    TestModel::default()
        .input("x", INT64, Some(&["batch"]))
        .constant("table", &[3, 2], &[0.0, 1.0, 10.0, 11.0, 20.0, 21.0])
        .output("y", FLOAT, Some(&["batch", "2"]))
        .node("Gather", &["table", "x"], &["y"])
        .encode()
}

fn token(value: i64) -> InferRequest {
    InferRequest {
        inputs: vec![(
            0,
            Tensor {
                datatype: DataType::Int64,
                shape: vec![1],
                data: Bytes::copy_from_slice(&value.to_le_bytes()),
            },
        )],
        outputs: vec![0],
        rows: 1,
        deadline: None,
        priority: 0,
        trace: None,
    }
}

#[test]
fn every_model_is_loaded_and_a_broken_one_changes_nothing_else() {
    let repository = Repository::new()
        .with("a", "1", &negate())
        .with("broken", "2", b"not a model")
        .with("c", "1", &lookup());
    std::fs::create_dir_all(repository.0.join("empty")).unwrap();
    let events = Events::default();
    let registry = repository.load(&repository.worker(), &events);
    let expected = [
        "start a 1",
        "ready a cpu",
        "start broken 2",
        "failed broken Some(2)",
        "start c 1",
        "ready c cpu",
        "failed empty None",
    ];
    assert_eq!(*events.lock(), expected);
    assert!(registry.ready());
    let index = registry.index();
    let states: Vec<_> = index
        .iter()
        .map(|entry| (entry.name.as_str(), entry.version, entry.state))
        .collect();
    let expected = [
        ("a", Some(1), ModelState::Ready),
        ("broken", Some(2), ModelState::Unavailable),
        ("c", Some(1), ModelState::Ready),
        ("empty", None, ModelState::Unavailable),
    ];
    assert_eq!(states, expected);
    assert!(
        index[0].reason.is_empty()
            && !index[1].reason.is_empty()
            && index[3].reason.contains("no version")
    );
    assert_eq!(registry.models().len(), 2);
    assert!(matches!(
        registry.get("broken", ""),
        Err(LookupError::NotReady { .. })
    ));
}

#[test]
fn versions_are_looked_up_and_the_latest_is_served() {
    let repository = Repository::new()
        .with("a", "9", b"old")
        .with("a", "10", &negate());
    let registry = repository.load(&repository.worker(), &Events::default());
    assert_eq!(registry.get("a", "").unwrap().version(), 10);
    assert_eq!(registry.get("a", "10").unwrap().version(), 10);
    for version in ["9", "11", "x", "010"] {
        let error = registry.get("a", version).unwrap_err();
        assert!(
            matches!(error, LookupError::UnknownVersion { .. }),
            "{error}"
        );
    }
    assert_eq!(
        registry.get("b", "").unwrap_err().to_string(),
        "unknown model 'b'"
    );
}

#[test]
fn an_empty_registry_is_not_ready_and_says_so() {
    let registry = Registry::new();
    assert!(!registry.ready());
    assert!(matches!(
        registry.get("a", ""),
        Err(LookupError::NotReady { .. })
    ));
}

#[test]
fn a_repository_that_is_not_there_is_an_error() {
    let worker = Worker::default_for(PathBuf::from("/nonexistent/models"));
    let mut loader = Repository::new().loader(worker, &Events::default());
    let error = loader.start().unwrap_err();
    assert!(error.contains("/nonexistent/models"), "{error}");
}

#[test]
fn when_all_models_are_broken_the_worker_is_not_ready() {
    let repository = Repository::new().with("a", "1", b"");
    let registry = repository.load(&repository.worker(), &Events::default());
    assert!(!registry.ready());
}

#[test]
fn a_bad_token_does_not_harm_its_neighbours() {
    let repository = Repository::new().with("lookup", "1", &lookup());
    let mut worker = repository.worker();
    worker.defaults.max_queue_delay = Duration::from_secs(60);
    worker.defaults.learn_batch_size = false;
    let registry = repository.load(&worker, &Events::default());
    let model = registry.get("lookup", "").unwrap();
    assert!(model.signature().batched);
    // The delay keeps them together until the batch of eight is full.
    let tokens = [0, 1, 2, 99, 2, 1, 0, 1];
    let queued = model.model().unwrap();
    let answers = tokens.map(|value| (value, queued.submit(token(value), Instant::now()).unwrap()));
    for (value, answer) in answers {
        match answer.blocking_recv().unwrap() {
            Ok(response) => {
                let row: Vec<u8> = [value as f32 * 10.0, value as f32 * 10.0 + 1.0]
                    .iter()
                    .flat_map(|x| x.to_le_bytes())
                    .collect();
                assert_eq!(
                    (
                        &response.outputs[0].shape[..],
                        &response.outputs[0].data[..]
                    ),
                    (&[1, 2][..], &row[..])
                );
            }
            Err(error) => assert!(
                value == 99 && matches!(error, InferError::InvalidInput(_)),
                "{value}: {error}"
            ),
        }
    }
    let statistics = model.statistics();
    assert_eq!((statistics.success.count, statistics.fail.count), (7, 1));
    assert!(
        statistics.batch_sizes.keys().any(|rows| *rows > 1),
        "{:?}",
        statistics.batch_sizes
    );
    assert!(!statistics.curve.is_empty(), "warm-up taught nothing");
}

#[test]
fn a_model_that_mixes_rows_is_not_batched() {
    // Equal rows come out once; how many there will be the graph cannot say.
    let mixing = TestModel::default()
        .input("x", FLOAT, Some(&["batch"]))
        .output("y", FLOAT, Some(&["rows"]))
        .node("Unique", &["x"], &["y"])
        .encode();
    let repository = Repository::new().with("mixing", "1", &mixing);
    let registry = repository.load(&repository.worker(), &Events::default());
    let model = registry.get("mixing", "").unwrap();
    assert!(
        model.signature().batched,
        "the signature alone does not tell"
    );
    assert_eq!(model.statistics().best_size, 1);
}

#[test]
fn after_shutdown_nothing_is_taken() {
    let repository = Repository::new().with("lookup", "1", &lookup());
    let registry = repository.load(&repository.worker(), &Events::default());
    let model = registry.get("lookup", "").unwrap();
    registry.shutdown();
    assert!(!registry.ready());
    assert!(matches!(
        model.model().unwrap().submit(token(0), Instant::now()),
        Err(InferError::Unavailable(_))
    ));
}

/// Adds `amount` to two columns.
fn add(amount: f32) -> Vec<u8> {
    let shape: Option<&[&str]> = Some(&["batch", "2"]);
    TestModel::default()
        .input("x", FLOAT, shape)
        .constant("amount", &[1], &[amount])
        .output("y", FLOAT, shape)
        .node("Add", &["x", "amount"], &["y"])
        .encode()
}

/// What the model answers to zeros: by how much it adds.
fn amount(registry: &Registry, name: &str, version: &str) -> f32 {
    let served = registry.get(name, version).unwrap();
    let request = InferRequest {
        inputs: vec![(
            0,
            Tensor {
                datatype: DataType::Fp32,
                shape: vec![1, 2],
                data: Bytes::from_static(&[0; 8]),
            },
        )],
        ..token(0)
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let answer = runtime.block_on(served.infer(request, Instant::now()));
    let response = answer.unwrap();
    let first = response.outputs[0].data.first_chunk::<4>().unwrap();
    f32::from_le_bytes(*first)
}

fn states(registry: &Registry) -> Vec<(String, Option<u64>, ModelState)> {
    let entries = registry.index().into_iter();
    entries
        .map(|entry| (entry.name, entry.version, entry.state))
        .collect()
}

/// Returns when the index says so.
fn wait_for(registry: &Registry, wanted: &[(&str, u64, ModelState)]) {
    let wanted: Vec<_> = wanted
        .iter()
        .map(|(name, version, state)| ((*name).to_owned(), Some(*version), *state))
        .collect();
    let mut changes = registry.changes();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        while states(registry) != wanted {
            changes.changed().await.unwrap();
        }
    });
}
