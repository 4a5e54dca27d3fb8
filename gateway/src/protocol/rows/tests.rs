//! Cutting and joining again changes nothing, and what cannot be cut stays whole.

use forebay_proto::inference::infer_parameter::ParameterChoice;
use forebay_proto::inference::model_infer_response::InferOutputTensor;
use forebay_proto::tensor::encode_bytes_element;
use proptest::prelude::*;

use super::*;

/// What a worker answers whose outputs are its inputs.
fn echo(request: &ModelInferRequest) -> ModelInferResponse {
    ModelInferResponse {
        model_name: request.model_name.clone(),
        id: request.id.clone(),
        parameters: request.parameters.clone(),
        outputs: request
            .inputs
            .iter()
            .map(|input| InferOutputTensor {
                name: input.name.clone(),
                datatype: input.datatype.clone(),
                shape: input.shape.clone(),
                parameters: input.parameters.clone(),
                contents: input.contents.clone(),
            })
            .collect(),
        raw_output_contents: request.raw_input_contents.clone(),
        ..Default::default()
    }
}

fn parameter(text: &str) -> InferParameter {
    InferParameter {
        parameter_choice: Some(ParameterChoice::StringParam(text.into())),
    }
}

fn request(inputs: Vec<(DataType, Vec<i64>, Bytes)>) -> ModelInferRequest {
    ModelInferRequest {
        model_name: "m".into(),
        model_version: "2".into(),
        id: "7".into(),
        parameters: [("tone".to_owned(), parameter("dry"))].into(),
        raw_input_contents: inputs.iter().map(|(.., raw)| raw.clone()).collect(),
        inputs: inputs
            .into_iter()
            .enumerate()
            .map(|(position, (datatype, shape, _))| InferInputTensor {
                name: format!("x{position}"),
                datatype: datatype.name().into(),
                shape,
                parameters: [("of".to_owned(), parameter("input"))].into(),
                contents: None,
            })
            .collect(),
        ..Default::default()
    }
}

/// Random tensors with the same rows, of any datatype.
fn any_request() -> impl Strategy<Value = ModelInferRequest> {
    let input = (
        prop::sample::select(DataType::ALL.to_vec()),
        prop::collection::vec(0_usize..4, 0..3),
        any::<u64>(),
    );
    (0_usize..40, prop::collection::vec(input, 1..4)).prop_map(|(rows, inputs)| {
        let made = inputs.into_iter().map(|(datatype, inner, seed)| {
            let mut random = fastrand::Rng::with_seed(seed);
            let elements = rows * inner.iter().product::<usize>();
            let mut raw = Vec::new();
            for _ in 0..elements {
                match datatype.size() {
                    None => {
                        let text: Vec<u8> = (0..random.usize(..5)).map(|_| random.u8(..)).collect();
                        encode_bytes_element(&text, &mut raw).unwrap();
                    }
                    Some(_) if datatype == DataType::Bool => raw.push(random.u8(..2)),
                    Some(size) => raw.extend((0..size).map(|_| random.u8(..))),
                }
            }
            let shape = [rows].into_iter().chain(inner);
            let shape: Vec<i64> = shape.map(|size| size as i64).collect();
            (datatype, shape, Bytes::from(raw))
        });
        request(made.collect())
    })
}

proptest! {
    #[test]
    fn cut_and_joined_it_is_the_same(whole in any_request(), most in 1_usize..12) {
        let rows = whole.inputs[0].shape[0] as usize;
        match cut(&whole, most) {
            None => prop_assert!(rows <= most),
            Some(parts) => {
                prop_assert_eq!(parts.len(), rows.div_ceil(most));
                let sizes: Vec<i64> = parts.iter().map(|part| part.inputs[0].shape[0]).collect();
                let (least, largest) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
                prop_assert!(*largest as usize <= most && largest - least <= 1, "{:?}", sizes);
                for part in &parts {
                    prop_assert_eq!((&part.id, &part.parameters), (&whole.id, &whole.parameters));
                    prop_assert_eq!(&part.model_version, "2");
                    for (input, raw) in part.inputs.iter().zip(&part.raw_input_contents) {
                        let datatype = DataType::parse(&input.datatype).unwrap();
                        prop_assert!(check_raw(datatype, &input.shape, raw).is_ok());
                    }
                }
                let answers: Vec<_> = parts.iter().map(echo).collect();
                prop_assert_eq!(join(&parts, &answers), Ok(echo(&whole)));
            }
        }
    }

    #[test]
    fn no_request_brings_it_down(
        datatype in prop::sample::select(DataType::ALL.to_vec()),
        shape in prop::collection::vec(-1_i64..6, 0..4),
        raw in prop::collection::vec(any::<u8>(), 0..64),
        most in 0_usize..4,
    ) {
        let whole = request(vec![(datatype, shape, raw.into())]);
        if let Some(parts) = cut(&whole, most) {
            let answers: Vec<_> = parts.iter().map(echo).collect();
            prop_assert_eq!(join(&parts, &answers), Ok(echo(&whole)));
        }
    }
}

#[test]
fn typed_contents_are_cut_too_and_answered_raw() {
    let mut whole = request(vec![(DataType::Int64, vec![3, 2], Bytes::new())]);
    whole.raw_input_contents.clear();
    let contents = |values: &[i64]| InferTensorContents {
        int64_contents: values.to_vec(),
        ..Default::default()
    };
    whole.inputs[0].contents = Some(contents(&[1, 2, 3, 4, 5, 6]));
    let parts = cut(&whole, 2).unwrap();
    let cut_contents: Vec<_> = parts
        .iter()
        .map(|part| part.inputs[0].contents.clone().unwrap())
        .collect();
    assert_eq!(cut_contents, [contents(&[1, 2, 3, 4]), contents(&[5, 6])]);
    let answers: Vec<_> = parts.iter().map(echo).collect();
    let joined = join(&parts, &answers).unwrap();
    let raw: Vec<u8> = (1..=6_i64).flat_map(i64::to_le_bytes).collect();
    assert_eq!(joined.raw_output_contents, [Bytes::from(raw)]);
    assert_eq!(
        (&joined.outputs[0].shape[..], &joined.outputs[0].contents),
        (&[3, 2][..], &None)
    );

    whole.inputs[0].contents = Some(contents(&[1, 2, 3]));
    assert_eq!(cut(&whole, 2), None, "fewer elements than the shape says");
    let strings = InferTensorContents {
        bytes_contents: ["a", "b", "c"].map(Bytes::from).to_vec(),
        ..Default::default()
    };
    whole.inputs[0] = InferInputTensor {
        datatype: "BYTES".into(),
        shape: vec![3],
        contents: Some(strings),
        ..whole.inputs[0].clone()
    };
    assert_eq!(cut(&whole, 1).unwrap().len(), 3);
}

#[test]
fn parts_are_not_without_number() {
    let rows = 100_000;
    let whole = request(vec![(
        DataType::Uint8,
        vec![rows],
        vec![7_u8; rows as usize].into(),
    )]);
    let parts = cut(&whole, 1).unwrap();
    assert_eq!(parts.len(), MOST_PARTS);
    let answers: Vec<_> = parts.iter().map(echo).collect();
    assert_eq!(join(&parts, &answers), Ok(echo(&whole)));
}

#[test]
fn what_cannot_be_cut_stays_whole() {
    let column = |rows: i64| {
        (
            DataType::Uint8,
            vec![rows, 1],
            Bytes::from(vec![0_u8; rows as usize]),
        )
    };
    assert!(cut(&request(vec![column(4), column(4)]), 2).is_some());
    assert_eq!(cut(&request(vec![column(4), column(3)]), 2), None);
    assert_eq!(cut(&request(vec![]), 2), None);
    assert_eq!(
        cut(
            &request(vec![(DataType::Uint8, vec![], vec![0_u8].into())]),
            2
        ),
        None
    );
    let mut short = request(vec![column(4)]);
    short.inputs[0].shape[0] = 5;
    assert_eq!(cut(&short, 2), None);
    let mut in_region = request(vec![column(4)]);
    in_region.inputs[0]
        .parameters
        .insert(SHARED_MEMORY.into(), parameter("r"));
    assert_eq!(cut(&in_region, 2), None);
    let mut sequence = request(vec![column(4)]);
    sequence.parameters.insert(SEQUENCE.into(), parameter("1"));
    assert_eq!(cut(&sequence, 2), None);
    let mut unknown = request(vec![column(4)]);
    unknown.inputs[0].datatype = "FP8".into();
    assert_eq!(cut(&unknown, 2), None);
}

#[test]
fn answers_that_are_not_by_row_do_not_fit() {
    let whole = request(vec![(DataType::Uint8, vec![4], vec![1_u8, 2, 3, 4].into())]);
    let parts = cut(&whole, 2).unwrap();
    let answers: Vec<_> = parts.iter().map(echo).collect();
    assert!(join(&parts, &answers).is_ok());
    let damaged = |damage: fn(&mut ModelInferResponse)| {
        let mut answers = answers.clone();
        damage(&mut answers[1]);
        join(&parts, &answers)
    };
    let damages: [fn(&mut ModelInferResponse); 6] = [
        |answer| answer.outputs[0].shape = vec![1],
        |answer| answer.outputs[0].shape = vec![2, 1],
        |answer| answer.outputs[0].name = "y".into(),
        |answer| answer.outputs.clear(),
        |answer| answer.raw_output_contents.clear(),
        |answer| answer.model_version = "3".into(),
    ];
    for damage in damages {
        assert_eq!(damaged(damage), Err(Misfit));
    }
    assert_eq!(join(&parts, &[]), Err(Misfit));
}
