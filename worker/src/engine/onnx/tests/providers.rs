//! Which provider runs a model, asked of the real library.

use ort::ep::ExecutionProvider as _;

use super::*;
use crate::engine::NodeShare;
use crate::engine::onnx::Optimization;

fn options(provider: Provider) -> SessionOptions {
    let config = Model {
        provider,
        ..Model::default()
    };
    SessionOptions::new(&config, 2)
}

fn chain() -> TestModel {
    let shape: Option<&[&str]> = Some(&["n"]);
    TestModel::default()
        .input("x", FLOAT, shape)
        .output("y", FLOAT, shape)
        .node("Sin", &["x"], &["s"])
        .node("Sqrt", &["s"], &["y"])
}

#[test]
fn the_nodes_are_where_they_are_said_to_be() {
    runtime();
    let model = open_with(chain(), options(Provider::Cpu)).unwrap();
    let cpu = NodeShare {
        provider: "CPUExecutionProvider".to_owned(),
        nodes: 2,
    };
    assert_eq!((model.provider, model.nodes), ("cpu", vec![cpu]));
}

#[test]
fn a_provider_that_the_library_lacks_is_an_error_that_names_the_package() {
    runtime();
    for (provider, package, available) in [
        (
            Provider::Cuda,
            "onnxruntime-gpu",
            ort::ep::CUDA::is_available(),
        ),
        (
            Provider::TensorRt,
            "onnxruntime-gpu",
            ort::ep::TensorRT::is_available(),
        ),
        (
            Provider::OpenVino,
            "onnxruntime-openvino",
            ort::ep::OpenVINO::is_available(),
        ),
    ] {
        if available.unwrap() {
            continue;
        }
        let error = open_with(chain(), options(provider)).unwrap_err();
        assert!(
            error.contains("cannot run it") && error.contains(package),
            "{error}"
        );
    }
}

#[test]
fn auto_says_nothing_of_cuda_where_the_library_has_none() {
    runtime();
    let model = open_with(chain(), options(Provider::Auto)).unwrap();
    if ort::ep::CUDA::is_available().unwrap() {
        assert_eq!(model.provider == "cpu", model.provider_note.is_some());
    } else {
        assert_eq!((model.provider, model.provider_note), ("cpu", None));
    }
}

#[test]
fn options_of_the_session_do_not_change_what_is_computed() {
    let adjustments: [fn(&mut SessionOptions); 6] = [
        |options| options.arena = false,
        |options| options.memory_pattern = true,
        |options| options.inter_op_threads = 2,
        |options| options.optimization = Optimization::Disabled,
        |options| options.optimization = Optimization::Basic,
        |options| options.optimization = Optimization::Extended,
    ];
    for adjust in adjustments {
        let mut options = options(Provider::Cpu);
        adjust(&mut options);
        let mut model = open_with(chain(), options).unwrap();
        let data = [0.0f32, 0.0];
        let output = run(&mut model, &[2], data.as_bytes()).unwrap();
        assert_eq!(&output.data[..], data.as_bytes());
    }
}

/// Where the library is OpenVINO's (`ORT_DYLIB_PATH`), the model really runs there; elsewhere the test above says
/// what is missing.
#[test]
fn openvino_runs_the_model_if_the_library_has_it() {
    runtime();
    if !ort::ep::OpenVINO::is_available().unwrap() {
        return;
    }
    let mut model = open_with(chain(), options(Provider::OpenVino)).unwrap();
    assert_eq!(model.provider, "openvino");
    let mine = |share: &NodeShare| share.provider == "OpenVINOExecutionProvider" && share.nodes > 0;
    assert!(model.nodes.iter().any(mine), "{:?}", model.nodes);
    for rows in [1usize, 3] {
        let data = vec![0.25f32.asin(); rows];
        let output = run(&mut model, &[rows as i64], data.as_bytes()).unwrap();
        let wanted: Vec<f32> = data.iter().map(|value| value.sin().sqrt()).collect();
        for (found, wanted) in output.data.as_chunks::<4>().0.iter().zip(&wanted) {
            assert!((f32::from_le_bytes(*found) - wanted).abs() < 1e-3);
        }
    }
    for (key, value) in [("no_such_option", "1"), ("device_type", "TOASTER")] {
        let mut options = options(Provider::OpenVino);
        let table = &mut options.provider_options.openvino;
        table.insert(key.to_owned(), value.to_owned());
        let error = open_with(chain(), options).unwrap_err();
        assert!(
            error.contains("provider 'openvino' cannot run it"),
            "{error}"
        );
        assert!(error.contains(key) || error.contains(value), "{error}");
    }
}
