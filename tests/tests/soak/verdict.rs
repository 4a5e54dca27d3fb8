//! Whether the worker's counters agree with what the callers saw, once nothing is under way any more.

use std::time::{Duration, Instant};

use anyhow::ensure;
use forebay_proto::inference::{ModelStatistics, ModelStatisticsRequest, StatisticDuration};
use forebay_tests::client::{Inference, Rest};

use crate::page::Page;
use crate::traffic::{Seen, Shared};

/// Runs whose callers left may still go on for a moment.
const REST: Duration = Duration::from_secs(30);

pub async fn counters(
    rest: &Rest,
    mut client: Inference,
    shared: &Shared,
) -> anyhow::Result<Vec<String>> {
    let page = at_rest(rest).await?;
    let mut problems = Vec::new();
    for (model, seen) in shared.seen() {
        // Its counters began anew with each version.
        if model != "add" {
            problems.extend(model_counters(&page, &model, seen));
        }
    }
    for counter in [
        "forebay_split_requests_total",
        "forebay_padding_elements_total",
    ] {
        let counted = page.sum(counter, "model=\"padded\"");
        println!("padded: {counter} {counted}");
        if counted == 0.0 {
            problems.push(format!("padded: {counter} counted nothing"));
        }
    }
    let request = ModelStatisticsRequest::default();
    let statistics = client.model_statistics(request).await?.into_inner();
    ensure!(!statistics.model_stats.is_empty(), "no statistics");
    for model in &statistics.model_stats {
        // An ensemble has no batches of its own.
        if model.name != "chain" {
            problems.extend(batches(model));
        }
        if model.name == "cached" {
            problems.extend(cache(model));
        }
    }
    Ok(problems)
}

/// The page when nothing waits or runs.
async fn at_rest(rest: &Rest) -> anyhow::Result<Page> {
    let end = Instant::now() + REST;
    loop {
        let page = Page::read(rest).await?;
        let open: Vec<(&str, f64)> = [
            "forebay_requests_in_flight",
            "nv_inference_pending_request_count",
            "forebay_queued_rows",
            "forebay_cache_runs",
            "forebay_cache_waiting",
        ]
        .into_iter()
        .map(|gauge| (gauge, page.sum(gauge, "")))
        .filter(|(_, value)| *value != 0.0)
        .collect();
        if open.is_empty() {
            return Ok(page);
        }
        ensure!(Instant::now() < end, "after {REST:?} of rest: {open:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Of a model that was loaded once. What callers did not wait for may have ended in any way, or never come.
fn model_counters(page: &Page, model: &str, seen: Seen) -> Vec<String> {
    let label = format!("model=\"{model}\"");
    let succeeded = page.sum("nv_inference_request_success", &label) as u64;
    let failed = page.sum("nv_inference_request_failure", &label) as u64;
    let unknown = seen.left;
    let agrees = |counted: u64, saw: u64| (saw..=saw + unknown).contains(&counted);
    let mut problems = Vec::new();
    if !agrees(succeeded, seen.right) {
        problems.push(format!(
            "{model}: counted {succeeded} successes of {seen:?}"
        ));
    }
    if !agrees(failed, seen.refused) {
        problems.push(format!("{model}: counted {failed} failures of {seen:?}"));
    }
    if succeeded + failed > seen.sent {
        problems.push(format!(
            "{model}: counted {succeeded} + {failed} of {seen:?}"
        ));
    }
    problems
}

/// Runs and rows add up over the batch sizes.
fn batches(model: &ModelStatistics) -> Vec<String> {
    let runs: u64 = model
        .batch_stats
        .iter()
        .map(|size| count(&size.compute_infer))
        .sum();
    let rows: u64 = model
        .batch_stats
        .iter()
        .map(|size| size.batch_size * count(&size.compute_infer))
        .sum();
    let mut problems = Vec::new();
    if runs != model.execution_count || rows != model.inference_count {
        problems.push(format!(
            "{}: {} runs and {} rows, but by batch size {runs} and {rows}",
            model.name, model.execution_count, model.inference_count
        ));
    }
    problems
}

/// Every request was a hit or a miss, and only misses ran.
fn cache(model: &ModelStatistics) -> Vec<String> {
    let Some(statistics) = &model.inference_stats else {
        return vec!["cached: no statistics".to_owned()];
    };
    let success = count(&statistics.success);
    let (hits, misses) = (count(&statistics.cache_hit), count(&statistics.cache_miss));
    println!("cached: {hits} hits, {misses} misses");
    let mut problems = Vec::new();
    if hits + misses != success || hits == 0 || misses == 0 {
        problems.push(format!(
            "cached: {hits} hits and {misses} misses of {success}"
        ));
    }
    if model.execution_count > misses {
        problems.push(format!(
            "cached: {} runs for {misses} misses",
            model.execution_count
        ));
    }
    problems
}

fn count(duration: &Option<StatisticDuration>) -> u64 {
    duration.as_ref().map_or(0, |duration| duration.count)
}
