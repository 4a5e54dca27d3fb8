//! Bodies of all requests together never take more than they may, whatever is sent, and ordinary traffic goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use forebay_tests::client::{self, Rest, behaving, floats};
use forebay_tests::folder;
use forebay_tests::gateway::{Gateway, endpoints};
use forebay_tests::process::memory_of;
use forebay_tests::upstream::grpc::Upstream;
use forebay_tests::wire::{INFER, Wire, frame};
use prost::Message;
use tokio::task::JoinSet;
use tonic::Code;

const ROW: [f32; 4] = [1.0, 2.0, 3.0, 4.0];
const MIB: u64 = 1 << 20;
/// What bodies may take, and what the process may take beside them: buffers of thirty connections, and what its
/// allocator keeps for a moment.
const BOUND: u64 = 64 * MIB;
const SLACK: u64 = 96 * MIB;
const CLIENTS: usize = 30;
const LARGE: usize = 8 << 20;

/// Eight mebibytes of tensor that the upstream is to keep.
fn large(behaviour: &str) -> bytes::Bytes {
    let values = vec![0.5; LARGE / 4];
    frame(
        0,
        &behaving(behaviour, floats("m", &values)).encode_to_vec(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_large_bodies_is_shed_and_others_are_served() -> anyhow::Result<()> {
    let upstream = Upstream::start("upstream").await?;
    let folder = folder!()?;
    let config = format!(
        "threads = 2\nmax_buffered = '64MiB'\n[[listeners]]\naddress = '127.0.0.1:0'\n\
         [[routes]]\nname = 'all'\ncluster = 'workers'\nmax_request_size = '16MiB'\ntimeout = '2s'\nretry = false\n\
         [[clusters]]\nname = 'workers'\nendpoints = {}\nbreaker = false\n",
        endpoints([upstream.address])
    );
    let gateway = Gateway::start(&folder, &config)?;
    gateway.all_healthy().await?;
    let rest = Rest::new(gateway.address());
    ensure!(rest.infer("m", ROW).await?.floats()? == ROW);
    let before = gateway.process.memory()?;

    let body = large("never");
    let over = Arc::new(AtomicBool::new(false));
    let mut flood = JoinSet::new();
    for _ in 0..CLIENTS {
        let (body, over, address) = (body.clone(), over.clone(), gateway.address());
        flood.spawn(async move {
            let mut codes = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let wire = Wire::connect(address).await?;
                codes.push(wire.call(INFER, body.clone(), &[]).await?.0);
            }
            anyhow::Ok(codes)
        });
    }
    let (process, ended) = (gateway.process.id(), over.clone());
    let most = tokio::task::spawn_blocking(move || -> anyhow::Result<u64> {
        let mut most = 0;
        while !ended.load(Ordering::Relaxed) {
            most = most.max(memory_of(process)?);
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(most)
    });
    // Ordinary traffic, over both protocols, for as long as large bodies keep coming.
    let mut inference = client::inference(gateway.address()).await?;
    let refused = "forebay_buffered_refused_total";
    let mut held: f64 = 0.0;
    let mut served = 0;
    while served < 200 || gateway.metric(refused).await? < 100.0 {
        ensure!(rest.infer("m", ROW).await?.floats()? == ROW);
        inference.model_infer(floats("m", &ROW)).await?;
        held = held.max(gateway.metric("forebay_buffered_bytes").await?);
        served += 1;
    }
    over.store(true, Ordering::Relaxed);
    let most = most.await??;
    println!("{served} served, {held} bytes held, memory {before} to {most}");
    ensure!(held <= (BOUND + MIB) as f64, "{held}");
    ensure!(
        held > 32.0 * MIB as f64,
        "the bound was not even approached: {held}"
    );
    ensure!(most <= before + BOUND + SLACK, "{before} to {most}");
    let mut shed = 0;
    while let Some(codes) = flood.join_next().await {
        for code in codes?? {
            ensure!(
                matches!(code, Code::Unavailable | Code::DeadlineExceeded),
                "{code}"
            );
            shed += usize::from(code == Code::Unavailable);
        }
    }
    ensure!(shed > 0);
    gateway.all_idle().await?;
    ensure!(gateway.metric("forebay_buffered_bytes").await? == 0.0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_finds_no_room_hears_when_to_come_back() -> anyhow::Result<()> {
    let upstream = Upstream::start("upstream").await?;
    let folder = folder!()?;
    let config = format!(
        "max_buffered = '20MiB'\n[[listeners]]\naddress = '127.0.0.1:0'\n\
         [[routes]]\nname = 'all'\ncluster = 'workers'\nmax_request_size = '10MiB'\n\
         [[clusters]]\nname = 'workers'\nendpoints = {}\n",
        endpoints([upstream.address])
    );
    let gateway = Gateway::start(&folder, &config)?;
    gateway.all_healthy().await?;
    let wires = [
        Wire::connect(gateway.address()).await?,
        Wire::connect(gateway.address()).await?,
    ];
    let body = large("held");
    let calls: Vec<_> = wires
        .into_iter()
        .map(|wire| {
            let body = body.clone();
            tokio::spawn(async move { wire.call(INFER, body, &[]).await })
        })
        .collect();
    upstream.until_active(|active| *active == 2).await?;
    let mut inference = client::inference(gateway.address()).await?;
    let refused = inference
        .model_infer(floats("m", &vec![0.5; LARGE / 4]))
        .await;
    let refused = refused.err().context("an error")?;
    ensure!(refused.code() == Code::Unavailable, "{refused}");
    ensure!(refused.message() == "the gateway keeps as much in memory as it may");
    let pushback = refused.metadata().get("grpc-retry-pushback-ms");
    ensure!(pushback.is_some_and(|pushback| pushback == "1000"));
    // Announced, so refused before anything of it is there.
    let head =
        format!("POST /v2/models/m/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {LARGE}\r\n\r\n");
    let answer = client::raw(gateway.address(), head.as_bytes(), client::PATIENCE).await?;
    let answer = String::from_utf8_lossy(&answer).to_lowercase();
    ensure!(
        answer.starts_with("http/1.1 503") && answer.contains("\r\nretry-after: 1\r\n"),
        "{answer}"
    );
    // The answer of the first finds little room to be held back, and comes nevertheless.
    upstream.release();
    for call in calls {
        ensure!(call.await??.0 == Code::Ok);
    }
    gateway.all_idle().await?;
    ensure!(gateway.metric("forebay_buffered_bytes").await? == 0.0);
    Ok(())
}
