//! Runs that the worker does on the thread that received the request, seen from outside.

use std::time::{Duration, Instant};

use anyhow::ensure;
use forebay_tests::client::{self, floats, integers, output_floats};
use forebay_tests::folder;
use forebay_tests::worker::Repository;
use tonic::{Code, Request};

/// More than it takes until short runs are trusted.
const MANY: usize = 200;

#[tokio::test(flavor = "multi_thread")]
async fn one_caller_after_the_other_is_answered_and_counted() -> anyhow::Result<()> {
    let worker = Repository::make(folder!()?)?.serve()?;
    let mut inference = client::inference(worker.grpc).await?;
    for number in 0..MANY {
        let row = [number as f32, 1.0, 2.0, 3.0];
        let answer = inference.model_infer(floats("double", &row)).await?;
        ensure!(output_floats(answer.get_ref())? == row.map(|value| value * 2.0));
    }
    let statistics = client::Rest::new(worker.http)
        .get("/v2/models/double/stats")
        .await?
        .json()?;
    let counted = &statistics["model_stats"][0];
    ensure!(counted["inference_count"] == MANY, "{counted}");
    ensure!(
        counted["inference_stats"]["success"]["count"] == MANY,
        "{counted}"
    );
    Ok(())
}

/// However short runs were, one whose input has it go on for ever is left in time, and holds up nobody after it.
#[tokio::test(flavor = "multi_thread")]
async fn short_runs_promise_nothing_where_the_input_says_how_long() -> anyhow::Result<()> {
    let worker = Repository::make(folder!()?)?.serve()?;
    let mut inference = client::inference(worker.grpc).await?;
    for _ in 0..MANY {
        inference.model_infer(integers("count", "n", &[1])).await?;
    }
    let mut endless = Request::new(integers("count", "n", &[i64::from(i32::MAX)]));
    endless.set_timeout(Duration::from_millis(200));
    let start = Instant::now();
    let status = inference.model_infer(endless).await.unwrap_err();
    ensure!(
        matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled),
        "{status}"
    );
    inference.model_infer(integers("count", "n", &[1])).await?;
    ensure!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    Ok(())
}
