//! More requests than endpoints may have at a time: they wait in the gateway, in order, or hear at once that it is
//! in vain.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use forebay_tests::client::{self, Inference, Rest, behaving, floats, json_request};
use forebay_tests::folder;
use forebay_tests::folder::Folder;
use forebay_tests::gateway::{Gateway, endpoints};
use forebay_tests::upstream::grpc::Upstream;
use forebay_tests::upstream::http::HttpUpstream;
use forebay_tests::wire::{INFER, Wire, frame};
use futures::future::join_all;
use http::{Method, Request};
use prost::Message;
use tokio::task::JoinHandle;
use tonic::Code;

const ROW: [f32; 4] = [1.0, 2.0, 3.0, 4.0];
const WAITING: &str = "forebay_queue_requests{cluster=\"workers\"}";

fn config(upstream: &Upstream, keys: &str) -> String {
    format!(
        "[[listeners]]\naddress = '127.0.0.1:0'\n\
         [[routes]]\nname = 'all'\ncluster = 'workers'\ntimeout = '10s'\n\
         [[clusters]]\nname = 'workers'\nendpoints = {}\n{keys}\n",
        endpoints([upstream.address])
    )
}

async fn start(keys: &str) -> anyhow::Result<(Gateway, Upstream, Folder)> {
    let upstream = Upstream::start("upstream").await?;
    let folder = folder!()?;
    let gateway = Gateway::start(&folder, &config(&upstream, keys))?;
    gateway.all_healthy().await?;
    Ok((gateway, upstream, folder))
}

/// Until so many wait.
async fn until_waiting(gateway: &Gateway, wanted: f64) -> anyhow::Result<()> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let waiting = gateway.metric(WAITING).await?;
        if waiting == wanted {
            return Ok(());
        }
        if Instant::now() > end {
            bail!("{waiting} wait instead of {wanted}");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

type Call = JoinHandle<
    Result<tonic::Response<forebay_proto::inference::ModelInferResponse>, tonic::Status>,
>;

fn call(inference: &Inference, behaviour: &str, headers: &[(&'static str, &str)]) -> Call {
    let mut inference = inference.clone();
    let mut request = tonic::Request::new(behaving(behaviour, floats("m", &ROW)));
    for (name, value) in headers {
        let value = value.parse().expect("ASCII");
        request.metadata_mut().insert(*name, value);
    }
    tokio::spawn(async move { inference.model_infer(request).await })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_exceeds_the_limit_waits_and_is_served() -> anyhow::Result<()> {
    let (gateway, upstream, _folder) = start("max_requests = 2").await?;
    let inference = client::inference(gateway.address()).await?;
    let rest = Rest::new(gateway.address());
    let held = |_| call(&inference, "held", &[]);
    let mut calls: Vec<Call> = (0..2).map(held).collect();
    upstream.until_active(|active| *active == 2).await?;
    calls.extend((0..4).map(held));
    let body = json_request(ROW, Some("held")).to_string();
    let over_rest = tokio::spawn(async move {
        let path = "/v2/models/m/infer";
        rest.send(Request::builder(), Method::POST, path, body)
            .await
    });
    until_waiting(&gateway, 5.0).await?;
    ensure!(upstream.infers() == 2);
    // One of those who wait goes away, and one of those who are served.
    calls.remove(5).abort();
    until_waiting(&gateway, 4.0).await?;
    calls.remove(0).abort();
    until_waiting(&gateway, 3.0).await?;
    upstream.release();
    for call in calls {
        call.await??;
    }
    ensure!(over_rest.await??.floats()? == ROW);
    ensure!(upstream.infers() == 6, "{}", upstream.infers());
    gateway.all_idle().await?;
    until_waiting(&gateway, 0.0).await?;
    let waits = gateway
        .metric("forebay_queue_wait_seconds_count{cluster=\"workers\"}")
        .await?;
    ensure!(waits == 4.0, "{waits}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn never_more_at_a_time_than_may_be() -> anyhow::Result<()> {
    let (gateway, upstream, _folder) = start("max_requests = 3").await?;
    let inference = client::inference(gateway.address()).await?;
    let watching = upstream.script.clone();
    let exceeded = tokio::spawn(async move { watching.until_active(|active| *active > 3).await });
    let calls = (0..300).map(|number| call(&inference, &format!("after {}", number % 7), &[]));
    for answer in join_all(calls.collect::<Vec<_>>()).await {
        answer??;
    }
    ensure!(!exceeded.is_finished(), "more than three at a time");
    exceeded.abort();
    ensure!(upstream.infers() == 300);
    gateway.all_idle().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_says_when_to_ask_again() -> anyhow::Result<()> {
    let (gateway, upstream, _folder) = start("max_requests = 1\nqueue = { size = 1 }").await?;
    let inference = client::inference(gateway.address()).await?;
    let served = call(&inference, "held", &[]);
    upstream.until_active(|active| *active == 1).await?;
    let waits = call(&inference, "held", &[]);
    until_waiting(&gateway, 1.0).await?;
    let status = call(&inference, "held", &[])
        .await?
        .err()
        .context("an error")?;
    ensure!(status.code() == Code::ResourceExhausted, "{status}");
    let pushback = status.metadata().get("grpc-retry-pushback-ms");
    ensure!(
        pushback.is_some_and(|pushback| pushback == "1000"),
        "{status:?}"
    );
    let answer = Rest::new(gateway.address()).infer("m", ROW).await?;
    ensure!(answer.status == 429, "{}", answer.status);
    ensure!(
        answer.header("retry-after") == Some("1"),
        "{:?}",
        answer.headers
    );
    ensure!(answer.error()?.contains("as many requests wait as may"));
    let full = "forebay_queue_refused_total{cluster=\"workers\",reason=\"queue_full\"}";
    ensure!(gateway.metric(full).await? == 2.0);
    upstream.release();
    served.await??;
    waits.await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_bounds_the_wait() -> anyhow::Result<()> {
    let (gateway, upstream, _folder) = start("max_requests = 1").await?;
    let inference = client::inference(gateway.address()).await?;
    for _ in 0..3 {
        call(&inference, "after 100", &[]).await??;
    }
    let served = call(&inference, "held", &[]);
    upstream.until_active(|active| *active == 1).await?;
    // By hand, so that the gateway has to act and not the client. It is a tenth of a second until a slot is free,
    // and another one until an answer.
    let wire = Wire::connect(gateway.address()).await?;
    let body = frame(0, &floats("m", &ROW).encode_to_vec());
    let start = Instant::now();
    let headers = [("grpc-timeout", "150m")];
    let (code, message) = wire.call(INFER, body.clone(), &headers).await?;
    ensure!(code == Code::ResourceExhausted, "{message}");
    ensure!(
        start.elapsed() < Duration::from_millis(100),
        "at once: {:?}",
        start.elapsed()
    );
    let headers = [("grpc-timeout", "400m")];
    let (code, message) = wire.call(INFER, body, &headers).await?;
    ensure!(code == Code::DeadlineExceeded, "{message}");
    ensure!(start.elapsed() > Duration::from_millis(400));
    until_waiting(&gateway, 0.0).await?;
    upstream.release();
    served.await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_urgent_go_first_and_tenants_take_turns() -> anyhow::Result<()> {
    let keys = "max_requests = 1\n\
        queue = { priority_header = 'priority', tenant_header = 'x-tenant' }";
    let (gateway, upstream, _folder) = start(keys).await?;
    let inference = client::inference(gateway.address()).await?;
    let first = call(&inference, "held", &[]);
    upstream.until_active(|active| *active == 1).await?;
    let mut waiting = 0.0;
    let (sender, mut order) = tokio::sync::mpsc::unbounded_channel();
    let all = [
        ("a", "3", "a1"),
        ("a", "3", "a2"),
        ("a", "3", "a3"),
        ("b", "3", "b1"),
        ("b", "u=3", "b2"),
        ("c", "u=1", "c1"),
    ];
    for (tenant, urgency, name) in all {
        let call = call(
            &inference,
            "after 20",
            &[("x-tenant", tenant), ("priority", urgency)],
        );
        let sender = sender.clone();
        tokio::spawn(async move {
            if matches!(call.await, Ok(Ok(_))) {
                let _ = sender.send(name);
            }
        });
        waiting += 1.0;
        until_waiting(&gateway, waiting).await?;
    }
    drop(sender);
    upstream.release();
    first.await??;
    let mut served = Vec::new();
    while let Some(name) = order.recv().await {
        served.push(name);
    }
    ensure!(served == ["c1", "a1", "b1", "a2", "b2", "a3"], "{served:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_wait_follow_a_reload() -> anyhow::Result<()> {
    let (gateway, upstream, _folder) = start("max_requests = 1").await?;
    let inference = client::inference(gateway.address()).await?;
    let calls: Vec<Call> = (0..5).map(|_| call(&inference, "held", &[])).collect();
    until_waiting(&gateway, 4.0).await?;
    gateway.reload(&config(&upstream, "max_requests = 3"), 1)?;
    upstream.until_active(|active| *active == 3).await?;
    until_waiting(&gateway, 2.0).await?;
    gateway.reload(&config(&upstream, ""), 2)?;
    upstream.until_active(|active| *active == 5).await?;
    upstream.release();
    for call in calls {
        call.await??;
    }
    gateway.all_idle().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_comes_serves_those_who_wait() -> anyhow::Result<()> {
    let (gateway, upstream, _folder) = start("max_requests = 1").await?;
    let other = Upstream::start("other").await?;
    let inference = client::inference(gateway.address()).await?;
    let calls: Vec<Call> = (0..2).map(|_| call(&inference, "held", &[])).collect();
    until_waiting(&gateway, 1.0).await?;
    let both = endpoints([upstream.address, other.address]);
    let one = endpoints([upstream.address]);
    let more = config(&upstream, "max_requests = 1").replace(&one, &both);
    gateway.reload(&more, 1)?;
    // It serves nobody before its first passed probe.
    other.until_active(|active| *active == 1).await?;
    upstream.release();
    other.release();
    for call in calls {
        call.await??;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_streams_waits_as_well() -> anyhow::Result<()> {
    let pages = HttpUpstream::start("pages").await?;
    let folder = folder!()?;
    let gateway = Gateway::start(
        &folder,
        &format!(
            "[[listeners]]\naddress = '127.0.0.1:0'\n\
             [[routes]]\nname = 'all'\ncluster = 'workers'\ntimeout = '5s'\n\
             [[clusters]]\nname = 'workers'\nprotocol = 'http'\nmax_requests = 1\nendpoints = {}\n\
             queue = {{ size = 3, max_wait = '3s' }}\n",
            endpoints([pages.address])
        ),
    )?;
    gateway.all_healthy().await?;
    let rest = Rest::new(gateway.address());
    let http2 = Rest::http2(gateway.address());
    let get = |rest: &Rest, path: &'static str| {
        let rest = rest.clone();
        tokio::spawn(async move { rest.get(path).await })
    };
    let held = get(&rest, "/held");
    pages.until_active(|active| *active == 1).await?;
    let [gone, http2_gone] = [get(&rest, "/echo"), get(&http2, "/echo")];
    let poster = rest.clone();
    let posted = tokio::spawn(async move {
        poster
            .send(Request::builder(), Method::POST, "/echo", "body")
            .await
    });
    until_waiting(&gateway, 3.0).await?;
    let full = rest.get("/echo").await?;
    ensure!((full.status.as_u16(), full.header("retry-after")) == (429, Some("1")));
    gone.abort();
    until_waiting(&gateway, 2.0).await?;
    http2_gone.abort();
    until_waiting(&gateway, 1.0).await?;
    pages.release();
    ensure!(held.await??.body == "released");
    ensure!(posted.await??.body == "body");
    ensure!(pages.requests() == 2, "{}", pages.requests());
    gateway.all_idle().await
}
