//! Several instances of one model: what they share and what they do not.

use std::sync::Arc;

use super::*;
use crate::engine::{Engine, Interrupt};

#[test]
fn instances_on_the_cpu_share_a_session_as_long_as_one_lives() {
    let mut model = open(identity(FLOAT, Some(&["n"])));
    let data = [1.0f32, 2.0];
    run(&mut model, &[2], data.as_bytes()).unwrap();
    let bytes = (model.memory_bytes)();
    assert!(bytes > 0);
    model.first = (model.factory)(1).unwrap();
    let output = run(&mut model, &[2], data.as_bytes()).unwrap();
    assert_eq!(&output.data[..], data.as_bytes());
    assert_eq!((model.memory_bytes)(), bytes, "there is one session");

    drop(std::mem::replace(&mut model.first, Box::new(Nothing)));
    assert_eq!((model.memory_bytes)(), 0);
    // The file is gone by now, as it may be in life; the reason is told.
    let error = (model.factory)(0).err().unwrap();
    assert!(error.contains("does not exist"), "{error}");
}

/// An instance that was let go.
struct Nothing;

impl Engine for Nothing {
    fn run(&mut self, _: &[BoundTensor<'_>], _: &[usize]) -> Result<Vec<Tensor>, EngineError> {
        Err(EngineError::Failed("gone".to_owned()))
    }

    fn interrupter(&self) -> Option<Arc<dyn Interrupt>> {
        None
    }
}

#[test]
fn instances_run_at_the_same_time_and_do_not_mix_up_their_rows() {
    let shape: Option<&[&str]> = Some(&["n", "64"]);
    let weights: Vec<f32> = (0..64 * 64).map(|value| (value % 7) as f32).collect();
    let products = TestModel::default()
        .input("x", FLOAT, shape)
        .output("y", FLOAT, shape)
        .constant("w", &[64, 64], &weights)
        .node("MatMul", &["x", "w"], &["y"]);
    let model = open(products);
    let mut engines = vec![model.first];
    engines.extend((1..4).map(|number| (model.factory)(number).unwrap()));
    std::thread::scope(|scope| {
        for (number, engine) in engines.iter_mut().enumerate() {
            let weights = &weights;
            scope.spawn(move || {
                for turn in 0..200 {
                    // Row i picks one row of the weights.
                    let rows = 1 + turn % 5;
                    let picked = |row: usize| (number * 13 + turn + row) % 64;
                    let mut data = vec![0.0f32; rows * 64];
                    (0..rows).for_each(|row| data[row * 64 + picked(row)] = 1.0);
                    let input = BoundTensor {
                        input: 0,
                        datatype: DataType::Fp32,
                        shape: vec![rows as i64, 64],
                        data: data.as_bytes(),
                    };
                    let output = engine.run(&[input], &[0]).unwrap().remove(0);
                    for row in 0..rows {
                        let wanted = &weights[picked(row) * 64..][..64];
                        assert_eq!(&output.data[row * 256..][..256], wanted.as_bytes());
                    }
                }
            });
        }
    });
}

#[test]
fn memory_is_at_least_that_of_the_weights() {
    let weights = vec![1.0f32; 1 << 20];
    let model = TestModel::default()
        .input("x", FLOAT, Some(&["n", "1024"]))
        .output("y", FLOAT, Some(&["n", "1024"]))
        .constant("w", &[1024, 1024], &weights)
        .node("MatMul", &["x", "w"], &["y"]);
    let model = open(model);
    let bytes = (model.memory_bytes)();
    assert!((4 << 20..32 << 20).contains(&bytes), "{bytes}");
}
