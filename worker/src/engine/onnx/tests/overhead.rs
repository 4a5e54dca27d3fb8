//! What the engine adds to a run of ONNX Runtime. Measured on request, not judged: machines differ.
//!
//! `CARGO_PROFILE_TEST_OPT_LEVEL=3 cargo test -p forebay-worker --lib overhead -- --ignored --nocapture`

use std::time::{Duration, Instant};

use ort::session::Session;
use ort::value::TensorRef;

use super::*;

const RUNS: usize = 2000;

fn sum(dims: &[&str]) -> TestModel {
    TestModel::default()
        .input("x", FLOAT, Some(dims))
        .output("y", FLOAT, Some(dims))
        .node("Add", &["x", "x"], &["y"])
}

/// The median of many runs.
fn median(mut run: impl FnMut()) -> Duration {
    let mut times: Vec<Duration> = (0..RUNS)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed()
        })
        .collect();
    times.sort();
    times[RUNS / 2]
}

#[test]
#[ignore = "a measurement"]
fn over_the_session_alone() {
    for rows in [1i64, 32, 512, 4096] {
        let shape = [rows, 384];
        let data = vec![1.0f32; (rows * 384) as usize];
        let path =
            std::env::temp_dir().join(format!("forebay-overhead-{}.onnx", std::process::id()));
        std::fs::write(&path, sum(&["n", "384"]).encode()).unwrap();
        let mut session = Session::builder(&runtime().environment)
            .unwrap()
            .with_intra_threads(1)
            .unwrap()
            .with_memory_pattern(false)
            .unwrap()
            .commit_from_file(&path)
            .unwrap();
        let raw = median(|| {
            let input = TensorRef::from_array_view((shape, &data[..])).unwrap();
            let outputs = session.run(ort::inputs![input]).unwrap();
            assert_eq!(outputs.len(), 1);
        });
        let mut model = open(sum(&["n", "384"]));
        // An answer is still being read while the next run is on.
        let mut reading = Vec::new();
        let engine = median(|| {
            let input = BoundTensor {
                input: 0,
                datatype: DataType::Fp32,
                shape: shape.to_vec(),
                data: data.as_bytes(),
            };
            let outputs = model.first.run(&[input], &[0]).unwrap();
            assert_eq!(outputs.len(), 1);
            reading = outputs;
        });
        assert_eq!(reading[0].data.len(), data.len() * 4);
        std::fs::remove_file(&path).unwrap();
        println!(
            "{:>8} bytes out: session {raw:>10.2?}, engine {engine:>10.2?}",
            data.len() * 4
        );
    }
}
