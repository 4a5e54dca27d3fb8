//! `ensemble_scheduling` as the worker's own ensemble.

use forebay_config::worker::{Declared as Stated, StepKind};

use super::*;

const TWO: &str = r#"
platform: "ensemble"
max_batch_size: 8
input [ { name: "IN" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "OUT" data_type: TYPE_FP32 dims: [ -1 ] } ]
ensemble_scheduling { step [
  { model_name: "second" model_version: 3
    input_map { key: "x" value: "between" } output_map { key: "y" value: "OUT" } },
  { model_name: "first" model_version: -1
    input_map { key: "x" value: "IN" } output_map { key: "y" value: "between" } }
] }
"#;

#[test]
fn steps_become_an_ensemble() {
    let said = understood(TWO);
    assert!(said.notes.is_empty(), "{:?}", said.notes);
    let ensemble = said.ensemble.unwrap();
    let kinds: Vec<&StepKind> = ensemble.steps.iter().map(|step| &step.kind).collect();
    let model = |name: &str, version| StepKind::Model {
        name: name.to_owned(),
        version,
    };
    assert_eq!(kinds, [&model("second", Some(3)), &model("first", None)]);
    assert_eq!(ensemble.flow.order, [1, 0]);
    let stated = |name: &str, shape: &[i64]| Stated {
        name: name.to_owned(),
        datatype: Some("FP32".to_owned()),
        shape: Some(shape.to_vec()),
    };
    assert_eq!(ensemble.inputs, [stated("IN", &[-1, 4])]);
    assert_eq!(ensemble.outputs, [stated("OUT", &[-1, -1])]);
    let whole = understood(&TWO.replace("max_batch_size: 8", "max_batch_size: 0"));
    assert_eq!(whole.ensemble.unwrap().inputs, [stated("IN", &[4])]);
}

#[test]
fn what_an_ensemble_has_no_use_for_is_named() {
    let text = format!(
        "{TWO} instance_group {{ count: 2 }} model_warmup {{ name: 'a' }} optimization {{ }} response_cache {{ enable: true }}"
    );
    let said = understood(&text);
    assert_eq!(said.overrides.response_cache_bytes, Some(64 << 20));
    let fields: Vec<&str> = said
        .notes
        .iter()
        .filter_map(|note| note.split_once(':').map(|(field, _)| field))
        .collect();
    assert_eq!(fields, ["instance_group", "model_warmup", "optimization"]);
}

#[test]
fn steps_that_do_not_fit_are_refused() {
    for (from, to, reason) in [
        (
            "\"between\" } output",
            "\"nothing\" } output",
            "input 'x': expected an input of the ensemble",
        ),
        ("value: \"IN\"", "value: \"OUT\"", "wait for each other"),
        (
            "model_name: \"first\"",
            "",
            "step[1] must specify 'model_name'",
        ),
        ("version: -1", "version: -2", "step[1].model_version is -2"),
        (
            "dims: [ 4 ]",
            "dims: [ 4 ] reshape { shape: [ 2, 2 ] }",
            "reshape of 'IN'",
        ),
    ] {
        let told = refused(&TWO.replacen(from, to, 1));
        assert!(told.contains(reason), "{told}");
    }
    let none = refused("platform: 'ensemble' ensemble_scheduling { }");
    assert!(none.contains("must have one step or more"), "{none}");
}
