//! `ensemble_scheduling`: models whose tensors feed each other, as the worker's own ensemble.
//!
//! Whether the steps fit together is for `Ensemble::new` to say here, whether their models do when those are there.

use forebay_config::worker::{self as config, Ensemble, Ports, Step, StepKind};
use forebay_proto::inference::model_config::SchedulingChoice;
use forebay_proto::inference::{ModelConfig, model_ensembling};

use super::Findings;
use super::signature::{Batching, Declared, DeclaredTensor};

pub(super) const PLATFORM: &str = "ensemble";

/// None: it is wrong, and `findings` say why.
pub(super) fn read(
    config: &ModelConfig,
    declared: &Declared,
    findings: &mut Findings,
) -> Option<Ensemble> {
    ignored(config, findings);
    let Some(SchedulingChoice::EnsembleScheduling(scheduling)) = &config.scheduling_choice else {
        findings.problem("the platform 'ensemble' needs ensemble_scheduling");
        return None;
    };
    if scheduling.step.is_empty() {
        findings.problem("ensemble_scheduling must have one step or more");
        return None;
    }
    if scheduling.max_inflight_requests > 0 {
        findings.note(
            "ensemble_scheduling.max_inflight_requests",
            "not supported, requests wait in the queues of the models",
        );
    }
    let steps = scheduling.step.iter().enumerate();
    let steps = steps
        .map(|(index, said)| step(index, said, findings))
        .collect();
    let rows = matches!(declared.batching, Batching::Rows(_));
    let tensors = |tensors: &[DeclaredTensor]| -> Vec<config::Declared> {
        tensors.iter().map(|tensor| whole(tensor, rows)).collect()
    };
    let made = Ensemble::new(tensors(&declared.inputs), tensors(&declared.outputs), steps);
    made.map_err(|errors| {
        for error in errors {
            findings.problem(format!("ensemble_scheduling: {error}"));
        }
    })
    .ok()
}

fn step(index: usize, said: &model_ensembling::Step, findings: &mut Findings) -> Step {
    let place = format!("ensemble_scheduling.step[{index}]");
    let name = &said.model_name;
    if name.is_empty() {
        findings.problem(format!("{place} must specify 'model_name'"));
    }
    if said.model_version < -1 {
        findings.problem(format!(
            "{place}.model_version is {}, expected a positive number, or -1 for the version that is served",
            said.model_version
        ));
    }
    if !said.model_namespace.is_empty() {
        findings.note(
            &format!("{place}.model_namespace"),
            "of no effect, there is one repository",
        );
    }
    Step {
        kind: StepKind::Model {
            name: name.clone(),
            version: u64::try_from(said.model_version)
                .ok()
                .filter(|version| *version > 0),
        },
        ports: Ports {
            inputs: said.input_map.clone().into_iter().collect(),
            outputs: said.output_map.clone().into_iter().collect(),
        },
    }
}

/// With the batch axis that the file leaves out.
fn whole(tensor: &DeclaredTensor, rows: bool) -> config::Declared {
    let axis = rows.then_some(-1);
    config::Declared {
        name: tensor.name.clone(),
        datatype: Some(tensor.datatype.name().to_owned()),
        shape: Some(
            axis.into_iter()
                .chain(tensor.dims.iter().copied())
                .collect(),
        ),
    }
}

fn ignored(config: &ModelConfig, findings: &mut Findings) {
    let has_reshape = |reshape: bool, name: &str, findings: &mut Findings| {
        if reshape {
            findings.problem(format!(
                "reshape of '{name}' is not supported for an ensemble"
            ));
        }
    };
    for input in &config.input {
        has_reshape(input.reshape.is_some(), &input.name, findings);
        if input.optional {
            findings.note(
                &format!("input '{}' optional", input.name),
                "it may be left out if every step that takes it allows that",
            );
        }
    }
    for output in &config.output {
        has_reshape(output.reshape.is_some(), &output.name, findings);
        if !output.label_filename.is_empty() {
            findings.note(
                &format!("output '{}' label_filename", output.name),
                "not supported for an ensemble",
            );
        }
    }
    let table = [
        (!config.instance_group.is_empty(), "instance_group"),
        (!config.model_warmup.is_empty(), "model_warmup"),
        (config.optimization.is_some(), "optimization"),
        (
            !config.default_model_filename.is_empty(),
            "default_model_filename",
        ),
        (!config.parameters.is_empty(), "parameters"),
    ];
    for (_, field) in table.iter().filter(|(is_said, _)| *is_said) {
        findings.note(
            field,
            "of no effect for an ensemble, its models have theirs",
        );
    }
}
