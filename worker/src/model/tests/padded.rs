//! Requests of different lengths through a model that pads: "x" and "style" come back as "y" and "z".

use forebay_config::worker::Padding as PaddingConfig;

use super::*;
use crate::batch::padding::Waste;
use crate::inference::TensorSpec;

fn spec(name: &str, shape: &[i64]) -> TensorSpec {
    TensorSpec {
        name: name.to_owned(),
        datatype: DataType::Fp32,
        shape: Some(shape.to_vec()),
        optional: false,
    }
}

/// Fills up `x` with sevens and cuts these outputs.
fn start_cutting(script: &Arc<Script>, outputs: &[&str]) -> Result<Model, String> {
    let factory = script.factory();
    let loaded = LoadedModel {
        signature: Signature {
            inputs: vec![spec("x", &[-1, -1]), spec("style", &[-1, 2])],
            outputs: vec![spec("y", &[-1, -1]), spec("z", &[-1, -1])],
            batched: true,
        },
        provider: "cpu",
        provider_note: None,
        nodes: Vec::new(),
        predictable: true,
        memory_bytes: Arc::new(|| 0),
        shares_session: false,
        first: factory(0).unwrap(),
        factory,
    };
    let padding = PaddingConfig {
        inputs: [("x".to_owned(), 7.0)].into(),
        outputs: outputs.iter().map(|name| (*name).to_owned()).collect(),
        buckets: vec![4, 8],
    };
    let spec = ModelSpec {
        name: "fake".to_owned(),
        version: 1,
        config: ModelConfig {
            padding: Some(padding),
            ..config()
        },
        labels: Labels::default(),
        said: None,
        seats: Vec::new(),
        max_answer_bytes: usize::MAX,
        observer: Arc::new(NoObserver),
    };
    let model = Model::start(loaded, spec)?;
    script.runs.lock().clear();
    Ok(model)
}

/// One row of these values, and the outputs wanted.
fn row(values: &[f32], outputs: &[usize]) -> InferRequest {
    let tensor = |values: &[f32]| Tensor {
        datatype: DataType::Fp32,
        shape: vec![1, values.len() as i64],
        data: bytes_of(values),
    };
    InferRequest {
        inputs: vec![(0, tensor(values)), (1, tensor(&[0.5, 0.5]))],
        outputs: outputs.to_vec(),
        rows: 1,
        ..request(&[])
    }
}

/// Submits while the only instance is busy, then lets everything go.
fn together(script: &Arc<Script>, model: &Model, requests: &[InferRequest]) -> Vec<Vec<Tensor>> {
    script.close();
    let now = Instant::now();
    let busy = model.submit(row(&[0.0], &[0]), now).unwrap();
    script.wait_for_standing(1);
    let submit = |request: &InferRequest| model.submit(request.clone(), now).unwrap();
    let answers: Vec<_> = requests.iter().map(submit).collect();
    script.open();
    busy.blocking_recv().unwrap().unwrap();
    let outputs = |answer: Ticket| answer.blocking_recv().unwrap().unwrap().outputs;
    answers.into_iter().map(outputs).collect()
}

fn tensor(shape: &[i64], values: &[f32]) -> Tensor {
    Tensor {
        datatype: DataType::Fp32,
        shape: shape.to_vec(),
        data: bytes_of(values),
    }
}

#[test]
fn lengths_of_one_bucket_go_together_and_come_back_as_they_were() {
    let script = Arc::default();
    let model = start_cutting(&script, &["y"]).unwrap();
    let answers = together(
        &script,
        &model,
        &[
            row(&[1.0, 2.0], &[0, 1]),
            row(&[3.0, 4.0, 5.0], &[0]),
            row(&[6.0, 6.0, 6.0, 6.0, 6.0], &[0]),
            row(&[8.0; 9], &[0]),
            row(&[9.0; 10], &[0]),
        ],
    );
    assert_eq!(*script.runs.lock(), [1, 2, 1, 1, 1]);
    assert_eq!(
        answers[0],
        [tensor(&[1, 2], &[1.0, 2.0]), tensor(&[1, 2], &[0.5, 0.5])]
    );
    assert_eq!(answers[1], [tensor(&[1, 3], &[3.0, 4.0, 5.0])]);
    assert_eq!(answers[2], [tensor(&[1, 5], &[6.0; 5])]);
    let expected = Waste {
        filled: 1,
        all: 1 + 6 + 5 + 9 + 10,
    };
    assert_eq!(model.statistics().padding, expected);
}

#[test]
fn what_is_not_to_be_cut_keeps_its_filling() {
    let script = Arc::default();
    let model = start_cutting(&script, &[]).unwrap();
    let answers = together(
        &script,
        &model,
        &[row(&[1.0], &[0]), row(&[2.0, 3.0], &[0])],
    );
    assert_eq!(answers[0], [tensor(&[1, 2], &[1.0, 7.0])]);
}

#[test]
fn an_output_without_the_length_ends_the_padding_but_no_request() {
    let script = Arc::default();
    let model = start_cutting(&script, &["z"]).unwrap();
    let lengths = [row(&[1.0], &[0, 1]), row(&[2.0, 3.0, 4.0], &[0, 1])];
    for runs in [&[1, 2, 1, 1][..], &[1, 1, 1]] {
        script.runs.lock().clear();
        let answers = together(&script, &model, &lengths);
        assert_eq!(*script.runs.lock(), runs);
        assert_eq!(answers[0][0], tensor(&[1, 1], &[1.0]));
        assert_eq!(answers[1][0], tensor(&[1, 3], &[2.0, 3.0, 4.0]));
    }
}

#[test]
fn a_model_that_cannot_be_padded_as_configured_is_not_started() {
    let script = Arc::default();
    let error = start_cutting(&script, &["w"]).unwrap_err();
    assert!(error.contains("output 'w'"), "{error}");
}
