//! An endpoint that fails where its peers do not is left out, used when nobody else is left, and back when restarted.

use std::time::Duration;

use anyhow::ensure;
use forebay_tests::client::{self, floats};
use forebay_tests::folder;
use forebay_tests::gateway::{Gateway, endpoints};
use forebay_tests::upstream::grpc::{Behaviour, Upstream};
use serde_json::Value;
use tonic::Code;

const CONFIG: &str = "[[listeners]]\naddress = '127.0.0.1:0'\n\
     [[clusters]]\nname = 'workers'\npolicy = 'round_robin'\nhealth = { interval = '50ms' }\n\
     outlier = { window = '5s', eject_for = '1h', eject_max = '1h' }\n";
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_in_disorder_is_left_out_until_it_is_restarted() -> anyhow::Result<()> {
    let mut upstreams = Vec::new();
    for number in 0..3 {
        upstreams.push(Upstream::start(&format!("upstream-{number}")).await?);
    }
    let folder = folder!()?;
    let addresses = endpoints(upstreams.iter().map(|upstream| upstream.address));
    let gateway = Gateway::start(&folder, &format!("{CONFIG}endpoints = {addresses}\n"))?;
    gateway.all_healthy().await?;
    let mut inference = client::inference(gateway.address()).await?;

    upstreams[0].always(Behaviour::Fail(Code::Internal));
    let mut failed = 0;
    while gateway.endpoints().await?[0]["ejections"] == 0 {
        let answer = inference.model_infer(floats("m", &[1.0])).await;
        if let Err(status) = answer {
            ensure!(status.code() == Code::Internal, "{status:?}");
            failed += 1;
            ensure!(failed < 20_000, "it goes on answering");
        }
    }
    let asked = upstreams[0].infers();
    for _ in 0..300 {
        inference.model_infer(floats("m", &[1.0])).await?;
    }
    assert_eq!(upstreams[0].infers(), asked);
    let labels = format!(
        "{{cluster=\"workers\",endpoint=\"{}\"}}",
        upstreams[0].address
    );
    let ejected = format!("forebay_endpoint_ejected{labels}");
    assert_eq!(gateway.metric(&ejected).await?, 1.0);

    // Better than nobody.
    for upstream in &upstreams[1..] {
        upstream.set_serving(false);
    }
    let alone = |all: &[Value]| all[1..].iter().all(|each| each["health"] == "unhealthy");
    gateway
        .until("the others to be out", PATIENCE, alone)
        .await?;
    upstreams[0].always(Behaviour::Answer);
    inference.model_infer(floats("m", &[1.0])).await?;
    assert_eq!(upstreams[0].infers(), asked + 1);
    for upstream in &upstreams[1..] {
        upstream.set_serving(true);
    }

    upstreams[0].set_serving(false);
    let out = |all: &[Value]| all[0]["health"] == "unhealthy";
    gateway.until("it to be out", PATIENCE, out).await?;
    upstreams[0].set_serving(true);
    gateway.all_healthy().await?;
    assert_eq!(gateway.metric(&ejected).await?, 0.0);
    for _ in 0..30 {
        inference.model_infer(floats("m", &[1.0])).await?;
    }
    // A third, as far as it owes or is owed a turn.
    let back = upstreams[0].infers() - asked - 1;
    assert!((9..=11).contains(&back), "{back} of 30");
    gateway.all_idle().await
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_fail_everywhere_leave_nobody_out() -> anyhow::Result<()> {
    let mut upstreams = Vec::new();
    for number in 0..3 {
        upstreams.push(Upstream::start(&format!("upstream-{number}")).await?);
    }
    for upstream in &upstreams {
        upstream.always(Behaviour::Fail(Code::Internal));
    }
    let folder = folder!()?;
    let addresses = endpoints(upstreams.iter().map(|upstream| upstream.address));
    let gateway = Gateway::start(&folder, &format!("{CONFIG}endpoints = {addresses}\n"))?;
    gateway.all_healthy().await?;
    let mut inference = client::inference(gateway.address()).await?;
    // Longer than two looks, with hundreds of failures each.
    let end = tokio::time::Instant::now() + Duration::from_millis(2_500);
    while tokio::time::Instant::now() < end {
        let status = inference.model_infer(floats("m", &[1.0])).await;
        ensure!(status.is_err_and(|status| status.code() == Code::Internal));
    }
    for endpoint in gateway.endpoints().await? {
        assert_eq!(endpoint["ejections"], 0, "{endpoint}");
        assert!(endpoint["requests"].as_u64() > Some(100), "{endpoint}");
    }
    Ok(())
}
