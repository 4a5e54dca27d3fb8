//! What models did, in the words of the protocol, and beyond them how requests were batched.
//!
//! `response_stats` stays empty, as Triton's does for models that answer each request once.

use std::time::Duration;

use forebay_proto::inference::learned_durations::Point;
use forebay_proto::inference::{self as wire};

use crate::batch::statistics::{Statistics, Total};
use crate::model::Model;
use crate::served::Served;

pub fn statistics(model: &Served) -> wire::ModelStatistics {
    let statistics = model.statistics();
    let cache = model.cache_statistics().unwrap_or_default().counts;
    wire::ModelStatistics {
        name: model.name().to_owned(),
        version: model.version().to_string(),
        last_inference: statistics.last_inference_ms,
        inference_count: statistics.inference_count,
        execution_count: statistics.execution_count,
        inference_stats: Some(wire::InferStatistics {
            success: total(statistics.success),
            fail: total(statistics.fail),
            queue: total(statistics.queue),
            compute_input: total(statistics.compute_input),
            compute_infer: total(statistics.compute_infer),
            compute_output: total(statistics.compute_output),
            cache_hit: total(cache.hit),
            cache_miss: total(cache.miss),
        }),
        batch_stats: statistics
            .batch_sizes
            .iter()
            .map(|(rows, size)| wire::InferBatchStatistics {
                batch_size: *rows as u64,
                compute_input: total(size.compute_input),
                compute_infer: total(size.compute_infer),
                compute_output: total(size.compute_output),
            })
            .collect(),
        memory_usage: model.model().map(memory).into_iter().collect(),
        batching: model.model().map(|model| batching(model, &statistics)),
        ..wire::ModelStatistics::default()
    }
}

/// Memory of the machine, as Triton names it.
fn memory(model: &Model) -> wire::MemoryUsage {
    wire::MemoryUsage {
        r#type: "CPU".to_owned(),
        id: 0,
        byte_size: model.memory_bytes(),
    }
}

fn batching(model: &Model, statistics: &Statistics) -> wire::BatchingStatistics {
    let learned = model.learned().into_iter().map(|learned| {
        let points = learned.curve.into_iter().map(|(rows, expected)| Point {
            rows: rows as u64,
            expected_ns: nanoseconds(expected),
        });
        wire::LearnedDurations {
            row_bytes: learned.row_bytes as u64,
            best_batch_size: learned.best_size as u64,
            points: points.collect(),
        }
    });
    let queued = model.queued_by_priority().into_iter();
    let refused = statistics.refused.by_reason().into_iter();
    wire::BatchingStatistics {
        submitted: statistics.submitted,
        cancelled: statistics.cancelled,
        refused: refused
            .map(|(reason, count)| (reason.to_owned(), count))
            .collect(),
        failed_runs: model.batches().failed(),
        queued_requests: statistics.queued_requests as u64,
        queued_rows: statistics.queued_rows as u64,
        input_elements: statistics.padding.all,
        padding_elements: statistics.padding.filled,
        learned: learned.collect(),
        queued_rows_by_priority: queued
            .map(|(priority, rows)| (priority, rows as u64))
            .collect(),
        terminated_runs: statistics.terminated,
        split_requests: statistics.split,
    }
}

fn total(total: Total) -> Option<wire::StatisticDuration> {
    Some(wire::StatisticDuration {
        count: total.count,
        ns: nanoseconds(total.duration),
    })
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
