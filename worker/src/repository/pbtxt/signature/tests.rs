use super::*;

fn spec(name: &str, shape: &[i64]) -> TensorSpec {
    TensorSpec {
        name: name.to_owned(),
        datatype: DataType::Fp32,
        shape: Some(shape.to_vec()),
        optional: false,
    }
}

fn model(input: &[i64], output: &[i64]) -> Signature {
    Signature {
        inputs: vec![spec("x", input)],
        outputs: vec![spec("y", output)],
        batched: false,
    }
}

fn declared(name: &str, dims: &[i64]) -> DeclaredTensor {
    DeclaredTensor {
        name: name.to_owned(),
        datatype: DataType::Fp32,
        dims: dims.to_vec(),
        reshape: None,
        optional: false,
    }
}

fn file(batching: Batching, input: &[i64], output: &[i64]) -> Declared {
    Declared {
        batching,
        inputs: vec![declared("x", input)],
        outputs: vec![declared("y", output)],
    }
}

fn applied(declared: &Declared, mut signature: Signature) -> Result<Signature, String> {
    declared.apply("m", &mut signature).map(|()| signature)
}

#[test]
fn rows_are_what_the_file_says() {
    let rows = file(Batching::Rows(8), &[4], &[2]);
    let signature = applied(&rows, model(&[-1, 4], &[-1, 2])).unwrap();
    assert!(signature.batched);
    let mut batched = model(&[-1, 4], &[-1, 2]);
    batched.batched = true;
    let none = file(Batching::None, &[-1, 4], &[-1, 2]);
    assert!(!applied(&none, batched.clone()).unwrap().batched);
    let unsaid = Declared {
        batching: Batching::Unsaid,
        inputs: Vec::new(),
        outputs: Vec::new(),
    };
    assert_eq!(applied(&unsaid, batched.clone()), Ok(batched));
}

#[test]
fn a_shape_that_is_more_exact_than_the_models_counts() {
    let exact = file(Batching::Rows(8), &[3, 16], &[2]);
    let signature = applied(&exact, model(&[-1, 3, -1], &[-1, 2])).unwrap();
    assert_eq!(signature.inputs[0].shape, Some(vec![-1, 3, 16]));
    let vague = file(Batching::Rows(8), &[-1, -1], &[-1]);
    let signature = applied(&vague, model(&[-1, 3, 16], &[-1, 2])).unwrap();
    assert_eq!(signature.inputs[0].shape, Some(vec![-1, 3, 16]));
    assert_eq!(signature.outputs[0].shape, Some(vec![-1, 2]));
}

#[test]
fn a_scalar_may_be_declared_as_one_element() {
    let one = file(Batching::None, &[1], &[1]);
    let signature = applied(&one, model(&[], &[])).unwrap();
    assert_eq!(signature.inputs[0].shape, Some(vec![]));
    let two = applied(&file(Batching::None, &[2], &[1]), model(&[], &[]));
    assert!(
        two.unwrap_err()
            .contains("scalar tensor 'x', should only provide 1")
    );
}

#[test]
fn contradictions_are_told_as_triton_tells_them() {
    let fixed = applied(
        &file(Batching::Rows(8), &[4], &[2]),
        model(&[1, 4], &[1, 2]),
    );
    assert_eq!(
        fixed.unwrap_err(),
        "model 'm', tensor 'x': for the model to support batching the shape should have at least 1 dimension and \
         the first dimension must be -1; but shape expected by the model is [1, 4]"
    );
    let dims = applied(
        &file(Batching::Rows(8), &[5], &[2]),
        model(&[-1, 4], &[-1, 2]),
    );
    assert_eq!(
        dims.unwrap_err(),
        "model 'm', tensor 'x': the model expects 2 dimensions (shape [-1, 4]) but the model configuration specifies \
         2 dimensions (an initial batch dimension because max_batch_size > 0 followed by the explicit tensor shape, \
         making complete shape [-1, 5])"
    );
    let output = applied(&file(Batching::None, &[4], &[2, 2]), model(&[4], &[2]));
    assert!(
        output
            .unwrap_err()
            .contains("tensor 'y': the model expects 1 dimensions")
    );
    let mut datatype = file(Batching::None, &[4], &[2]);
    datatype.inputs[0].datatype = DataType::Bytes;
    assert_eq!(
        applied(&datatype, model(&[4], &[2])).unwrap_err(),
        "unable to load model 'm', configuration expects datatype TYPE_STRING for input 'x', model provides TYPE_FP32"
    );
    let mut unknown = file(Batching::None, &[4], &[2]);
    unknown.outputs[0].name = "z".to_owned();
    assert_eq!(
        applied(&unknown, model(&[4], &[2])).unwrap_err(),
        "unexpected inference output 'z', allowed outputs are: y"
    );
    let mut missing = model(&[4], &[2]);
    missing.inputs.push(spec("w", &[1]));
    assert_eq!(
        applied(&file(Batching::None, &[4], &[2]), missing).unwrap_err(),
        "unable to load model 'm', configuration expects 1 inputs, model provides 2"
    );
}
