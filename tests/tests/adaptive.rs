//! A route learns how many requests at a time its workers can take, and batching does not make it learn less.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use forebay_tests::client::{self, Rest, behaving, floats};
use forebay_tests::folder;
use forebay_tests::gateway::{Gateway, endpoints};
use forebay_tests::upstream::grpc::{Behaviour, Upstream};
use forebay_tests::worker::Repository;
use tokio::task::JoinSet;
use tonic::Code;

const ROW: [f32; 4] = [1.0, 2.0, 3.0, 4.0];
const LIMIT: &str = "forebay_route_concurrency_limit{route=\"all\"}";

fn config(addresses: &str) -> String {
    format!(
        "[[listeners]]\naddress = '127.0.0.1:0'\n\
         [[routes]]\nname = 'all'\ncluster = 'workers'\nadaptive_limit = true\nretry = false\n\
         [[clusters]]\nname = 'workers'\nendpoints = {addresses}\nbreaker = false\n"
    )
}

/// Calls from so many clients, one after the other each, until `over`; how they ended.
fn load(
    address: std::net::SocketAddr,
    model: &'static str,
    clients: usize,
    over: &Arc<AtomicBool>,
) -> JoinSet<anyhow::Result<(u32, u32)>> {
    let mut calls = JoinSet::new();
    for _ in 0..clients {
        let over = over.clone();
        calls.spawn(async move {
            let mut inference = client::inference(address).await?;
            let (mut answered, mut refused) = (0, 0);
            while !over.load(Ordering::Relaxed) {
                match inference.model_infer(floats(model, &ROW)).await {
                    Ok(_) => answered += 1,
                    Err(status) if status.code() == Code::ResourceExhausted => {
                        refused += 1;
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    Err(status) => return Err(status.into()),
                }
            }
            Ok((answered, refused))
        });
    }
    calls
}

async fn until(gateway: &Gateway, what: &str, holds: impl Fn(f64) -> bool) -> anyhow::Result<()> {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let limit = gateway.metric(LIMIT).await?;
        if holds(limit) {
            return Ok(());
        }
        ensure!(Instant::now() < end, "{what}: the limit is {limit}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_grows_while_answers_are_quick_and_shrinks_on_refusals() -> anyhow::Result<()> {
    let upstream = Upstream::start("upstream").await?;
    upstream.always(Behaviour::After(Duration::from_millis(100)));
    let folder = folder!()?;
    let gateway = Gateway::start(&folder, &config(&endpoints([upstream.address])))?;
    gateway.all_healthy().await?;
    ensure!(gateway.metric(LIMIT).await? == 20.0);
    let over = Arc::new(AtomicBool::new(false));
    let mut calls = load(gateway.address(), "m", 40, &over);
    until(&gateway, "forty at a time find room", |limit| limit >= 40.0).await?;
    upstream.always(Behaviour::FailAt(Code::ResourceExhausted, "queued"));
    until(&gateway, "refusals", |limit| limit <= 8.0).await?;
    upstream.always(Behaviour::After(Duration::from_millis(100)));
    until(&gateway, "room again", |limit| limit >= 40.0).await?;
    over.store(true, Ordering::Relaxed);
    let (mut answered, mut refused) = (0, 0);
    while let Some(counts) = calls.join_next().await {
        let counts = counts??;
        answered += counts.0;
        refused += counts.1;
    }
    ensure!(answered > 0 && refused > 0, "{answered} {refused}");
    // Who was refused by the gateway never came here.
    let unserved = gateway
        .metric("forebay_concurrency_refused_total{route=\"all\"}")
        .await?;
    ensure!(unserved > 0.0);
    let mut inference = client::inference(gateway.address()).await?;
    inference
        .model_infer(behaving("answer", floats("m", &ROW)))
        .await
        .context("it all still works")?;
    gateway.all_idle().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_tells_where_the_time_went() -> anyhow::Result<()> {
    let repository = Repository::make(folder!()?)?;
    let worker = repository.serve()?;
    let folder = folder!()?;
    let gateway = Gateway::start(&folder, &config(&endpoints([worker.grpc])))?;
    gateway.all_healthy().await?;
    let mut inference = client::inference(gateway.address()).await?;
    let answer = inference.model_infer(floats("double", &ROW)).await?;
    let timing = answer.metadata().get("server-timing");
    let timing = timing.context("server-timing in the trailers")?.to_str()?;
    ensure!(
        timing.starts_with("queue;dur=") && timing.contains(", run;dur="),
        "{timing}"
    );
    let answer = Rest::new(worker.http).infer("double", ROW).await?;
    ensure!(
        answer.header("server-timing").is_some(),
        "{:?}",
        answer.headers
    );
    let over = Arc::new(AtomicBool::new(false));
    let mut calls = load(gateway.address(), "double", 40, &over);
    until(&gateway, "forty at a time find room", |limit| limit >= 40.0).await?;
    over.store(true, Ordering::Relaxed);
    while let Some(counts) = calls.join_next().await {
        counts??;
    }
    gateway.all_idle().await
}
