//! Known differences of every datatype, and that no answer can bring the comparison down.

use forebay_proto::inference::InferTensorContents;
use forebay_proto::tensor::encode_bytes_element;
use proptest::prelude::*;

use super::*;

fn answer(outputs: &[(&str, &str, &[i64], Vec<u8>)]) -> ModelInferResponse {
    ModelInferResponse {
        outputs: outputs
            .iter()
            .map(|(name, datatype, shape, _)| InferOutputTensor {
                name: (*name).to_owned(),
                datatype: (*datatype).to_owned(),
                shape: shape.to_vec(),
                ..Default::default()
            })
            .collect(),
        raw_output_contents: outputs.iter().map(|(.., raw)| raw.clone().into()).collect(),
        ..Default::default()
    }
}

fn floats(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn of_floats(shape: &[i64], a: &[f32], b: &[f32]) -> Difference {
    let [a, b] = [a, b].map(|values| answer(&[("y", "FP32", shape, floats(values))]));
    match compare(&a, &b)[..] {
        [("y", Finding::Compared(difference))] => difference,
        ref other => panic!("{other:?}"),
    }
}

#[test]
fn equal_answers_differ_in_nothing() {
    let values = [1.5, -0.0, f32::NAN, f32::INFINITY];
    let found = of_floats(&[2, 2], &values, &values);
    let equal = Difference {
        rows: 2,
        agreed: 2,
        ..Difference::default()
    };
    assert_eq!(found, equal);
    assert_eq!(of_floats(&[2], &[0.0, 1.0], &[-0.0, 1.0]).unequal, 0);
    assert_eq!(of_floats(&[0, 4], &[], &[]), Difference::default());
}

#[test]
fn the_largest_difference_counts_and_is_related_to_the_largest_number() {
    let found = of_floats(
        &[2, 3],
        &[8.0, 0.5, -1.0, 0.0, 0.0, 2.0],
        &[8.0, 0.25, -1.0, 1.0, 0.0, 0.5],
    );
    assert_eq!((found.absolute, found.relative), (1.5, 1.5 / 8.0));
    assert_eq!((found.rows, found.agreed, found.unequal), (2, 1, 3));
    // Nothing to relate it to.
    let found = of_floats(&[1], &[0.0], &[0.5]);
    assert_eq!((found.absolute, found.relative), (0.5, f64::INFINITY));
    assert_eq!(found.rows, 0, "one column has no first place");
}

#[test]
fn nan_and_infinity_are_told_from_numbers() {
    let found = of_floats(
        &[1, 4],
        &[f32::NAN, 1.0, 2.0, f32::NAN],
        &[1.0, f32::NAN, 2.0, f32::NAN],
    );
    assert_eq!((found.nans, found.absolute, found.unequal), (2, 0.0, 0));
    assert_eq!((found.rows, found.agreed), (1, 1), "NaN is no first place");
    let found = of_floats(&[2], &[f32::INFINITY, 1.0], &[f32::NEG_INFINITY, 1.0]);
    assert_eq!(
        (found.absolute, found.relative),
        (f64::INFINITY, f64::INFINITY)
    );
    let found = of_floats(&[2], &[1.0, 1.0], &[f32::INFINITY, 1.0]);
    assert_eq!((found.absolute, found.nans), (f64::INFINITY, 0));
    let found = of_floats(&[1, 2], &[f32::NAN, f32::NAN], &[f32::NAN, 1.0]);
    assert_eq!((found.rows, found.agreed), (1, 0));
}

#[test]
fn every_datatype_is_compared() {
    let text = |elements: &[&str]| {
        let mut raw = Vec::new();
        for element in elements {
            encode_bytes_element(element.as_bytes(), &mut raw).unwrap();
        }
        raw
    };
    let halves = |values: [f32; 2]| {
        values
            .map(|value| f16::from_f32(value).to_le_bytes())
            .concat()
    };
    let brains = |values: [f32; 2]| {
        values
            .map(|value| bf16::from_f32(value).to_le_bytes())
            .concat()
    };
    // Two numbers, of which the second is 1 smaller in the other answer, and then no longer the larger one.
    let cases: Vec<(DataType, Vec<u8>, Vec<u8>)> = vec![
        (DataType::Uint8, vec![9, 10], vec![9, 9]),
        (DataType::Int8, vec![0xff, 0], vec![0xff, 0xff]),
        (
            DataType::Uint16,
            [9_u16, 10].map(u16::to_le_bytes).concat(),
            [9_u16, 9].map(u16::to_le_bytes).concat(),
        ),
        (
            DataType::Int16,
            [9_i16, 10].map(i16::to_le_bytes).concat(),
            [9_i16, 9].map(i16::to_le_bytes).concat(),
        ),
        (
            DataType::Uint32,
            [9_u32, 10].map(u32::to_le_bytes).concat(),
            [9_u32, 9].map(u32::to_le_bytes).concat(),
        ),
        (
            DataType::Int32,
            [9_i32, 10].map(i32::to_le_bytes).concat(),
            [9_i32, 9].map(i32::to_le_bytes).concat(),
        ),
        (
            DataType::Uint64,
            [u64::MAX - 1, u64::MAX].map(u64::to_le_bytes).concat(),
            [u64::MAX - 1, u64::MAX - 1].map(u64::to_le_bytes).concat(),
        ),
        (
            DataType::Int64,
            [i64::MIN, i64::MIN + 1].map(i64::to_le_bytes).concat(),
            [i64::MIN, i64::MIN].map(i64::to_le_bytes).concat(),
        ),
        (DataType::Fp16, halves([9.0, 10.0]), halves([9.0, 9.0])),
        (DataType::Bf16, brains([9.0, 10.0]), brains([9.0, 9.0])),
        (DataType::Fp32, floats(&[9.0, 10.0]), floats(&[9.0, 9.0])),
        (
            DataType::Fp64,
            [9.0_f64, 10.0].map(f64::to_le_bytes).concat(),
            [9.0_f64, 9.0].map(f64::to_le_bytes).concat(),
        ),
    ];
    let mut seen: Vec<DataType> = Vec::new();
    for (datatype, a, b) in cases {
        let [a, b] = [a, b].map(|raw| answer(&[("y", datatype.name(), &[1, 2], raw)]));
        let findings = compare(&a, &b);
        let (_, Finding::Compared(found)) = findings[0] else {
            panic!("{datatype}: {findings:?}");
        };
        assert_eq!((found.absolute, found.unequal), (1.0, 1), "{datatype}");
        assert_eq!((found.rows, found.agreed), (1, 0), "{datatype}");
        seen.push(datatype);
    }
    for (datatype, a, b) in [
        (DataType::Bool, vec![0, 1, 1], vec![0, 1, 0]),
        (
            DataType::Bytes,
            text(&["a", "", "c"]),
            text(&["a", "", "cd"]),
        ),
    ] {
        let [a, b] = [a, b].map(|raw| answer(&[("y", datatype.name(), &[3], raw)]));
        let findings = compare(&a, &b);
        let (_, Finding::Compared(found)) = findings[0] else {
            panic!("{datatype}: {findings:?}");
        };
        assert_eq!((found.absolute, found.relative), (0.0, 0.0), "{datatype}");
        assert_eq!(
            (found.rows, found.agreed, found.unequal),
            (3, 2, 1),
            "{datatype}"
        );
        seen.push(datatype);
    }
    assert!(DataType::ALL.iter().all(|datatype| seen.contains(datatype)));
}

#[test]
fn typed_contents_are_compared_with_raw_ones_and_outputs_by_name() {
    let typed = |values: &[f32]| InferOutputTensor {
        name: "y".into(),
        datatype: "FP32".into(),
        shape: vec![2],
        contents: Some(InferTensorContents {
            fp32_contents: values.to_vec(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let a = ModelInferResponse {
        outputs: vec![typed(&[1.0, 2.0])],
        ..Default::default()
    };
    let b = answer(&[
        ("z", "INT8", &[1], vec![1]),
        ("y", "FP32", &[2], floats(&[1.0, 2.5])),
    ]);
    let findings = compare(&a, &b);
    assert_eq!(findings.len(), 2);
    assert!(matches!(findings[0], ("y", Finding::Compared(found)) if found.absolute == 0.5));
    assert_eq!(findings[1], ("z", Finding::Extra));
    assert_eq!(compare(&b, &a)[0], ("z", Finding::Missing));
}

#[test]
fn what_does_not_fit_together_is_told() {
    let a = answer(&[("y", "FP32", &[2], floats(&[1.0, 2.0]))]);
    for (output, finding) in [
        (
            ("y", "FP32", &[1, 2][..], floats(&[1.0, 2.0])),
            Finding::Shape,
        ),
        (
            ("y", "INT32", &[2][..], floats(&[1.0, 2.0])),
            Finding::Datatype,
        ),
        (("y", "FP32", &[2][..], floats(&[1.0])), Finding::Malformed),
        (
            ("x", "FP32", &[2][..], floats(&[1.0, 2.0])),
            Finding::Missing,
        ),
    ] {
        assert_eq!(compare(&a, &answer(&[output]))[0], ("y", finding));
    }
    let unknown = answer(&[("y", "FP8", &[2], vec![1, 2])]);
    assert_eq!(compare(&unknown, &unknown)[0].1, Finding::Malformed);
    let mut without_data = a.clone();
    without_data.raw_output_contents.clear();
    assert_eq!(compare(&a, &without_data)[0].1, Finding::Malformed);
}

proptest! {
    #[test]
    fn no_answer_brings_it_down(
        datatype in prop::sample::select(DataType::ALL.to_vec()),
        shape in prop::collection::vec(-1_i64..5, 0..4),
        a in prop::collection::vec(any::<u8>(), 0..64),
        b in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let [a, b] = [a, b].map(|raw| answer(&[("y", datatype.name(), &shape, raw)]));
        for (_, finding) in compare(&a, &b) {
            if let Finding::Compared(found) = finding {
                prop_assert!(found.absolute >= 0.0 && found.relative >= 0.0 && found.agreed <= found.rows);
            }
        }
        for (_, finding) in compare(&a, &a) {
            if let Finding::Compared(found) = finding {
                prop_assert_eq!((found.absolute, found.nans, found.unequal), (0.0, 0, 0));
                prop_assert_eq!(found.agreed, found.rows);
            }
        }
    }
}
