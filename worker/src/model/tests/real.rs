//! With the real engine: a long run ends when its caller leaves.

use zerocopy::IntoBytes;

use super::*;
use crate::engine::onnx::testmodel::{FLOAT, TestModel};
use crate::engine::onnx::{SessionOptions, load, load_model};

/// Products of square matrices, one after the other: half a minute of work when they are large.
fn powers() -> TestModel {
    let names: Vec<String> = (0..=2000).map(|step| format!("x{step}")).collect();
    let shape: Option<&[&str]> = Some(&["n", "n"]);
    let model = TestModel::default()
        .input("x0", FLOAT, shape)
        .output("x2000", FLOAT, shape);
    names.windows(2).fold(model, |model, step| {
        model.node("MatMul", &[&step[0], "x0"], &[&step[1]])
    })
}

fn square(size: usize) -> InferRequest {
    let zeros = vec![0.0f32; size * size];
    InferRequest {
        inputs: vec![(
            0,
            Tensor {
                datatype: DataType::Fp32,
                shape: vec![size as i64; 2],
                data: Bytes::copy_from_slice(zeros.as_bytes()),
            },
        )],
        rows: size,
        ..request(&[])
    }
}

/// The errors of runs.
#[derive(Default)]
struct Errors(Mutex<Vec<String>>);

impl BatchObserver for Errors {
    fn batch_done(&self, report: BatchReport<'_>) {
        self.0.lock().extend(report.error.map(str::to_owned));
    }
}

#[test]
fn a_run_ends_when_its_caller_leaves() {
    let runtime = load(None).expect("these tests need ONNX Runtime");
    let config = ModelConfig {
        max_batch_size: 1,
        ..ignorant()
    };
    let path = std::env::temp_dir().join(format!("forebay-leaving-{}.onnx", std::process::id()));
    std::fs::write(&path, powers().encode()).unwrap();
    let loaded = load_model(&runtime, &path, SessionOptions::new(&config, 1)).unwrap();
    let errors: Arc<Errors> = Arc::default();
    let spec = ModelSpec {
        name: "powers".to_owned(),
        version: 1,
        config,
        labels: Labels::default(),
        seats: Vec::new(),
        max_answer_bytes: usize::MAX,
        said: None,
        observer: Arc::clone(&errors) as Arc<dyn BatchObserver>,
    };
    let model = Model::start(loaded, spec).unwrap();
    std::fs::remove_file(&path).unwrap();

    let begin = Instant::now();
    // The caller may leave before the run has begun; then a more patient one is tried.
    for patience in 0.. {
        let large = model.submit(square(768), Instant::now()).unwrap();
        while model.statistics().queued_requests > 0 {
            std::thread::yield_now();
        }
        (0..patience * 1000).for_each(|_| std::thread::yield_now());
        drop(large);
        let next = model.submit(square(1), Instant::now()).unwrap();
        echo(next);
        if !errors.0.lock().is_empty() {
            break;
        }
    }
    let took = begin.elapsed();
    assert_eq!(*errors.0.lock(), ["the run was interrupted"]);
    assert!(
        took < Duration::from_secs(20),
        "runs went to their ends: {took:?}"
    );
    let statistics = model.statistics();
    assert_eq!(statistics.fail.count, 0);
    assert_eq!(
        statistics.cancelled + statistics.success.count,
        statistics.submitted
    );
    assert!(statistics.terminated >= 1);
}
