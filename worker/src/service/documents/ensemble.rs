//! The configuration of an ensemble, as Triton would say it. Built-in steps stand there like models.

use forebay_config::worker::{Step, StepKind};
use forebay_proto::inference::{self as wire, model_config, model_ensembling};

use super::{config_dims, limit_as_sent};
use crate::inference::TensorSpec;
use crate::pipeline::Ensemble;

pub const PLATFORM: &str = "ensemble";

pub fn configuration(ensemble: &Ensemble) -> wire::ModelConfig {
    let limit = ensemble.row_limit();
    let input = |spec: &TensorSpec| wire::ModelInput {
        name: spec.name.clone(),
        data_type: spec.datatype.config_type().into(),
        dims: config_dims(spec, limit),
        optional: spec.optional,
        ..wire::ModelInput::default()
    };
    let output = |spec: &TensorSpec| wire::ModelOutput {
        name: spec.name.clone(),
        data_type: spec.datatype.config_type().into(),
        dims: config_dims(spec, limit),
        ..wire::ModelOutput::default()
    };
    let scheduling = wire::ModelEnsembling {
        step: ensemble.config().steps.iter().map(step).collect(),
        ..wire::ModelEnsembling::default()
    };
    wire::ModelConfig {
        name: ensemble.name().to_owned(),
        platform: PLATFORM.to_owned(),
        max_batch_size: limit_as_sent(limit),
        input: ensemble.signature().inputs.iter().map(input).collect(),
        output: ensemble.signature().outputs.iter().map(output).collect(),
        scheduling_choice: Some(model_config::SchedulingChoice::EnsembleScheduling(
            scheduling,
        )),
        ..wire::ModelConfig::default()
    }
}

fn step(step: &Step) -> model_ensembling::Step {
    let (name, version) = match &step.kind {
        StepKind::Model { name, version } => (name.clone(), *version),
        kind => (
            kind.built_in()
                .map_or_else(String::new, |step| step.name.to_owned()),
            None,
        ),
    };
    model_ensembling::Step {
        model_name: name,
        // −1 stands for the version that is served.
        model_version: version.map_or(-1, |version| i64::try_from(version).unwrap_or(i64::MAX)),
        input_map: step.ports.inputs.clone().into_iter().collect(),
        output_map: step.ports.outputs.clone().into_iter().collect(),
        ..model_ensembling::Step::default()
    }
}
