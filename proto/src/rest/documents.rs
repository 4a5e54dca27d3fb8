//! Answers other than inference, as JSON: each document is the message with its field names.

mod config;

pub use config::model_config;

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use crate::inference::model_metadata_response::TensorMetadata;
use crate::inference::{
    BatchingStatistics, InferBatchStatistics, InferStatistics, ModelMetadataResponse,
    ModelStatistics, ModelStatisticsResponse, RepositoryIndexResponse, ServerMetadataResponse,
    StatisticDuration,
};

/// The status that answers a question of liveness or readiness: clients and probes look at it alone.
pub fn readiness_status(ready: bool) -> StatusCode {
    if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

pub fn live(live: bool) -> Bytes {
    document(&json!({ "live": live }))
}

pub fn ready(ready: bool) -> Bytes {
    document(&json!({ "ready": ready }))
}

pub fn model_ready(name: &str, ready: bool) -> Bytes {
    document(&json!({ "name": name, "ready": ready }))
}

pub fn server_metadata(metadata: &ServerMetadataResponse) -> Bytes {
    document(&json!({
        "name": metadata.name,
        "version": metadata.version,
        "extensions": metadata.extensions,
    }))
}

pub fn model_metadata(metadata: &ModelMetadataResponse) -> Bytes {
    document(&json!({
        "name": metadata.name,
        "versions": metadata.versions,
        "platform": metadata.platform,
        "inputs": tensors(&metadata.inputs),
        "outputs": tensors(&metadata.outputs),
    }))
}

pub fn model_statistics(statistics: &ModelStatisticsResponse) -> Bytes {
    let models: Vec<Value> = statistics.model_stats.iter().map(model).collect();
    document(&json!({ "model_stats": models }))
}

/// An array with one object per model version; a model that was never loaded has neither version nor state.
pub fn repository_index(index: &RepositoryIndexResponse) -> Bytes {
    let models = index.models.iter().map(|model| {
        let mut entry = json!({ "name": model.name });
        let optional = [
            ("version", &model.version),
            ("state", &model.state),
            ("reason", &model.reason),
        ];
        for (key, value) in optional {
            if !value.is_empty() {
                entry[key] = json!(value);
            }
        }
        entry
    });
    document(&models.collect())
}

fn document(value: &Value) -> Bytes {
    value.to_string().into()
}

fn tensors(tensors: &[TensorMetadata]) -> Value {
    let tensors = tensors.iter().map(|tensor| {
        json!({
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": tensor.shape,
        })
    });
    tensors.collect()
}

fn model(statistics: &ModelStatistics) -> Value {
    let batches: Vec<Value> = statistics.batch_stats.iter().map(batch).collect();
    let memory: Vec<Value> = statistics
        .memory_usage
        .iter()
        .map(|usage| {
            json!({
                "type": usage.r#type,
                "id": usage.id,
                "byte_size": usage.byte_size,
            })
        })
        .collect();
    let responses: serde_json::Map<String, Value> = statistics
        .response_stats
        .iter()
        .map(|(key, response)| {
            let value = json!({
                "compute_infer": duration(response.compute_infer),
                "compute_output": duration(response.compute_output),
                "success": duration(response.success),
                "fail": duration(response.fail),
                "empty_response": duration(response.empty_response),
                "cancel": duration(response.cancel),
            });
            (key.clone(), value)
        })
        .collect();
    let mut object = json!({
        "name": statistics.name,
        "version": statistics.version,
        "last_inference": statistics.last_inference,
        "inference_count": statistics.inference_count,
        "execution_count": statistics.execution_count,
        "inference_stats": inference(&statistics.inference_stats.unwrap_or_default()),
        "batch_stats": batches,
        "memory_usage": memory,
        "response_stats": responses,
    });
    if let Some(statistics) = &statistics.batching {
        object["batching"] = batching(statistics);
    }
    object
}

fn batching(statistics: &BatchingStatistics) -> Value {
    let learned = statistics.learned.iter().map(|learned| {
        let points = learned.points.iter().map(|point| {
            json!({
                "rows": point.rows,
                "expected_ns": point.expected_ns,
            })
        });
        json!({
            "row_bytes": learned.row_bytes,
            "best_batch_size": learned.best_batch_size,
            "points": points.collect::<Vec<Value>>(),
        })
    });
    let by_priority: serde_json::Map<String, Value> = statistics
        .queued_rows_by_priority
        .iter()
        .map(|(priority, rows)| (priority.to_string(), json!(rows)))
        .collect();
    json!({
        "submitted": statistics.submitted,
        "cancelled": statistics.cancelled,
        "refused": statistics.refused,
        "failed_runs": statistics.failed_runs,
        "queued_requests": statistics.queued_requests,
        "queued_rows": statistics.queued_rows,
        "queued_rows_by_priority": by_priority,
        "terminated_runs": statistics.terminated_runs,
        "split_requests": statistics.split_requests,
        "input_elements": statistics.input_elements,
        "padding_elements": statistics.padding_elements,
        "learned": learned.collect::<Vec<Value>>(),
    })
}

fn inference(statistics: &InferStatistics) -> Value {
    json!({
        "success": duration(statistics.success),
        "fail": duration(statistics.fail),
        "queue": duration(statistics.queue),
        "compute_input": duration(statistics.compute_input),
        "compute_infer": duration(statistics.compute_infer),
        "compute_output": duration(statistics.compute_output),
        "cache_hit": duration(statistics.cache_hit),
        "cache_miss": duration(statistics.cache_miss),
    })
}

fn batch(statistics: &InferBatchStatistics) -> Value {
    json!({
        "batch_size": statistics.batch_size,
        "compute_input": duration(statistics.compute_input),
        "compute_infer": duration(statistics.compute_infer),
        "compute_output": duration(statistics.compute_output),
    })
}

/// Clients index every duration without asking whether it is there, so a missing one is zero.
fn duration(duration: Option<StatisticDuration>) -> Value {
    let StatisticDuration { count, ns } = duration.unwrap_or_default();
    json!({ "count": count, "ns": ns })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::LearnedDurations;
    use crate::inference::learned_durations::Point;
    use crate::inference::repository_index_response::ModelIndex;

    fn value(bytes: &Bytes) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn readiness_is_told_by_status_and_body() {
        assert_eq!(readiness_status(true), 200);
        assert_eq!(readiness_status(false), 503);
        assert_eq!(live(true), r#"{"live":true}"#);
        assert_eq!(ready(false), r#"{"ready":false}"#);
        assert_eq!(
            value(&model_ready("m", true)),
            json!({"name": "m", "ready": true})
        );
    }

    #[test]
    fn metadata_keeps_the_names_of_the_fields() {
        let server = ServerMetadataResponse {
            name: "s".into(),
            version: "1".into(),
            extensions: vec!["statistics".into()],
        };
        assert_eq!(
            value(&server_metadata(&server)),
            json!({"name": "s", "version": "1", "extensions": ["statistics"]})
        );
        let model = ModelMetadataResponse {
            name: "m".into(),
            versions: vec!["1".into(), "2".into()],
            platform: "onnxruntime_onnx".into(),
            inputs: vec![TensorMetadata {
                name: "x".into(),
                datatype: "FP32".into(),
                shape: vec![-1, 64],
            }],
            outputs: vec![],
        };
        assert_eq!(
            value(&model_metadata(&model)),
            json!({
                "name": "m", "versions": ["1", "2"], "platform": "onnxruntime_onnx",
                "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 64]}], "outputs": [],
            })
        );
    }

    #[test]
    fn statistics_have_every_duration() {
        let statistics = ModelStatisticsResponse {
            model_stats: vec![ModelStatistics {
                name: "m".into(),
                version: "1".into(),
                inference_count: 5,
                inference_stats: Some(InferStatistics {
                    success: Some(StatisticDuration { count: 5, ns: 70 }),
                    ..InferStatistics::default()
                }),
                batch_stats: vec![InferBatchStatistics {
                    batch_size: 4,
                    ..InferBatchStatistics::default()
                }],
                ..ModelStatistics::default()
            }],
        };
        let statistics = value(&model_statistics(&statistics));
        let model = &statistics["model_stats"][0];
        assert_eq!(model["inference_count"], 5);
        assert_eq!(
            model["inference_stats"]["success"],
            json!({"count": 5, "ns": 70})
        );
        assert_eq!(
            model["inference_stats"]["queue"],
            json!({"count": 0, "ns": 0})
        );
        assert_eq!(model["batch_stats"][0]["batch_size"], 4);
        assert_eq!(model["batch_stats"][0]["compute_infer"]["ns"], 0);
    }

    #[test]
    fn statistics_say_how_requests_were_batched() {
        let learned = LearnedDurations {
            row_bytes: 512,
            best_batch_size: 4,
            points: vec![Point {
                rows: 4,
                expected_ns: 70,
            }],
        };
        let batched = ModelStatistics {
            batching: Some(BatchingStatistics {
                submitted: 9,
                refused: [("queue_full".to_owned(), 2)].into(),
                queued_rows_by_priority: [(1, 7)].into(),
                learned: vec![learned],
                ..BatchingStatistics::default()
            }),
            ..ModelStatistics::default()
        };
        let statistics = value(&model_statistics(&ModelStatisticsResponse {
            model_stats: vec![batched, ModelStatistics::default()],
        }));
        let batching = &statistics["model_stats"][0]["batching"];
        assert_eq!(batching["submitted"], 9);
        assert_eq!(batching["refused"], json!({"queue_full": 2}));
        assert_eq!(batching["queued_rows_by_priority"], json!({"1": 7}));
        assert_eq!(
            batching["learned"],
            json!([{
                "row_bytes": 512,
                "best_batch_size": 4,
                "points": [{"rows": 4, "expected_ns": 70}],
            }])
        );
        assert!(statistics["model_stats"][1].get("batching").is_none());
    }

    #[test]
    fn the_index_is_an_array() {
        let index = RepositoryIndexResponse {
            models: vec![
                ModelIndex {
                    name: "m".into(),
                    version: "1".into(),
                    state: "READY".into(),
                    reason: String::new(),
                },
                ModelIndex {
                    name: "n".into(),
                    ..ModelIndex::default()
                },
            ],
        };
        assert_eq!(
            value(&repository_index(&index)),
            json!([{"name": "m", "version": "1", "state": "READY"}, {"name": "n"}])
        );
    }
}
