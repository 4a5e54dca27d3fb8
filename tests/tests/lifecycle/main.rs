//! Models come, change and go while the worker serves: no valid request fails on the way.

mod example;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use forebay_proto::health::HealthCheckRequest;
use forebay_proto::health::health_check_response::ServingStatus;
use forebay_proto::inference::{
    ModelMetadataRequest, ModelReadyRequest, RepositoryIndexRequest, RepositoryModelLoadRequest,
    RepositoryModelUnloadRequest,
};
use forebay_tests::client::{self, Inference, Rest, floats, integers, output_floats};
use forebay_tests::worker::{Repository, Worker};
use forebay_tests::{folder, onnx};
use tonic::Code;

const SOON: Duration = Duration::from_secs(20);
const ZEROS: [f32; 4] = [0.0; 4];

fn load(name: &str) -> RepositoryModelLoadRequest {
    RepositoryModelLoadRequest {
        model_name: name.to_owned(),
        ..Default::default()
    }
}

fn unload(name: &str) -> RepositoryModelUnloadRequest {
    RepositoryModelUnloadRequest {
        model_name: name.to_owned(),
        ..Default::default()
    }
}

/// What the model adds.
async fn amount(client: &mut Inference, model: &str, version: &str) -> anyhow::Result<f32> {
    let mut request = floats(model, &ZEROS);
    request.model_version = version.to_owned();
    let answer = client.model_infer(request).await?;
    let values = output_floats(answer.get_ref())?;
    values.first().copied().context("an empty answer")
}

/// `name version STATE`, sorted.
async fn index(client: &mut Inference) -> anyhow::Result<Vec<String>> {
    let request = RepositoryIndexRequest::default();
    let answer = client.repository_index(request).await?.into_inner();
    let line = |model: forebay_proto::inference::repository_index_response::ModelIndex| {
        format!("{} {} {}", model.name, model.version, model.state)
    };
    Ok(answer.models.into_iter().map(line).collect())
}

async fn until_index_has(client: &mut Inference, line: &str) -> anyhow::Result<()> {
    let end = Instant::now() + SOON;
    loop {
        let index = index(client).await?;
        if index.iter().any(|entry| entry == line) {
            return Ok(());
        }
        ensure!(Instant::now() < end, "no '{line}' in {index:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn connect(worker: &Worker) -> anyhow::Result<Inference> {
    client::inference(worker.grpc).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_loaded_anew_under_load_and_no_request_fails() -> anyhow::Result<()> {
    const CALLERS: usize = 8;
    const RELOADS: u32 = 30;
    let repository = Repository::make(folder!()?)?;
    onnx::write_version(repository.models(), "add", 1, &onnx::add(0.0))?;
    let worker = repository.serve_with("model_control = 'explicit'\n")?;
    let over = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicUsize::new(0));
    // The latest load that was asked for, and the latest that is done.
    let bounds = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let mut callers = Vec::new();
    for _ in 0..CALLERS {
        let mut client = connect(&worker).await?;
        let (over, answered, bounds) = (over.clone(), answered.clone(), bounds.clone());
        callers.push(tokio::spawn(async move {
            while !over.load(Ordering::SeqCst) {
                let done = bounds[1].load(Ordering::SeqCst) as f32;
                let amount = amount(&mut client, "add", "").await?;
                let asked = bounds[0].load(Ordering::SeqCst) as f32;
                ensure!(
                    (done..=asked).contains(&amount),
                    "{amount} is neither the old model's nor the new one's, {done} to {asked}"
                );
                answered.fetch_add(1, Ordering::SeqCst);
            }
            anyhow::Ok(())
        }));
    }
    let mut control = connect(&worker).await?;
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    for number in 1..=RELOADS {
        ticks.tick().await;
        let amount = number as usize;
        onnx::write_version(repository.models(), "add", 1, &onnx::add(number as f32))?;
        bounds[0].store(amount, Ordering::SeqCst);
        control.repository_model_load(load("add")).await?;
        bounds[1].store(amount, Ordering::SeqCst);
    }
    over.store(true, Ordering::SeqCst);
    for caller in callers {
        caller.await??;
    }
    assert_eq!(amount(&mut control, "add", "").await?, RELOADS as f32);
    let answered = answered.load(Ordering::SeqCst);
    ensure!(answered > CALLERS * 10, "only {answered} requests");
    println!("{answered} requests answered, {RELOADS} loads, no failure");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn new_versions_are_found_and_broken_ones_harm_nobody() -> anyhow::Result<()> {
    let repository = Repository::make(folder!()?)?;
    onnx::write_version(repository.models(), "add", 1, &onnx::add(1.0))?;
    let worker = repository.serve_with("model_control = 'poll'\npoll_interval = '100ms'\n")?;
    let mut client = connect(&worker).await?;
    let mut health = client::health(worker.grpc).await?;
    let service = |service: &str| HealthCheckRequest {
        service: service.to_owned(),
    };
    let mut watched = health.watch(service("add")).await?.into_inner();
    let status = watched.message().await?.context("a first status")?;
    assert_eq!(status.status(), ServingStatus::Serving);

    onnx::write_version(repository.models(), "add", 2, &onnx::add(2.0))?;
    until_index_has(&mut client, "add 2 READY").await?;
    until_index_has(&mut client, "add 1 UNAVAILABLE").await?;
    assert_eq!(amount(&mut client, "add", "").await?, 2.0);
    let error = client
        .model_infer(forebay_proto::inference::ModelInferRequest {
            model_version: "1".to_owned(),
            ..floats("add", &ZEROS)
        })
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::NotFound);

    onnx::write_version(repository.models(), "add", 3, b"broken")?;
    until_index_has(&mut client, "add 3 UNAVAILABLE").await?;
    assert_eq!(amount(&mut client, "add", "").await?, 2.0);
    assert!(health.check(service("")).await?.into_inner().status() == ServingStatus::Serving);
    let request = ModelMetadataRequest {
        name: "add".to_owned(),
        version: String::new(),
    };
    let metadata = client.model_metadata(request).await?.into_inner();
    assert_eq!(metadata.versions, ["2"]);

    std::fs::remove_dir_all(repository.models().join("add"))?;
    let status = tokio::time::timeout(SOON, watched.message()).await??;
    let status = status.context("a status after the model went")?;
    assert_ne!(status.status(), ServingStatus::Serving);
    let error = amount(&mut client, "add", "").await.unwrap_err();
    let status: &tonic::Status = error.downcast_ref().context("a status")?;
    assert_eq!(status.code(), Code::NotFound, "{status}");
    assert_eq!(amount(&mut client, "double", "").await?, 0.0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_is_finished_when_its_model_is_unloaded() -> anyhow::Result<()> {
    let repository = Repository::make(folder!()?)?;
    let worker = repository.serve_with("model_control = 'explicit'\n")?;
    let mut client = connect(&worker).await?;
    let mut other = connect(&worker).await?;
    let slow = tokio::spawn(async move {
        other
            .model_infer(integers("count", "n", &[5_000_000]))
            .await
    });
    let rest = Rest::new(worker.http);
    let end = Instant::now() + SOON;
    // The metric says when it was accepted.
    let accepted = "forebay_requests_in_flight{model=\"count\",version=\"1\"} 1";
    while !String::from_utf8_lossy(&rest.get("/metrics").await?.body).contains(accepted) {
        ensure!(
            Instant::now() < end && !slow.is_finished(),
            "it was not seen to run"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    client.repository_model_unload(unload("count")).await?;
    let refused = client.model_infer(integers("count", "n", &[1])).await;
    let status = refused.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(
        status.message(),
        "Request for unknown model: 'count' has no available versions"
    );
    let ready = ModelReadyRequest {
        name: "count".to_owned(),
        version: String::new(),
    };
    assert!(!client.model_ready(ready).await?.into_inner().ready);
    until_index_has(&mut client, "count 1 UNLOADING").await?;
    assert!(!slow.is_finished());
    slow.await??;
    until_index_has(&mut client, "count 1 UNAVAILABLE").await?;
    client.repository_model_load(load("count")).await?;
    client.model_infer(integers("count", "n", &[1])).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_decide_what_is_loaded() -> anyhow::Result<()> {
    let repository = Repository::make(folder!()?)?;
    let worker = repository.serve_with("model_control = 'explicit'\nload_at_start = []\n")?;
    let mut client = connect(&worker).await?;
    assert_eq!(
        index(&mut client).await?,
        ["count  ", "double  ", "lookup  "]
    );
    client.repository_model_load(load("double")).await?;
    assert_eq!(amount(&mut client, "double", "1").await?, 0.0);
    assert_eq!(
        index(&mut client).await?,
        ["count  ", "double 1 READY", "lookup  "]
    );
    for (name, code) in [
        ("nope", Code::NotFound),
        ("../models/double", Code::InvalidArgument),
        ("..", Code::InvalidArgument),
        ("", Code::InvalidArgument),
    ] {
        let status = client.repository_model_load(load(name)).await.unwrap_err();
        assert_eq!(status.code(), code, "{name}: {status}");
    }
    client.repository_model_unload(unload("double")).await?;
    client.repository_model_unload(unload("nope")).await?;
    let status = client.model_infer(floats("double", &ZEROS)).await;
    assert_eq!(status.unwrap_err().code(), Code::NotFound);
    Ok(())
}
