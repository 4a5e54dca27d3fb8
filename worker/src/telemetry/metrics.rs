//! What `/metrics` says: the models' own statistics under the names that Triton's dashboards use, and
//! histograms that only this worker keeps.

mod cache;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use super::prometheus::{Histogram, Kind, Labels, Page};
use crate::batch::report::BatchReport;
use crate::batch::statistics::{Statistics, Total};
use crate::cache::CacheStatistics;

/// Rows of a batch.
const ROWS: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024];
/// Microseconds, from what a tiny model takes to what a client will not wait for.
const MICROSECONDS: &[u64] = &[
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 10_000_000,
];
const MICROSECONDS_PER_SECOND: f64 = 1e6;

/// Kept from the first batch of a model until the process ends.
#[derive(Debug, Default)]
pub struct Metrics {
    models: RwLock<HashMap<String, BTreeMap<u64, Arc<ModelMetrics>>>>,
}

#[derive(Debug)]
struct ModelMetrics {
    batch_rows: Histogram,
    queue: Histogram,
    execution: Histogram,
    failures: Mutex<BTreeMap<&'static str, u64>>,
}

impl Default for ModelMetrics {
    fn default() -> ModelMetrics {
        ModelMetrics {
            batch_rows: Histogram::new(ROWS, 1.0),
            queue: Histogram::new(MICROSECONDS, MICROSECONDS_PER_SECOND),
            execution: Histogram::new(MICROSECONDS, MICROSECONDS_PER_SECOND),
            failures: Mutex::default(),
        }
    }
}

/// A model as the page shows it.
#[derive(Debug)]
pub struct Shown<'a> {
    pub name: &'a str,
    pub version: u64,
    /// Where the model runs, if an engine runs it.
    pub provider: Option<&'a str>,
    /// It would rather run elsewhere.
    pub fell_back: bool,
    pub statistics: Statistics,
    pub cache: Option<CacheStatistics>,
}

impl Metrics {
    /// Records an executed batch. Once per batch, on the instance's thread.
    pub fn batch(&self, report: &BatchReport<'_>) {
        let model = self.model(report.model, report.version);
        model.batch_rows.observe(report.rows as u64);
        model.execution.observe(microseconds(report.run.duration()));
        for request in report.requests {
            let waited = request.started.saturating_duration_since(request.enqueued);
            model.queue.observe(microseconds(waited));
        }
    }

    /// Records a request to a model that got an error; `reason` as Triton names it.
    pub fn failure(&self, model: &str, version: u64, reason: &'static str) {
        let model = self.model(model, version);
        *model.failures.lock().entry(reason).or_default() += 1;
    }

    fn model(&self, name: &str, version: u64) -> Arc<ModelMetrics> {
        let known = self
            .models
            .read()
            .get(name)
            .and_then(|versions| versions.get(&version).cloned());
        known.unwrap_or_else(|| {
            let mut models = self.models.write();
            models
                .entry(name.to_owned())
                .or_default()
                .entry(version)
                .or_default()
                .clone()
        })
    }

    /// The whole page.
    pub fn page(&self, models: &[Shown<'_>]) -> String {
        let mut page = Page::default();
        self.counters(&mut page, models);
        durations(&mut page, models);
        gauges(&mut page, models);
        cache::write(&mut page, models);
        self.histograms(&mut page, models);
        page.into_text()
    }

    fn counters(&self, page: &mut Page, models: &[Shown<'_>]) {
        type Count = fn(&Statistics) -> u64;
        let families: [(&str, &str, Count); 3] = [
            (
                "nv_inference_request_success",
                "Requests answered with tensors.",
                |statistics| statistics.success.count,
            ),
            (
                "nv_inference_count",
                "Rows of requests answered with tensors.",
                |statistics| statistics.inference_count,
            ),
            (
                "nv_inference_exec_count",
                "Successful runs of the model.",
                |statistics| statistics.execution_count,
            ),
        ];
        for (name, help, count) in families {
            page.family(name, Kind::Counter, help);
            each(models, |labels, model| {
                page.sample(name, labels, count(&model.statistics))
            });
        }
        let name = "nv_inference_request_failure";
        page.family(name, Kind::Counter, "Requests without tensors, by reason.");
        each(models, |labels, model| {
            let failures = self
                .model(model.name, model.version)
                .failures
                .lock()
                .clone();
            let cancelled = Some(("CANCELED", model.statistics.cancelled));
            for (reason, count) in failures.into_iter().chain(cancelled) {
                page.sample(name, &[labels[0], labels[1], ("reason", reason)], count);
            }
        });
    }

    fn histograms(&self, page: &mut Page, models: &[Shown<'_>]) {
        type Pick = fn(&ModelMetrics) -> &Histogram;
        let families: [(&str, &str, Pick); 3] = [
            (
                "forebay_batch_rows",
                "Rows of each executed batch.",
                |model| &model.batch_rows,
            ),
            (
                "forebay_queue_seconds",
                "Wait of each request for an instance.",
                |model| &model.queue,
            ),
            ("forebay_execution_seconds", "Run of each batch.", |model| {
                &model.execution
            }),
        ];
        for (name, help, pick) in families {
            page.family(name, Kind::Histogram, help);
            each(models, |labels, model| {
                page.histogram(name, labels, pick(&self.model(model.name, model.version)));
            });
        }
    }
}

fn durations(page: &mut Page, models: &[Shown<'_>]) {
    type Of = fn(&Statistics) -> Total;
    let families: [(&str, &str, Of); 5] = [
        (
            "nv_inference_request_duration_us",
            "From submission to answer.",
            |statistics| statistics.success,
        ),
        (
            "nv_inference_queue_duration_us",
            "Waiting for an instance.",
            |statistics| statistics.queue,
        ),
        (
            "nv_inference_compute_input_duration_us",
            "Stacking inputs.",
            |statistics| statistics.compute_input,
        ),
        (
            "nv_inference_compute_infer_duration_us",
            "Running the model.",
            |statistics| statistics.compute_infer,
        ),
        (
            "nv_inference_compute_output_duration_us",
            "Slicing outputs.",
            |statistics| statistics.compute_output,
        ),
    ];
    for (name, help, of) in families {
        page.family(
            name,
            Kind::Counter,
            &format!("{help} Cumulative microseconds of successful requests."),
        );
        each(models, |labels, model| {
            page.sample(name, labels, microseconds(of(&model.statistics).duration));
        });
    }
}

fn gauges(page: &mut Page, models: &[Shown<'_>]) {
    let name = "nv_inference_pending_request_count";
    page.family(name, Kind::Gauge, "Requests that wait for an instance.");
    each(models, |labels, model| {
        page.sample(name, labels, model.statistics.queued_requests)
    });
    let name = "forebay_queued_rows";
    page.family(name, Kind::Gauge, "Rows that wait for an instance.");
    each(models, |labels, model| {
        page.sample(name, labels, model.statistics.queued_rows)
    });
    let name = "forebay_best_batch_rows";
    page.family(
        name,
        Kind::Gauge,
        "Batch size with the least time per row, as learned so far.",
    );
    each(models, |labels, model| {
        page.sample(name, labels, model.statistics.best_size)
    });
    let name = "forebay_model_info";
    page.family(
        name,
        Kind::Gauge,
        "Always 1; says which execution provider runs the model.",
    );
    each(models, |labels, model| {
        let Some(provider) = model.provider else {
            return;
        };
        let fell_back = if model.fell_back { "true" } else { "false" };
        let runs = [("provider", provider), ("fell_back", fell_back)];
        page.sample(name, &[labels[0], labels[1], runs[0], runs[1]], 1);
    });
}

/// Calls `write` for every model with the labels that all metrics of a model share.
fn each<'a>(models: &'a [Shown<'a>], mut write: impl FnMut(Labels<'_>, &'a Shown<'a>)) {
    for model in models {
        let version = model.version.to_string();
        write(&[("model", model.name), ("version", &version)], model);
    }
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::batch::report::{RequestReport, Span};

    fn report(requests: &[RequestReport], start: Instant) -> BatchReport<'_> {
        let at = |millis| start + Duration::from_millis(millis);
        BatchReport {
            model: "mlp",
            version: 2,
            instance: 0,
            rows: 3,
            gather: Span {
                start: at(10),
                end: at(11),
            },
            run: Span {
                start: at(11),
                end: at(15),
            },
            scatter: Span {
                start: at(15),
                end: at(16),
            },
            error: None,
            requests,
            any_traced: false,
        }
    }

    #[test]
    fn the_page_holds_tritons_names_and_our_histograms() {
        let metrics = Metrics::default();
        let start = Instant::now();
        let request = RequestReport {
            trace: None,
            rows: 3,
            enqueued: start,
            started: start + Duration::from_millis(10),
        };
        metrics.batch(&report(&[request], start));
        metrics.failure("mlp", 2, "REJECTED");
        let total = Total {
            count: 1,
            duration: Duration::from_millis(16),
        };
        let statistics = Statistics {
            success: total,
            inference_count: 3,
            execution_count: 1,
            queued_requests: 7,
            ..Statistics::default()
        };
        let page = metrics.page(&[Shown {
            name: "mlp",
            version: 2,
            provider: Some("cpu"),
            fell_back: true,
            statistics,
            cache: Some(CacheStatistics {
                bytes: 77,
                ..CacheStatistics::default()
            }),
        }]);
        for line in [
            "nv_inference_request_success{model=\"mlp\",version=\"2\"} 1",
            "nv_inference_count{model=\"mlp\",version=\"2\"} 3",
            "nv_inference_request_failure{model=\"mlp\",version=\"2\",reason=\"REJECTED\"} 1",
            "nv_inference_request_failure{model=\"mlp\",version=\"2\",reason=\"CANCELED\"} 0",
            "nv_inference_request_duration_us{model=\"mlp\",version=\"2\"} 16000",
            "nv_inference_pending_request_count{model=\"mlp\",version=\"2\"} 7",
            "nv_cache_num_hits_per_model{model=\"mlp\",version=\"2\"} 0",
            "forebay_cache_bytes{model=\"mlp\",version=\"2\"} 77",
            "forebay_batch_rows_bucket{model=\"mlp\",version=\"2\",le=\"2\"} 0",
            "forebay_batch_rows_bucket{model=\"mlp\",version=\"2\",le=\"4\"} 1",
            "forebay_queue_seconds_sum{model=\"mlp\",version=\"2\"} 0.01",
            "forebay_execution_seconds_bucket{model=\"mlp\",version=\"2\",le=\"0.0025\"} 0",
            "forebay_execution_seconds_bucket{model=\"mlp\",version=\"2\",le=\"0.005\"} 1",
            "forebay_model_info{model=\"mlp\",version=\"2\",provider=\"cpu\",fell_back=\"true\"} 1",
        ] {
            assert!(
                page.lines().any(|found| found == line),
                "no '{line}' in:\n{page}"
            );
        }
    }
}
