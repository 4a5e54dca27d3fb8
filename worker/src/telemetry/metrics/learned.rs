//! What the worker knows about its models: where they run, what memory they take, and how long
//! batches take.

use super::{Shown, engines, gauge};
use crate::telemetry::prometheus::Page;

pub fn write(page: &mut Page, models: &[Shown<'_>]) {
    let name = "forebay_best_batch_rows";
    let help =
        "Batch size with the least time per row, as learned so far of the rows that come most.";
    gauge(name, help).write(page);
    for (shown, _) in engines(models) {
        page.sample(name, &shown.labels(), shown.statistics.best_size);
    }
    let name = "forebay_expected_batch_seconds";
    let help = "Expected time of a batch by its rows and by the least bytes of such a row, as learned so far.";
    gauge(name, help).write(page);
    for (shown, model) in engines(models) {
        for learned in model.learned() {
            let row_bytes = learned.row_bytes.to_string();
            for (rows, expected) in learned.curve {
                let [model, version, row_bytes] = shown.labelled("row_bytes", &row_bytes);
                let labels = [model, version, row_bytes, ("rows", &rows.to_string())];
                page.sample(name, &labels, expected.as_secs_f64());
            }
        }
    }
    let name = "forebay_model_memory_bytes";
    let help =
        "Memory of the machine that the model's instances take: weights, and what runs grew to.";
    gauge(name, help).write(page);
    for (shown, model) in engines(models) {
        page.sample(name, &shown.labels(), model.memory_bytes());
    }
    let name = "forebay_instances_unloaded";
    let help = "Instances that are not in memory because of memory_budget; they come back when they have something to run.";
    gauge(name, help).write(page);
    for (shown, model) in engines(models) {
        page.sample(name, &shown.labels(), model.unloaded_instances());
    }
    let name = "forebay_model_info";
    let help = "Always 1; says which execution provider runs the model.";
    gauge(name, help).write(page);
    for (shown, model) in engines(models) {
        let fell_back = match model.provider_note() {
            Some(_) => "true",
            None => "false",
        };
        let [name_label, version, provider] = shown.labelled("provider", model.provider());
        let labels = [name_label, version, provider, ("fell_back", fell_back)];
        page.sample(name, &labels, 1);
    }
}
