use forebay_config::worker::{Ensemble, Ports, Step, StepKind};

use super::*;

type Spec<'a> = (&'a str, DataType, Option<&'a [i64]>);

fn specs(tensors: &[Spec<'_>]) -> Vec<TensorSpec> {
    let spec = |(name, datatype, shape): &Spec<'_>| TensorSpec {
        name: (*name).to_owned(),
        datatype: *datatype,
        shape: shape.map(<[i64]>::to_vec),
        optional: name.ends_with('?'),
    };
    tensors.iter().map(spec).collect()
}

fn model(inputs: &[Spec<'_>], outputs: &[Spec<'_>]) -> Signature {
    Signature {
        inputs: specs(inputs),
        outputs: specs(outputs),
        batched: true,
    }
}

/// A step with the maps `port=tensor,…` of its inputs and outputs.
fn step(inputs: &str, outputs: &str) -> Step {
    let map = |ports: &str| {
        let port = |port: &str| {
            let (port, tensor) = port.split_once('=').unwrap();
            (port.to_owned(), tensor.to_owned())
        };
        ports.split(',').map(port).collect()
    };
    Step {
        kind: StepKind::Model {
            name: "m".to_owned(),
            version: None,
        },
        ports: Ports {
            inputs: map(inputs),
            outputs: map(outputs),
        },
    }
}

fn declared(name: &str, datatype: Option<&str>, shape: Option<&[i64]>) -> Declared {
    Declared {
        name: name.to_owned(),
        datatype: datatype.map(str::to_owned),
        shape: shape.map(<[i64]>::to_vec),
    }
}

fn planned(
    [inputs, outputs]: [Vec<Declared>; 2],
    steps: Vec<(Step, Signature)>,
) -> Result<Signature, String> {
    let (steps, models): (Vec<Step>, Vec<Signature>) = steps.into_iter().unzip();
    let ensemble = Ensemble::new(inputs, outputs, steps).unwrap();
    let labels: Vec<String> = (1..=models.len())
        .map(|number| format!("step {number}"))
        .collect();
    let labelled: Vec<Labelled<'_>> = models
        .iter()
        .zip(&labels)
        .map(|(model, label)| Labelled { label, step: model })
        .collect();
    let declarations = Declarations {
        inputs: &ensemble.inputs,
        outputs: &ensemble.outputs,
    };
    signature(&ensemble.flow, declarations, &labelled)
}

const FP32: DataType = DataType::Fp32;
const INT64: DataType = DataType::Int64;

#[test]
fn the_whole_takes_what_its_steps_take_and_gives_what_they_give() {
    let first = model(
        &[("x", FP32, Some(&[-1, 2]))],
        &[("y", FP32, Some(&[-1, -1]))],
    );
    let second = model(
        &[("a", FP32, Some(&[-1, 4])), ("b?", INT64, None)],
        &[("c", INT64, Some(&[-1]))],
    );
    let whole = planned(
        [vec![], vec![]],
        vec![
            (step("a=mid,b?=extra", "c=out"), second),
            (step("x=in", "y=mid"), first),
        ],
    )
    .unwrap();
    assert_eq!(whole.inputs, {
        let mut inputs = specs(&[("extra", INT64, None), ("in", FP32, Some(&[-1, 2]))]);
        inputs[0].optional = true;
        inputs
    });
    assert_eq!(whole.outputs, specs(&[("out", INT64, Some(&[-1]))]));
    assert!(whole.batched);
}

#[test]
fn an_input_of_two_steps_is_what_both_take() {
    let one = model(&[("x", FP32, Some(&[-1, -1]))], &[("y", FP32, None)]);
    let other = model(&[("x", FP32, Some(&[-1, 3]))], &[("y", FP32, None)]);
    let both = |other| {
        planned(
            [vec![], vec![]],
            vec![
                (step("x=in", "y=left"), one.clone()),
                (step("x=in", "y=right"), other),
            ],
        )
    };
    assert_eq!(
        both(other).unwrap().inputs[0].shape.as_deref(),
        Some(&[-1, 3][..])
    );
    let other = model(&[("x", INT64, Some(&[-1, 3]))], &[("y", FP32, None)]);
    assert_eq!(
        both(other).unwrap_err(),
        "step 2: input 'x' cannot be 'in', as another step takes that as FP32 [-1, -1]"
    );
}

#[test]
fn declarations_narrow_and_never_widen() {
    let double = || {
        model(
            &[("x", FP32, Some(&[-1, -1]))],
            &[("y", FP32, Some(&[-1, 2]))],
        )
    };
    let with =
        |inputs, outputs| planned([inputs, outputs], vec![(step("x=in", "y=out"), double())]);
    let narrow = vec![declared("in", Some("FP32"), Some(&[-1, 2]))];
    let whole = with(narrow, vec![declared("out", None, Some(&[4, 2]))]).unwrap();
    assert_eq!(whole.inputs[0].shape.as_deref(), Some(&[-1, 2][..]));
    assert!(!whole.batched, "an output has a fixed number of rows");
    let any = with(vec![], vec![declared("out", None, Some(&[-1, -1]))]).unwrap();
    assert_eq!(any.outputs[0].shape.as_deref(), Some(&[-1, 2][..]));
    for (inputs, outputs, expected) in [
        (
            vec![declared("in", Some("FP16"), None)],
            vec![],
            "input 'in' is declared as FP16, but the steps make it FP32 [-1, -1]",
        ),
        (
            vec![],
            vec![declared("out", None, Some(&[-1, 3]))],
            "output 'out' is declared with the shape [-1, 3], but the steps make it FP32 [-1, 2]",
        ),
        (
            vec![],
            vec![declared("out", None, Some(&[-1]))],
            "output 'out' is declared with the shape [-1], but the steps make it FP32 [-1, 2]",
        ),
    ] {
        assert_eq!(with(inputs, outputs).unwrap_err(), expected);
    }
}

#[test]
fn steps_that_do_not_fit_are_told_with_their_number() {
    let first = || model(&[("x", FP32, Some(&[-1]))], &[("y", FP32, Some(&[-1, 2]))]);
    let failure = |second: Step, model: Signature| {
        planned(
            [vec![], vec![]],
            vec![(step("x=in", "y=mid"), first()), (second, model)],
        )
        .unwrap_err()
    };
    let take = |spec: Spec<'_>| model(&[spec], &[("z", FP32, None)]);
    for (second, model, expected) in [
        (
            step("a=mid", "z=out"),
            take(("a", INT64, None)),
            "step 2: input 'a' takes INT64, but 'mid' is FP32 [-1, 2]",
        ),
        (
            step("a=mid", "z=out"),
            take(("a", FP32, Some(&[-1, 3]))),
            "step 2: input 'a' takes FP32 [-1, 3], but 'mid' is FP32 [-1, 2]",
        ),
        (
            step("b=mid", "z=out"),
            take(("a", FP32, None)),
            "step 2: it has no input 'b', only a",
        ),
        (
            step("a=mid", "w=out"),
            take(("a", FP32, None)),
            "step 2: it has no output 'w', only z",
        ),
        (
            step("a=mid", "z=out"),
            model(
                &[("a", FP32, None), ("b", FP32, None)],
                &[("z", FP32, None)],
            ),
            "step 2: input 'b' is not given",
        ),
    ] {
        assert_eq!(failure(second, model), expected);
    }
}

#[test]
fn branches_that_nothing_joins_have_rows_of_their_own() {
    let double = || {
        model(
            &[("x", FP32, Some(&[-1, 2]))],
            &[("y", FP32, Some(&[-1, 2]))],
        )
    };
    let apart = vec![
        (step("x=a", "y=b"), double()),
        (step("x=c", "y=d"), double()),
    ];
    assert!(!planned([vec![], vec![]], apart).unwrap().batched);
    let together = vec![
        (step("x=a", "y=b"), double()),
        (step("x=a", "y=d"), double()),
    ];
    assert!(planned([vec![], vec![]], together).unwrap().batched);
}
