//! What models did with the requests: waiting, stacking, running.

use super::{Shown, counter, engines, family, gauge, histogram};
use crate::batch::statistics::Statistics;
use crate::measure::{Batches, Histogram, microseconds};
use crate::telemetry::prometheus::{Page, Scale};

pub fn write(page: &mut Page, models: &[Shown<'_>]) {
    counters(page, models);
    parts(page, models);
    durations(page, models);
    waiting(page, models);
    padding(page, models);
    histograms(page, models);
}

fn counters(page: &mut Page, models: &[Shown<'_>]) {
    let header = counter(
        "nv_inference_count",
        "Rows of successful runs of the model.",
    );
    family(page, header, models, |model| {
        model.statistics.inference_count
    });
    let header = counter("nv_inference_exec_count", "Successful runs of the model.");
    family(page, header, models, |model| {
        model.statistics.execution_count
    });
    let name = "forebay_failed_runs_total";
    let help =
        "Runs of the model that failed; requests of such a batch are run again by themselves.";
    counter(name, help).write(page);
    for (shown, model) in engines(models) {
        page.sample(name, &shown.labels(), model.batches().failed());
    }
    let name = "forebay_requests_refused_total";
    counter(
        name,
        "Requests that were not let into the queue, by reason.",
    )
    .write(page);
    for (shown, _) in engines(models) {
        for (reason, count) in shown.statistics.refused.by_reason() {
            page.sample(name, &shown.labelled("reason", reason), count);
        }
    }
}

/// Requests that did not go whole, and runs that did not end.
fn parts(page: &mut Page, models: &[Shown<'_>]) {
    let header = counter(
        "forebay_split_requests_total",
        "Requests that were run in parts and answered.",
    );
    family(page, header, models, |model| model.statistics.split);
    let header = counter(
        "forebay_terminated_runs_total",
        "Runs that were ended since nobody waited for them any more.",
    );
    family(page, header, models, |model| model.statistics.terminated);
}

fn durations(page: &mut Page, models: &[Shown<'_>]) {
    type Of = fn(&Statistics) -> u64;
    let families: [(&str, &str, Of); 4] = [
        (
            "nv_inference_queue_duration_us",
            "Waiting for an instance.",
            |statistics| microseconds(statistics.queue.duration),
        ),
        (
            "nv_inference_compute_input_duration_us",
            "Stacking inputs.",
            |statistics| microseconds(statistics.compute_input.duration),
        ),
        (
            "nv_inference_compute_infer_duration_us",
            "Running the model.",
            |statistics| microseconds(statistics.compute_infer.duration),
        ),
        (
            "nv_inference_compute_output_duration_us",
            "Slicing outputs.",
            |statistics| microseconds(statistics.compute_output.duration),
        ),
    ];
    for (name, help, of) in families {
        let help = format!("{help} Cumulative microseconds of requests that a model ran.");
        counter(name, &help).write(page);
        for model in models {
            page.sample(name, &model.labels(), of(&model.statistics));
        }
    }
}

fn waiting(page: &mut Page, models: &[Shown<'_>]) {
    let name = "nv_inference_pending_request_count";
    let header = gauge(name, "Requests that wait for an instance.");
    family(page, header, models, |model| {
        model.statistics.queued_requests as u64
    });
    let header = gauge("forebay_queued_rows", "Rows that wait for an instance.");
    family(page, header, models, |model| {
        model.statistics.queued_rows as u64
    });
    let name = "forebay_queued_rows_by_priority";
    let help =
        "Rows that wait for an instance, by priority; a request that goes alone counts for one.";
    gauge(name, help).write(page);
    for (shown, model) in engines(models) {
        for (priority, rows) in model.queued_by_priority() {
            let priority = priority.to_string();
            page.sample(name, &shown.labelled("priority", &priority), rows);
        }
    }
}

/// Of models that are padded.
fn padding(page: &mut Page, models: &[Shown<'_>]) {
    let name = "forebay_input_elements_total";
    let help =
        "Elements of the inputs that may be padded, as the model ran them, padding included.";
    counter(name, help).write(page);
    for (shown, _) in engines(models).filter(|(_, model)| model.config().padding.is_some()) {
        page.sample(name, &shown.labels(), shown.statistics.padding.all);
    }
    let name = "forebay_padding_elements_total";
    counter(name, "Elements among them that no caller sent.").write(page);
    for (shown, _) in engines(models).filter(|(_, model)| model.config().padding.is_some()) {
        page.sample(name, &shown.labels(), shown.statistics.padding.filled);
    }
}

fn histograms(page: &mut Page, models: &[Shown<'_>]) {
    type Pick = fn(&Batches) -> (&Histogram, Scale);
    let families: [(&str, &str, Pick); 3] = [
        ("forebay_batch_rows", "Rows of each run.", |batches| {
            (batches.rows(), Scale::ONES)
        }),
        (
            "forebay_queue_seconds",
            "Wait of each request for an instance.",
            |batches| (batches.queue(), Scale::MILLIONTHS),
        ),
        (
            "forebay_execution_seconds",
            "Time of each run.",
            |batches| (batches.execution(), Scale::MILLIONTHS),
        ),
    ];
    for (name, help, pick) in families {
        histogram(name, help).write(page);
        for (shown, model) in engines(models) {
            page.histogram(name, &shown.labels(), pick(model.batches()));
        }
    }
}
