//! `max_batch_size` and `dynamic_batching`.

use std::time::Duration;

use forebay_config::worker::Overrides;
use forebay_proto::inference::model_config::SchedulingChoice;
use forebay_proto::inference::model_queue_policy::TimeoutAction;
use forebay_proto::inference::{ModelConfig, ModelDynamicBatching, ModelQueuePolicy};

use super::Findings;
use super::limits::{PRIORITY_LEVELS, QUEUE_DELAY_MICROS, QUEUE_SIZE};
use super::signature::{Batching, Declared};

pub(super) fn read(
    config: &ModelConfig,
    declared: &Declared,
    overrides: &mut Overrides,
    findings: &mut Findings,
) {
    if let Batching::Rows(rows) = declared.batching {
        overrides.max_batch_size = Some(rows);
    }
    match &config.scheduling_choice {
        Some(SchedulingChoice::DynamicBatching(dynamic)) => {
            let rows = match declared.batching {
                Batching::Rows(rows) => rows,
                Batching::Unsaid | Batching::None => 0,
            };
            overrides.dynamic_batching = Some(true);
            self::dynamic(dynamic, rows, overrides, findings);
        }
        Some(SchedulingChoice::SequenceBatching(_)) => {
            findings.problem("sequence_batching is not supported");
        }
        Some(SchedulingChoice::EnsembleScheduling(_)) => {
            findings.problem("ensemble_scheduling needs the platform 'ensemble'");
        }
        None => without(declared, overrides, findings),
    }
}

/// Triton turns dynamic batching on by itself only where it completes the tensors from the model.
fn without(declared: &Declared, overrides: &mut Overrides, findings: &mut Findings) {
    let complete = !declared.inputs.is_empty() && !declared.outputs.is_empty();
    match declared.batching {
        Batching::Rows(rows) if rows > 1 && complete => {
            overrides.dynamic_batching = Some(false);
            findings.note(
                "dynamic_batching",
                "it is not there, so requests do not share batches; dynamic_batching = true in [models.NAME] lets them",
            );
        }
        Batching::Rows(_) => overrides.dynamic_batching = Some(true),
        Batching::Unsaid | Batching::None => {}
    }
}

fn dynamic(
    dynamic: &ModelDynamicBatching,
    rows: u32,
    overrides: &mut Overrides,
    findings: &mut Findings,
) {
    let mut sizes = Vec::new();
    for size in &dynamic.preferred_batch_size {
        match u32::try_from(*size) {
            Ok(size) if (1..=rows).contains(&size) => sizes.push(size),
            Ok(0) | Err(_) => findings.problem(format!(
                "dynamic batching preferred size must be positive, found {size}"
            )),
            Ok(size) => findings.problem(format!(
                "dynamic batching preferred size must be <= max batch size ({rows}), found {size}"
            )),
        }
    }
    sizes.sort_unstable();
    sizes.dedup();
    overrides.preferred_batch_sizes = Some(sizes);
    let delay = findings.within(
        "dynamic_batching.max_queue_delay_microseconds",
        dynamic.max_queue_delay_microseconds,
        &QUEUE_DELAY_MICROS,
    );
    overrides.max_queue_delay = delay.map(Duration::from_micros);
    priorities(dynamic, overrides, findings);
    if let Some(policy) = &dynamic.default_queue_policy {
        queue(policy, overrides, findings);
    }
    if dynamic.preserve_ordering {
        findings.note(
            "dynamic_batching.preserve_ordering",
            "not supported, an answer goes as soon as it is there",
        );
    }
}

fn priorities(dynamic: &ModelDynamicBatching, overrides: &mut Overrides, findings: &mut Findings) {
    let (levels, default) = (dynamic.priority_levels, dynamic.default_priority_level);
    findings.within("dynamic_batching.priority_levels", levels, &PRIORITY_LEVELS);
    if levels == 0 && default > 0 {
        findings.note(
            "dynamic_batching.default_priority_level",
            "of no effect without priority_levels",
        );
    }
    if levels > 0 {
        match (u32::try_from(levels), u32::try_from(default)) {
            (Ok(levels), Ok(default)) if (1..=levels).contains(&default) => {
                overrides.priority_levels = Some(levels);
                overrides.default_priority = Some(default);
            }
            _ => findings.problem(format!(
                "default priority level must be in range [1, {levels}], found {default}"
            )),
        }
    }
    for level in dynamic.priority_queue_policy.keys() {
        findings.note(
            &format!("dynamic_batching.priority_queue_policy[{level}]"),
            "not supported, the default_queue_policy is for all priorities",
        );
    }
}

fn queue(policy: &ModelQueuePolicy, overrides: &mut Overrides, findings: &mut Findings) {
    if policy.max_queue_size > 0 {
        overrides.max_queue_size = findings.within(
            "dynamic_batching.default_queue_policy.max_queue_size",
            policy.max_queue_size,
            &QUEUE_SIZE,
        );
    }
    if policy.default_timeout_microseconds > 0 {
        findings.note(
            "dynamic_batching.default_queue_policy.default_timeout_microseconds",
            "not supported, as it bounds the time in the queue alone; default_timeout in [models.NAME] bounds \
             the whole request",
        );
    }
    if policy.timeout_action() == TimeoutAction::Delay {
        findings.note(
            "dynamic_batching.default_queue_policy.timeout_action",
            "DELAY is not supported, what cannot be answered in time is refused",
        );
    }
}
