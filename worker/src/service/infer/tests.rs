//! Requests that are right, and every way of being wrong.

use forebay_proto::inference::InferTensorContents;

use super::*;

/// Nothing lies in shared memory.
static NOT_SHARED: Shared = Shared {
    inputs: Vec::new(),
    outputs: Vec::new(),
};

fn spec(name: &str, datatype: DataType, shape: &[i64]) -> TensorSpec {
    TensorSpec {
        name: name.to_owned(),
        datatype,
        shape: Some(shape.to_vec()),
        optional: false,
    }
}

fn signature(inputs: Vec<TensorSpec>, batched: bool) -> Signature {
    let outputs = vec![
        spec("y", DataType::Fp32, &[-1, 10]),
        spec("z", DataType::Int64, &[-1]),
    ];
    Signature {
        inputs,
        outputs,
        batched,
    }
}

fn mlp() -> Signature {
    signature(vec![spec("x", DataType::Fp32, &[-1, 4])], true)
}

fn target(signature: &Signature) -> Target<'_> {
    Target {
        model: "mlp",
        signature,
        max_rows: Some(32),
        shared: &NOT_SHARED,
    }
}

fn input(name: &str, datatype: &str, shape: &[i64]) -> InferInputTensor {
    InferInputTensor {
        name: name.to_owned(),
        datatype: datatype.to_owned(),
        shape: shape.to_vec(),
        ..InferInputTensor::default()
    }
}

fn request(inputs: Vec<InferInputTensor>, raw: &[usize]) -> ModelInferRequest {
    ModelInferRequest {
        model_name: "mlp".to_owned(),
        inputs,
        raw_input_contents: raw
            .iter()
            .map(|length| Bytes::from(vec![0; *length]))
            .collect(),
        ..ModelInferRequest::default()
    }
}

fn refused(signature: &Signature, mut request: ModelInferRequest) -> String {
    match tensors(target(signature), &mut request) {
        Err(Fault::Invalid(text)) => text,
        other => panic!("wanted an invalid request, got {other:?}"),
    }
}

#[test]
fn raw_and_typed_inputs_become_the_same_tensors() {
    let mut raw = request(vec![input("x", "FP32", &[2, 4])], &[32]);
    let slice = raw.raw_input_contents[0].clone();
    let from_raw = tensors(target(&mlp()), &mut raw).unwrap();
    assert_eq!(from_raw.inputs[0].1.data.as_ptr(), slice.as_ptr());
    assert_eq!((from_raw.rows, &from_raw.outputs[..]), (2, &[0, 1][..]));

    let mut typed = request(vec![input("x", "FP32", &[2, 4])], &[]);
    typed.inputs[0].contents = Some(InferTensorContents {
        fp32_contents: vec![0.0; 8],
        ..Default::default()
    });
    assert_eq!(tensors(target(&mlp()), &mut typed).unwrap(), from_raw);
}

#[test]
fn what_contradicts_the_model_is_refused_in_tritons_words() {
    let x = |shape: &[i64]| vec![input("x", "FP32", shape)];
    let cases = [
        (
            request(vec![], &[]),
            "expected 1 inputs but got 0 inputs for model 'mlp'. Got input(s) [], but missing required input(s) ['x']",
        ),
        (
            request(vec![input("zz", "FP32", &[1, 4])], &[16]),
            "unexpected inference input 'zz' for model 'mlp'",
        ),
        (
            request([x(&[1, 4]), x(&[1, 4])].concat(), &[16, 16]),
            "input 'x' already exists in request",
        ),
        (
            request(vec![input("x", "INT64", &[1, 4])], &[32]),
            "inference input 'x' data-type is 'INT64', but model 'mlp' expects 'FP32'",
        ),
        (
            request(vec![input("x", "FP99", &[1, 4])], &[16]),
            "data-type is 'FP99'",
        ),
        (
            request(x(&[1, 3]), &[12]),
            "unexpected shape for input 'x' for model 'mlp'. Expected [-1,4], got [1,3]",
        ),
        (request(x(&[4]), &[16]), "Expected [-1,4], got [4]"),
        (request(x(&[]), &[4]), "Expected [-1,4], got []"),
        (request(x(&[-1, 4]), &[16]), "negative dimension -1"),
        (request(x(&[i64::MIN, 4]), &[16]), "negative dimension"),
        (request(x(&[1 << 40, 1 << 40]), &[16]), "unexpected shape"),
        (
            request(x(&[1 << 62, 4]), &[16]),
            "more elements than 64 bits can count",
        ),
        (
            request(x(&[1 << 60, 4]), &[16]),
            "input byte size mismatch for input 'x' for model 'mlp'. Expected 18446744073709551616, got 16",
        ),
        (request(x(&[1, 4]), &[15]), "Expected 16, got 15"),
        (request(x(&[1, 4]), &[17]), "Expected 16, got 17"),
        (
            request(x(&[1, 4]), &[]),
            "4 elements by its shape, but 0 were given",
        ),
        (
            request(x(&[1, 4]), &[16, 4]),
            "expected 1 entries in raw_input_contents, one for each input, but got 2",
        ),
        (
            request(x(&[33, 4]), &[33 * 16]),
            "inference request batch-size must be <= 32 for 'mlp'",
        ),
    ];
    for (request, want) in cases {
        let text = refused(&mlp(), request);
        assert!(text.contains(want), "'{text}' does not say '{want}'");
    }
}

#[test]
fn raw_and_typed_together_are_refused() {
    let mut both = request(vec![input("x", "FP32", &[1, 4])], &[16]);
    both.inputs[0].contents = Some(InferTensorContents {
        fp32_contents: vec![0.5; 4],
        ..Default::default()
    });
    assert_eq!(
        refused(&mlp(), both),
        "contents field must not be specified when using raw_input_contents for 'x' for model 'mlp'"
    );
}

#[test]
fn rows_of_all_inputs_agree() {
    let two = signature(
        vec![
            spec("a", DataType::Fp32, &[-1]),
            spec("b", DataType::Int64, &[-1, 2]),
        ],
        true,
    );
    let sent = |a, b| vec![input("b", "INT64", &[b, 2]), input("a", "FP32", &[a])];
    let text = refused(&two, request(sent(2, 3), &[48, 8]));
    assert!(text.contains("batch size does not match"), "{text}");
    let found = tensors(target(&two), &mut request(sent(3, 3), &[48, 12])).unwrap();
    let order: Vec<usize> = found.inputs.iter().map(|(index, _)| *index).collect();
    assert_eq!((found.rows, order), (3, vec![0, 1]));
}

#[test]
fn scalars_empty_tensors_and_unknown_ranks_pass() {
    let mut unknown = spec("r", DataType::Uint8, &[]);
    unknown.shape = None;
    let odd = signature(
        vec![
            spec("s", DataType::Fp32, &[]),
            spec("e", DataType::Fp32, &[-1, 3]),
            unknown,
        ],
        false,
    );
    let sent = vec![
        input("s", "FP32", &[]),
        input("e", "FP32", &[0, 3]),
        input("r", "UINT8", &[1, 2, 1]),
    ];
    let found = tensors(target(&odd), &mut request(sent, &[4, 0, 2])).unwrap();
    assert_eq!(found.rows, 1);
}

#[test]
fn inputs_with_a_default_may_be_left_out() {
    let mut optional = spec("scale", DataType::Fp32, &[]);
    optional.optional = true;
    let model = signature(vec![spec("x", DataType::Fp32, &[-1, 4]), optional], true);
    let x = input("x", "FP32", &[2, 4]);
    assert_eq!(
        tensors(target(&model), &mut request(vec![x.clone()], &[32]))
            .unwrap()
            .inputs
            .len(),
        1
    );
    let both = vec![input("scale", "FP32", &[]), x];
    assert_eq!(
        tensors(target(&model), &mut request(both, &[4, 32]))
            .unwrap()
            .rows,
        2
    );
}

#[test]
fn broken_string_framing_is_refused() {
    let text = signature(vec![spec("t", DataType::Bytes, &[-1])], true);
    let sent = |data: &'static [u8]| ModelInferRequest {
        raw_input_contents: vec![Bytes::from_static(data)],
        ..request(vec![input("t", "BYTES", &[1])], &[])
    };
    assert!(tensors(target(&text), &mut sent(b"\x02\0\0\0ab")).is_ok());
    for data in [
        &b"\xff\xff\xff\xffab"[..],
        b"\x02\0\0\0a",
        b"\x02\0",
        b"",
        b"\x01\0\0\0a\x01\0\0\0b",
    ] {
        refused(&text, sent(data));
    }
}

#[test]
fn outputs_are_those_asked_for_in_that_order() {
    let ask = |names: &[&str]| {
        let output = |name: &&str| InferRequestedOutputTensor {
            name: (*name).to_owned(),
            ..InferRequestedOutputTensor::default()
        };
        ModelInferRequest {
            outputs: names.iter().map(output).collect(),
            ..request(vec![input("x", "FP32", &[1, 4])], &[16])
        }
    };
    assert_eq!(
        tensors(target(&mlp()), &mut ask(&["z", "y"]))
            .unwrap()
            .outputs,
        [1, 0]
    );
    assert_eq!(
        refused(&mlp(), ask(&["zz"])),
        "unexpected inference output 'zz' for model 'mlp'"
    );
    assert_eq!(
        refused(&mlp(), ask(&["y", "y"])),
        "output 'y' already exists in request"
    );
}

#[test]
fn unknown_parameters_are_ignored() {
    let mut unknown = request(vec![input("x", "FP32", &[1, 4])], &[16]);
    let parameters = BTreeMap::from([("of_the_future".to_owned(), InferParameter::default())]);
    unknown.inputs[0].parameters = parameters;
    assert!(tensors(target(&mlp()), &mut unknown).is_ok());
}

#[test]
fn inputs_in_shared_memory_have_no_raw_contents() {
    let signature = signature(
        vec![
            spec("x", DataType::Fp32, &[-1, 4]),
            spec("w", DataType::Int8, &[-1]),
        ],
        true,
    );
    let inputs = || vec![input("w", "INT8", &[1]), input("x", "FP32", &[1, 4])];
    let shared = Shared {
        inputs: vec![None, Some(Bytes::from_static(&[7; 16]))],
        outputs: Vec::new(),
    };
    let target = Target {
        shared: &shared,
        ..target(&signature)
    };
    let found = tensors(target, &mut request(inputs(), &[1])).unwrap();
    let data: Vec<&[u8]> = found
        .inputs
        .iter()
        .map(|(_, tensor)| &tensor.data[..])
        .collect();
    assert_eq!(data, [&[7; 16][..], &[0]]);

    let mut typed = request(inputs(), &[]);
    typed.inputs[0].contents = Some(InferTensorContents {
        int_contents: vec![5],
        ..Default::default()
    });
    let found = tensors(target, &mut typed).unwrap();
    assert_eq!(found.inputs[1].1.data[..], [5]);

    let one_too_many = tensors(target, &mut request(inputs(), &[1, 16])).unwrap_err();
    assert!(
        one_too_many.to_string().starts_with("expected 1 entries"),
        "{one_too_many}"
    );
    typed.inputs = inputs();
    typed.raw_input_contents = vec![Bytes::from_static(&[5])];
    typed.inputs[1].contents = Some(InferTensorContents::default());
    assert!(
        tensors(target, &mut typed)
            .unwrap_err()
            .to_string()
            .contains("must not be specified")
    );
}

#[test]
fn the_priority_is_a_number() {
    let with = |choice| {
        let parameter = InferParameter {
            parameter_choice: choice,
        };
        BTreeMap::from([("priority".to_owned(), parameter)])
    };
    let cases = [
        (ParameterChoice::Int64Param(3), Some(3)),
        (ParameterChoice::Uint64Param(0), Some(0)),
        (ParameterChoice::Uint64Param(u64::MAX), Some(u32::MAX)),
        (ParameterChoice::Int64Param(-1), None),
        (ParameterChoice::StringParam("1".to_owned()), None),
    ];
    for (choice, expected) in cases {
        assert_eq!(priority(&with(Some(choice))).ok(), expected);
    }
    assert_eq!(priority(&BTreeMap::new()), Ok(0));
}

#[test]
fn classes_are_asked_for_by_their_number() {
    let ask = |choice| {
        let mut request = request(vec![input("x", "FP32", &[1, 4])], &[16]);
        let parameter = InferParameter {
            parameter_choice: Some(choice),
        };
        request.outputs.push(InferRequestedOutputTensor {
            name: "y".to_owned(),
            parameters: BTreeMap::from([("classification".to_owned(), parameter)]),
        });
        request
    };
    for (count, delivery) in [(0, Delivery::Tensor), (3, Delivery::Classes(3))] {
        let mut request = ask(ParameterChoice::Int64Param(count));
        let found = tensors(target(&mlp()), &mut request).unwrap();
        assert_eq!(found.deliveries, [delivery]);
    }
    for choice in [
        ParameterChoice::Int64Param(-1),
        ParameterChoice::StringParam("3".into()),
    ] {
        assert!(refused(&mlp(), ask(choice)).contains("'classification' parameter, expected"));
    }
}

#[test]
fn the_timeout_is_a_number_of_microseconds() {
    let with = |choice| {
        BTreeMap::from([(
            "timeout".to_owned(),
            InferParameter {
                parameter_choice: choice,
            },
        )])
    };
    assert_eq!(timeout(&BTreeMap::new()), Ok(None));
    assert_eq!(
        timeout(&with(Some(ParameterChoice::Int64Param(0)))),
        Ok(None)
    );
    assert_eq!(
        timeout(&with(Some(ParameterChoice::Int64Param(9)))),
        Ok(Some(9))
    );
    assert_eq!(
        timeout(&with(Some(ParameterChoice::Uint64Param(u64::MAX)))),
        Ok(Some(u64::MAX))
    );
    for choice in [
        None,
        Some(ParameterChoice::Int64Param(-1)),
        Some(ParameterChoice::StringParam("1".into())),
    ] {
        assert!(timeout(&with(choice)).is_err());
    }
}

#[test]
fn long_names_are_cut_in_messages() {
    let name = "é".repeat(5_000);
    let text = refused(&mlp(), request(vec![input(&name, "FP32", &[1, 4])], &[16]));
    assert!(text.len() < 400, "{}", text.len());
}
