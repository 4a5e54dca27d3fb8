//! A worker under everything at once: all datatypes, random shapes, gRPC, streams and REST, padding, requests that are
//! run in parts, priorities, callers who leave, deadlines, models that are loaded anew, get new versions or break, an
//! ensemble over one of them. No valid request may fail, nothing may grow, and every counter must agree with what the
//! callers saw.
//!
//! Lasts `FOREBAY_SOAK_SECONDS` (20 when not set; `make soak` says 600). The rate is modest: this looks for what
//! goes wrong over time, not for how fast it goes.

mod page;
mod rest;
mod traffic;
mod upheaval;
mod verdict;
mod watch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use forebay_proto::tensor::DataType;
use forebay_tests::worker::Repository;
use forebay_tests::{client, folder, onnx};

use self::traffic::{Caller, FIRST_VERSION, Shared};
use self::watch::Watch;

const CALLERS: usize = 12;
const CONFIG: &str = "
model_control = 'explicit'
[models.cached]
response_cache = '64KiB'
[models.count]
max_batch_size = 4
max_queue_size = 64
[models.padded]
max_batch_size = 8
max_queue_delay = '5ms'
priority_levels = 3
[models.padded.padding]
inputs = { x = 0 }
outputs = ['y']
[models.chain]
inputs = ['x']
outputs = ['y']
[[models.chain.steps]]
model = 'double'
inputs = { x = 'x' }
outputs = { y = 'twice' }
[[models.chain.steps]]
model = 'add'
inputs = { x = 'twice' }
outputs = { y = 'y' }
";

/// The model that gives back tensors of this datatype.
fn echo_of(datatype: DataType) -> String {
    format!("echo_{}", datatype.name().to_lowercase())
}

fn seconds() -> anyhow::Result<u64> {
    match std::env::var("FOREBAY_SOAK_SECONDS") {
        Ok(text) => text.parse().context("FOREBAY_SOAK_SECONDS"),
        Err(_) => Ok(20),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_fails_grows_or_is_miscounted() -> anyhow::Result<()> {
    let time = Duration::from_secs(seconds()?);
    let repository = Repository::make(folder!()?)?;
    let models = repository.models();
    for datatype in DataType::ALL {
        onnx::write_version(models, &echo_of(datatype), 1, &onnx::echo(datatype))?;
    }
    onnx::write_version(models, "cached", 1, &onnx::double())?;
    onnx::write_version(models, "padded", 1, &onnx::echo(DataType::Int64))?;
    let amount = FIRST_VERSION as f32;
    onnx::write_version(models, "add", FIRST_VERSION, &onnx::add(amount))?;
    let worker = repository.serve_with(CONFIG)?;

    let shared = Arc::new(Shared::default());
    let start = Instant::now();
    let end = start + time;
    let mut callers = tokio::task::JoinSet::new();
    for number in 0..CALLERS {
        let caller = Caller {
            grpc: client::inference(worker.grpc).await?,
            rest: client::Rest::new(worker.http),
            shared: shared.clone(),
            random: fastrand::Rng::with_seed(number as u64),
        };
        callers.spawn(caller.call_until(end));
    }
    let upheaval = tokio::spawn(upheaval::cause(
        client::inference(worker.grpc).await?,
        models.to_owned(),
        shared.clone(),
        end,
    ));
    let mut watch = Watch::begin();
    while Instant::now() < end {
        tokio::time::sleep((time / 60).max(Duration::from_millis(500))).await;
        watch.sample(&worker.process)?;
        let (now, totals) = (start.elapsed().as_secs(), shared.totals());
        println!("{now:>4} s  {totals}  {}", watch.last());
    }
    while let Some(caller) = callers.join_next().await {
        caller?;
    }
    let upheavals = upheaval.await??;

    let rest = client::Rest::new(worker.http);
    let grpc = client::inference(worker.grpc).await?;
    let mut problems = shared.problems();
    problems.extend(verdict::counters(&rest, grpc, &shared).await?);
    problems.extend(watch.growth(time));
    println!("\n{}\n{upheavals}\n{}", shared.table(), watch.summary());
    ensure!(
        problems.is_empty(),
        "{} problems:\n{}",
        problems.len(),
        problems.join("\n")
    );
    Ok(())
}
