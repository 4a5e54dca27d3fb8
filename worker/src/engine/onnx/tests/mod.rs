//! The real ONNX Runtime on tiny models. Needs the library; without it these tests fail and say so.

mod interrupt;
mod overhead;
mod providers;
mod sharing;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use forebay_config::worker::{Model, Provider};
use forebay_proto::tensor::{DataType, encode_bytes_element};
use half::{bf16, f16};
use zerocopy::IntoBytes;

use crate::engine::onnx::testmodel::{FLOAT, FLOAT16, INT64, STRING, TestModel};
use crate::engine::onnx::{Runtime, SessionOptions, load, load_model};
use crate::engine::{BoundTensor, EngineError, LoadedModel};
use crate::inference::Tensor;

const BFLOAT16: i32 = 16;
const BOOL: i32 = 9;

fn runtime() -> Runtime {
    load(None)
        .map_err(|error| error.to_string())
        .expect("these tests need ONNX Runtime")
}

/// Writes the model into a file of its own and loads it.
fn try_open(model: TestModel, provider: Provider) -> Result<LoadedModel, String> {
    let config = Model {
        provider,
        ..Model::default()
    };
    open_with(model, SessionOptions::new(&config, 1))
}

fn open_with(model: TestModel, options: SessionOptions) -> Result<LoadedModel, String> {
    let runtime = runtime();
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::SeqCst);
    let path: PathBuf =
        std::env::temp_dir().join(format!("forebay-onnx-{}-{number}.onnx", std::process::id()));
    std::fs::write(&path, model.encode()).unwrap();
    let loaded = load_model(&runtime, &path, options);
    std::fs::remove_file(&path).unwrap();
    loaded
}

fn open(model: TestModel) -> LoadedModel {
    try_open(model, Provider::Cpu).unwrap()
}

fn identity(element: i32, shape: Option<&[&str]>) -> TestModel {
    TestModel::default()
        .input("x", element, shape)
        .output("y", element, shape)
        .node("Identity", &["x"], &["y"])
}

fn run(model: &mut LoadedModel, shape: &[i64], data: &[u8]) -> Result<Tensor, EngineError> {
    let mut storage = vec![0u64; data.len().div_ceil(8)];
    let aligned = &mut storage.as_mut_bytes()[..data.len()];
    aligned.copy_from_slice(data);
    let input = BoundTensor {
        input: 0,
        datatype: model.signature.inputs[0].datatype,
        shape: shape.to_vec(),
        data: aligned,
    };
    model
        .first
        .run(&[input], &[0])
        .map(|mut outputs| outputs.remove(0))
}

fn framed(elements: &[&str]) -> Vec<u8> {
    let mut data = Vec::new();
    for element in elements {
        encode_bytes_element(element.as_bytes(), &mut data).unwrap();
    }
    data
}

#[test]
fn the_library_tells_its_version() {
    let runtime = runtime();
    assert!(runtime.version().starts_with("1."), "{}", runtime.version());
    assert!(runtime.path().is_absolute());
}

#[test]
fn numbers_of_every_width_come_back_as_they_went() {
    let cases: [(i32, DataType, Vec<u8>); 14] = [
        (FLOAT, DataType::Fp32, [1.5f32, -2.0].as_bytes().to_vec()),
        (2, DataType::Uint8, vec![1, 255]),
        (3, DataType::Int8, vec![1, 255]),
        (4, DataType::Uint16, [1u16, 65535].as_bytes().to_vec()),
        (5, DataType::Int16, [1i16, -2].as_bytes().to_vec()),
        (6, DataType::Int32, [1i32, -2].as_bytes().to_vec()),
        (INT64, DataType::Int64, [1i64, i64::MIN].as_bytes().to_vec()),
        (STRING, DataType::Bytes, framed(&["", "grüß"])),
        (BOOL, DataType::Bool, vec![0, 1]),
        (
            FLOAT16,
            DataType::Fp16,
            [f16::from_f32(1.5), f16::NEG_INFINITY].as_bytes().to_vec(),
        ),
        (11, DataType::Fp64, [1.5f64, -2.0].as_bytes().to_vec()),
        (12, DataType::Uint32, [1u32, u32::MAX].as_bytes().to_vec()),
        (13, DataType::Uint64, [1u64, u64::MAX].as_bytes().to_vec()),
        (
            BFLOAT16,
            DataType::Bf16,
            [bf16::from_f32(1.5), bf16::MAX].as_bytes().to_vec(),
        ),
    ];
    for (element, datatype, data) in cases {
        let mut model = open(identity(element, Some(&["n"])));
        assert_eq!(model.signature.inputs[0].datatype, datatype);
        assert!(model.signature.batched, "{datatype}");
        let output = run(&mut model, &[2], &data).unwrap();
        assert_eq!(
            (output.datatype, &output.shape[..], &output.data[..]),
            (datatype, &[2][..], &data[..])
        );
        let empty = run(&mut model, &[0], &[]).unwrap();
        assert_eq!(
            (&empty.shape[..], empty.data.len()),
            (&[0][..], 0),
            "{datatype}"
        );
    }
}

#[test]
fn fp16_is_computed() {
    let shape: Option<&[&str]> = Some(&["n"]);
    let add = TestModel::default()
        .input("x", FLOAT16, shape)
        .output("y", FLOAT16, shape)
        .node("Add", &["x", "x"], &["y"]);
    let halves = [f16::from_f32(1.5), f16::from_f32(-3.0)];
    let output = run(&mut open(add), &[2], halves.as_bytes()).unwrap();
    assert_eq!(
        &output.data[..],
        [f16::from_f32(3.0), f16::from_f32(-6.0)].as_bytes()
    );
}

#[test]
fn what_is_left_out_by_what_an_input_holds_is_not_predictable() {
    let shape: Option<&[&str]> = Some(&["n"]);
    let branch = |operator| {
        TestModel::default()
            .output("z", FLOAT, shape)
            .node(operator, &["x"], &["z"])
    };
    let either = TestModel::default()
        .input("so", BOOL, Some(&[]))
        .input("x", FLOAT, shape)
        .output("y", FLOAT, shape)
        .node("If", &["so"], &["y"])
        .running("then_branch", branch("Identity"))
        .running("else_branch", branch("Neg"));
    assert!(!open(either).predictable);
    assert!(open(identity(FLOAT, shape)).predictable);
}

#[test]
fn scalars_have_no_dimensions() {
    let mut model = open(identity(FLOAT, Some(&[])));
    assert_eq!(model.signature.inputs[0].shape, Some(vec![]));
    assert!(!model.signature.batched);
    let output = run(&mut model, &[], 7.0f32.as_bytes()).unwrap();
    assert_eq!(
        (output.shape.len(), &output.data[..]),
        (0, 7.0f32.as_bytes())
    );
    let mut strings = open(identity(STRING, Some(&[])));
    assert_eq!(
        &run(&mut strings, &[], &framed(&["a"])).unwrap().data[..],
        framed(&["a"])
    );
}

#[test]
fn an_unknown_rank_takes_any_shape() {
    let mut model = open(identity(FLOAT, None));
    assert_eq!(model.signature.inputs[0].shape, None);
    assert_eq!(model.signature.outputs[0].shape, None);
    assert!(!model.signature.batched);
    let data = [1.0f32, 2.0].as_bytes().to_vec();
    assert_eq!(run(&mut model, &[1, 2], &data).unwrap().shape, [1, 2]);
    assert_eq!(run(&mut model, &[2, 1, 1], &data).unwrap().shape, [2, 1, 1]);
}

#[test]
fn zero_sized_dimensions_are_tensors_too() {
    let mut model = open(identity(FLOAT, Some(&["n", "0", "3"])));
    assert_eq!(run(&mut model, &[4, 0, 3], &[]).unwrap().shape, [4, 0, 3]);
}

#[test]
fn only_wanted_outputs_are_computed_and_come_in_order() {
    let shape: Option<&[&str]> = Some(&["n"]);
    let two = TestModel::default()
        .input("x", FLOAT, shape)
        .output("same", FLOAT, shape)
        .output("negative", FLOAT, shape)
        .node("Identity", &["x"], &["same"])
        .node("Neg", &["x"], &["negative"]);
    let mut model = open(two);
    let data = [3.0f32];
    let input = || BoundTensor {
        input: 0,
        datatype: DataType::Fp32,
        shape: vec![1],
        data: data.as_bytes(),
    };
    let only = model.first.run(&[input()], &[1]).unwrap();
    assert_eq!(only.len(), 1);
    assert_eq!(&only[0].data[..], (-3.0f32).as_bytes());
    let both = model.first.run(&[input()], &[0, 1]).unwrap();
    assert_eq!(&both[0].data[..], 3.0f32.as_bytes());
    assert_eq!(&both[1].data[..], (-3.0f32).as_bytes());
}

#[test]
fn a_large_output_outlives_its_session() {
    let mut model = open(identity(FLOAT, Some(&["n"])));
    let data = vec![3.0f32; 1 << 16];
    let output = run(&mut model, &[1 << 16], data.as_bytes()).unwrap();
    let next = run(&mut model, &[1 << 16], &vec![0; 1 << 18]).unwrap();
    drop(model);
    assert_eq!(&output.data[..], data.as_bytes());
    assert!(next.data.iter().all(|byte| *byte == 0));
}

#[test]
fn inputs_with_a_default_may_be_left_out() {
    let shape: Option<&[&str]> = Some(&["n", "2"]);
    let bias = TestModel::default()
        .input("x", FLOAT, shape)
        .input("bias", FLOAT, Some(&["2"]))
        .constant("bias", &[2], &[10.0, 20.0])
        .output("y", FLOAT, shape)
        .node("Add", &["x", "bias"], &["y"]);
    let mut model = open(bias);
    let inputs = &model.signature.inputs;
    assert_eq!(
        inputs
            .iter()
            .map(|spec| (spec.name.as_str(), spec.optional))
            .collect::<Vec<_>>(),
        [("x", false), ("bias", true)]
    );
    assert!(model.signature.batched, "a default has no say in that");
    let output = run(&mut model, &[1, 2], [1.0f32, 2.0].as_bytes()).unwrap();
    assert_eq!(&output.data[..], [11.0f32, 22.0].as_bytes());
    let (x, other) = ([1.0f32, 2.0], [0.5f32, 0.5]);
    let bind = |input, shape: &[i64], data| BoundTensor {
        input,
        datatype: DataType::Fp32,
        shape: shape.to_vec(),
        data,
    };
    let inputs = [
        bind(0, &[1, 2], x.as_bytes()),
        bind(1, &[2], other.as_bytes()),
    ];
    let output = model.first.run(&inputs, &[0]).unwrap();
    assert_eq!(&output[0].data[..], [1.5f32, 2.5].as_bytes());
}

#[test]
fn an_index_out_of_range_is_the_callers_fault() {
    let gather = TestModel::default()
        .input("x", INT64, Some(&["n"]))
        .constant("table", &[3], &[1.0, 2.0, 3.0])
        .output("y", FLOAT, Some(&["n"]))
        .node("Gather", &["table", "x"], &["y"]);
    let mut model = open(gather);
    assert_eq!(
        &run(&mut model, &[1], 2i64.as_bytes()).unwrap().data[..],
        3.0f32.as_bytes()
    );
    let error = run(&mut model, &[1], 99i64.as_bytes()).unwrap_err();
    assert!(
        matches!(&error, EngineError::InvalidInput(text) if text.contains("99")),
        "{error:?}"
    );
    assert!(
        run(&mut model, &[1], 0i64.as_bytes()).is_ok(),
        "still usable"
    );
}

#[test]
fn shapes_that_do_not_fit_together_are_the_callers_fault() {
    let add = TestModel::default()
        .input("x", FLOAT, Some(&["n"]))
        .input("z", FLOAT, Some(&["m"]))
        .output("y", FLOAT, Some(&["k"]))
        .node("Add", &["x", "z"], &["y"]);
    let mut model = open(add);
    assert!(
        !model.signature.batched,
        "the dimensions have different names"
    );
    let data = [0.0f32; 3];
    let bind = |input, size: usize| BoundTensor {
        input,
        datatype: DataType::Fp32,
        shape: vec![size as i64],
        data: data[..size].as_bytes(),
    };
    let error = model
        .first
        .run(&[bind(0, 2), bind(1, 3)], &[0])
        .unwrap_err();
    assert!(matches!(error, EngineError::InvalidInput(_)), "{error:?}");
    let error = run(
        &mut open(identity(FLOAT, Some(&["n", "4"]))),
        &[1, 2],
        data[..2].as_bytes(),
    )
    .unwrap_err();
    assert!(matches!(error, EngineError::InvalidInput(_)), "{error:?}");
}

#[test]
fn what_cannot_be_served_says_why() {
    let sequence = TestModel::default()
        .sequence_input("x", FLOAT)
        .output("y", INT64, Some(&[]))
        .node("SequenceLength", &["x"], &["y"]);
    let error = try_open(sequence, Provider::Cpu).unwrap_err();
    assert!(
        error.contains("input 'x'") && error.contains("only tensors"),
        "{error}"
    );

    let complex = identity(14, Some(&["n"]));
    assert!(try_open(complex, Provider::Cpu).is_err());

    let unknown = TestModel::default()
        .input("x", FLOAT, None)
        .output("y", FLOAT, None)
        .node("NoSuchOperator", &["x"], &["y"]);
    let error = try_open(unknown, Provider::Cpu).unwrap_err();
    assert!(
        error.contains("NoSuchOperator") && !error.contains('\n'),
        "{error}"
    );
}
