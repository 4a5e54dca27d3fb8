//! `deploy/examples/worker-caching.toml`, run: what was asked before is not run again, what is asked at the same
//! time is run once, and a model that is loaded anew forgets.

use std::path::Path;

use anyhow::Context;
use forebay_proto::inference::{ModelStatisticsRequest, RepositoryModelLoadRequest};
use forebay_tests::client::{
    self, Inference, Rest, floats, integers, output_floats, output_integers,
};
use forebay_tests::worker::{Repository, Worker};
use forebay_tests::{folder, onnx};
use tokio::task::JoinSet;

const ROW: [f32; 4] = [1.0, 2.0, 3.0, 4.0];
const EXAMPLE: &str = "../deploy/examples/worker-caching.toml";

/// Both models of the example, over a repository of this test's.
fn serve() -> anyhow::Result<(Repository, Worker)> {
    let repository = Repository::make(folder!()?)?;
    onnx::write_version(repository.models(), "embedder", 1, &onnx::add(1.0))?;
    onnx::write_version(repository.models(), "reranker", 1, &onnx::count())?;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(EXAMPLE);
    let example = std::fs::read_to_string(path).context(EXAMPLE)?;
    let config: Vec<&str> = example
        .lines()
        .filter(|line| !line.starts_with("repository ="))
        .collect();
    let worker = repository.serve_with(&config.join("\n"))?;
    Ok((repository, worker))
}

#[derive(Debug, PartialEq)]
struct Counts {
    success: u64,
    hits: u64,
    misses: u64,
    runs: u64,
}

async fn counts(client: &mut Inference, model: &str) -> anyhow::Result<Counts> {
    let request = ModelStatisticsRequest {
        name: model.to_owned(),
        ..Default::default()
    };
    let answer = client.model_statistics(request).await?.into_inner();
    let model = answer.model_stats.first().context("statistics")?;
    let inference = model.inference_stats.as_ref().context("statistics")?;
    let count = |duration: &Option<_>| -> u64 {
        let duration: &Option<forebay_proto::inference::StatisticDuration> = duration;
        duration.as_ref().map_or(0, |duration| duration.count)
    };
    Ok(Counts {
        success: count(&inference.success),
        hits: count(&inference.cache_hit),
        misses: count(&inference.cache_miss),
        runs: model.execution_count,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_before_is_not_run_again_until_the_model_is_loaded_anew()
-> anyhow::Result<()> {
    let (repository, worker) = serve()?;
    let mut grpc = client::inference(worker.grpc).await?;
    let rest = Rest::new(worker.http);
    let one_more = [2.0, 3.0, 4.0, 5.0];
    for _ in 0..2 {
        let answer = grpc.model_infer(floats("embedder", &ROW)).await?;
        assert_eq!(output_floats(answer.get_ref())?, one_more);
        assert_eq!(rest.infer("embedder", ROW).await?.floats()?, one_more);
    }
    grpc.model_infer(floats("embedder", &[0.0; 4])).await?;
    let want = Counts {
        success: 5,
        hits: 3,
        misses: 2,
        runs: 2,
    };
    assert_eq!(counts(&mut grpc, "embedder").await?, want);
    let page = rest.get("/metrics").await?;
    let page = std::str::from_utf8(&page.body)?;
    for line in [
        "nv_cache_num_hits_per_model{model=\"embedder\",version=\"1\"} 3",
        "nv_cache_num_misses_per_model{model=\"embedder\",version=\"1\"} 2",
        "nv_inference_exec_count{model=\"embedder\",version=\"1\"} 2",
        "nv_inference_request_success{model=\"embedder\",version=\"1\"} 5",
        "forebay_cache_entries{model=\"embedder\",version=\"1\"} 2",
    ] {
        assert!(
            page.lines().any(|found| found == line),
            "no '{line}' in:\n{page}"
        );
    }

    // The same version with another content.
    onnx::write_version(repository.models(), "embedder", 1, &onnx::add(10.0))?;
    let load = RepositoryModelLoadRequest {
        model_name: "embedder".to_owned(),
        ..Default::default()
    };
    grpc.repository_model_load(load).await?;
    let answer = grpc.model_infer(floats("embedder", &ROW)).await?;
    assert_eq!(output_floats(answer.get_ref())?, [11.0, 12.0, 13.0, 14.0]);
    let want = Counts {
        success: 1,
        hits: 0,
        misses: 1,
        runs: 1,
    };
    assert_eq!(counts(&mut grpc, "embedder").await?, want);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn identical_requests_at_the_same_time_are_run_once() -> anyhow::Result<()> {
    const CALLERS: u64 = 24;
    let (_repository, worker) = serve()?;
    let client = client::inference(worker.grpc).await?;
    // Long enough for all to come while it runs; whoever comes later finds the answer.
    let request = || integers("reranker", "n", &[50_000]);
    let callers = JoinSet::from_iter((0..CALLERS).map(|_| {
        let mut client = client.clone();
        async move { client.model_infer(request()).await }
    }));
    for answer in callers.join_all().await {
        assert_eq!(output_integers(answer?.get_ref())?, [100_000]);
    }
    let want = Counts {
        success: CALLERS,
        hits: CALLERS - 1,
        misses: 1,
        runs: 1,
    };
    assert_eq!(counts(&mut client.clone(), "reranker").await?, want);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_is_not_kept() -> anyhow::Result<()> {
    let (_repository, worker) = serve()?;
    let mut client = client::inference(worker.grpc).await?;
    let mut wrong = floats("embedder", &ROW);
    wrong.inputs[0].shape = vec![4, 1];
    for _ in 0..2 {
        assert!(client.model_infer(wrong.clone()).await.is_err());
    }
    let counts = counts(&mut client, "embedder").await?;
    assert_eq!((counts.hits, counts.runs), (0, 0));
    Ok(())
}
