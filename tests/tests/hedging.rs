//! A call that takes longer than most gets a second attempt, and only as many as the budget allows.

use std::time::{Duration, Instant};

use anyhow::ensure;
use forebay_tests::client::{self, Rest, behaving, floats};
use forebay_tests::faulty::Faulty;
use forebay_tests::folder;
use forebay_tests::folder::Folder;
use forebay_tests::gateway::{Gateway, endpoints};
use forebay_tests::upstream::grpc::{Behaviour, Upstream};
use futures::future::join_all;
use http::StatusCode;

const ROW: [f32; 4] = [1.0, 2.0, 3.0, 4.0];
/// A route hedges once it has seen so many answers, and its reading is a tenth of a second old at most.
const WARM: usize = 120;
const READING_LASTS: Duration = Duration::from_millis(120);

const HEDGES: &str = "forebay_hedges_total{route=\"all\"}";
const WON: &str = "forebay_hedges_won_total{route=\"all\"}";

async fn start(retry: &str) -> anyhow::Result<(Gateway, [Upstream; 2], Folder)> {
    let upstreams = [
        Upstream::start("one").await?,
        Upstream::start("other").await?,
    ];
    let folder = folder!()?;
    let addresses = endpoints(upstreams.iter().map(|upstream| upstream.address));
    let config = format!(
        "[[listeners]]\naddress = '127.0.0.1:0'\n\
         [[routes]]\nname = 'all'\ncluster = 'workers'\nretry = {retry}\n\
         hedge = {{ quantile = 0.9, min_delay = '20ms' }}\n\
         [[clusters]]\nname = 'workers'\npolicy = 'round_robin'\nendpoints = {addresses}\n"
    );
    let gateway = Gateway::start(&folder, &config)?;
    gateway.all_healthy().await?;
    let mut inference = client::inference(gateway.address()).await?;
    for _ in 0..WARM {
        inference.model_infer(floats("m", &ROW)).await?;
    }
    tokio::time::sleep(READING_LASTS).await;
    Ok((gateway, upstreams, folder))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_endpoint_is_overtaken_and_its_work_cancelled() -> anyhow::Result<()> {
    let (gateway, [one, other], _folder) = start("{}").await?;
    one.always(Behaviour::Never);
    let mut inference = client::inference(gateway.address()).await?;
    let before = (gateway.metric(HEDGES).await?, gateway.metric(WON).await?);
    let asked = one.infers();
    for _ in 0..10 {
        let start = Instant::now();
        inference.model_infer(floats("m", &ROW)).await?;
        ensure!(
            start.elapsed() < Duration::from_secs(2),
            "{:?}",
            start.elapsed()
        );
    }
    let stuck = (one.infers() - asked) as f64;
    ensure!(stuck >= 4.0, "round robin asks both: {stuck}");
    ensure!(other.infers() > 0);
    let after = (gateway.metric(HEDGES).await?, gateway.metric(WON).await?);
    ensure!(
        (after.0 - before.0, after.1 - before.1) == (stuck, stuck),
        "{before:?} {after:?}"
    );
    // Nothing goes on that nobody waits for.
    one.until_active(|active| *active == 0).await?;
    ensure!(one.cancelled() >= stuck as u64);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hedge_that_fails_leaves_the_first_attempt_in_peace() -> anyhow::Result<()> {
    let (gateway, [one, other], _folder) = start("false").await?;
    let slow = Behaviour::After(Duration::from_millis(300));
    for (slow_one, failing) in [(&one, &other), (&other, &one)] {
        slow_one.always(slow.clone());
        failing.always(Behaviour::Fail(tonic::Code::Unavailable));
        let mut inference = client::inference(gateway.address()).await?;
        // One of two calls goes to the slow one first; the other fails at once, as nothing is retried.
        let mut answered = 0;
        for _ in 0..2 {
            answered += usize::from(inference.model_infer(floats("m", &ROW)).await.is_ok());
        }
        ensure!(answered == 1, "{answered}");
        failing.always(Behaviour::Answer);
        slow_one.always(Behaviour::Answer);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_http_requests_are_hedged_too() -> anyhow::Result<()> {
    let servers = [
        Faulty::start(&["--service-ms", "2"])?,
        Faulty::start(&["--service-ms", "2"])?,
    ];
    let [one, other] = &servers;
    let addresses = endpoints(servers.iter().map(|server| server.address));
    let folder = folder!()?;
    let config = format!(
        "[[listeners]]\naddress = '127.0.0.1:0'\n\
         [[routes]]\nname = 'all'\ncluster = 'pages'\nmode = 'unary'\n\
         retry = {{ attempts = 1, budget_min = 10 }}\nhedge = {{ quantile = 0.9, min_delay = '20ms' }}\n\
         [[clusters]]\nname = 'pages'\nprotocol = 'http'\npolicy = 'round_robin'\nbreaker = false\n\
         endpoints = {addresses}\n"
    );
    let gateway = Gateway::start(&folder, &config)?;
    gateway.all_healthy().await?;
    let clients = [Rest::new(gateway.address()), Rest::http2(gateway.address())];
    let ask = async |client: &Rest| {
        let start = Instant::now();
        let answer = client.post("/infer", vec![7; 100_000]).await?;
        ensure!(
            answer.status == StatusCode::OK && answer.body.len() == 1600,
            "{answer:?}"
        );
        let endpoint = answer
            .header("x-forebay-endpoint")
            .unwrap_or_default()
            .to_owned();
        Ok((endpoint, start.elapsed()))
    };
    for _ in 0..WARM {
        ask(&clients[0]).await?;
    }
    tokio::time::sleep(READING_LASTS).await;
    ensure!(gateway.metric(HEDGES).await? == 0.0);

    // A second for an answer, at one of the two: the other one overtakes it.
    one.control("slowness=500").await?;
    let began = one.count("requests").await?;
    for client in &clients {
        for _ in 0..5 {
            let (endpoint, took) = ask(client).await?;
            ensure!(took < Duration::from_millis(900), "{took:?}");
            ensure!(endpoint == other.address.to_string(), "{endpoint}");
        }
    }
    let stuck = (one.count("requests").await? - began) as f64;
    ensure!(stuck >= 4.0, "round robin asks both: {stuck}");
    ensure!(gateway.metric(HEDGES).await? == stuck);
    ensure!(gateway.metric(WON).await? == stuck);
    one.control("slowness=1").await?;

    // A hedge that fails leaves the first attempt in peace, and the other way round.
    for (slow, failing) in [(one, other), (other, one)] {
        slow.control("slowness=50").await?;
        failing.control("fault=errors&share=1").await?;
        // One of two goes to the failing one first, and nothing is retried.
        let mut answered = 0;
        for _ in 0..2 {
            answered += usize::from(ask(&clients[0]).await.is_ok());
        }
        ensure!(answered == 1, "{answered}");
        slow.control("slowness=1").await?;
        failing.control("fault=none").await?;
    }
    gateway.all_idle().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_budget_bounds_hedges() -> anyhow::Result<()> {
    let retry = "{ attempts = 1, budget_ratio = 0.0, budget_min = 2 }";
    let (gateway, upstreams, _folder) = start(retry).await?;
    let before = gateway.metric(HEDGES).await?;
    let inference = client::inference(gateway.address()).await?;
    let calls = (0..20).map(|_| {
        let mut inference = inference.clone();
        async move {
            inference
                .model_infer(behaving("held", floats("m", &ROW)))
                .await
        }
    });
    let calls = tokio::spawn(join_all(calls));
    let total = |[one, other]: &[Upstream; 2]| one.infers() + other.infers();
    let end = Instant::now() + Duration::from_secs(10);
    while total(&upstreams) < WARM as u64 + 22 {
        ensure!(Instant::now() < end, "{} calls arrived", total(&upstreams));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Whoever would hedge beyond the budget had the time to.
    tokio::time::sleep(Duration::from_millis(200)).await;
    ensure!(gateway.metric(HEDGES).await? - before == 2.0);
    for upstream in &upstreams {
        upstream.release();
    }
    for answer in calls.await? {
        answer?;
    }
    Ok(())
}
