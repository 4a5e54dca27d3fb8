//! Retries heed how far a worker says that a request got.

use forebay_tests::client::{self, floats};
use forebay_tests::faulty::Faulty;
use forebay_tests::folder;
use forebay_tests::gateway::{Gateway, endpoints};
use forebay_tests::strict::Multiplexed;
use forebay_tests::upstream::grpc::{Behaviour, PUSHBACK, Upstream};
use forebay_tests::wire::frame;
use tonic::{Code, Status};

const ROW: [f32; 4] = [1.0, 2.0, 3.0, 4.0];

/// A call to `count` upstreams that each meet it with `fails` before they answer: what it comes to, and how many
/// inferences arrived at each upstream, sorted.
async fn meet(
    count: usize,
    idempotent: bool,
    fails: &[Behaviour],
) -> anyhow::Result<(Result<(), Status>, Vec<u64>)> {
    let mut upstreams = Vec::new();
    for number in 0..count {
        upstreams.push(Upstream::start(&format!("upstream-{number}")).await?);
    }
    let folder = folder!()?;
    let addresses = endpoints(upstreams.iter().map(|upstream| upstream.address));
    let config = format!(
        "[[listeners]]\naddress = '127.0.0.1:0'\n\
         [[routes]]\ncluster = 'workers'\nretry = {{ idempotent = {idempotent}, attempts = 3 }}\n\
         [[clusters]]\nname = 'workers'\nendpoints = {addresses}\npolicy = 'round_robin'\n\
         breaker = {{ consecutive_failures = 1 }}\n"
    );
    let gateway = Gateway::start(&folder, &config)?;
    gateway.all_healthy().await?;
    for upstream in &upstreams {
        upstream.next(fails.iter().cloned());
    }
    let answer = client::inference(gateway.address())
        .await?
        .model_infer(floats("m", &ROW))
        .await;
    gateway.all_idle().await?;
    let exhausted = fails
        .iter()
        .all(|fail| matches!(fail, Behaviour::FailAt(Code::ResourceExhausted, _)));
    if exhausted {
        for endpoint in gateway.endpoints().await? {
            assert_eq!(endpoint["breaker"], "closed", "a full queue is no failure");
        }
    }
    let mut infers: Vec<u64> = upstreams.iter().map(|upstream| upstream.infers()).collect();
    infers.sort_unstable();
    Ok((answer.map(drop), infers))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_begun_goes_elsewhere_even_if_it_must_not_run_twice() -> anyhow::Result<()> {
    let queued = Behaviour::FailAt(Code::Unavailable, "queued");
    // Both refuse it once; the breakers are open then, and no third attempt is possible.
    let (answer, infers) = meet(2, false, &[queued]).await?;
    assert_eq!(
        answer.map_err(|status| status.code()),
        Err(Code::Unavailable)
    );
    assert_eq!(infers, [1, 1]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_begun_is_repeated_only_where_it_may_run_twice() -> anyhow::Result<()> {
    for stage in ["executing", "done"] {
        let begun = [Behaviour::FailAt(Code::Unavailable, stage)];
        let (answer, infers) = meet(2, false, &begun).await?;
        assert_eq!(
            answer.map_err(|status| status.code()),
            Err(Code::Unavailable)
        );
        assert_eq!(infers, [0, 1], "{stage}");
        let (_, infers) = meet(2, true, &begun).await?;
        assert_eq!(infers, [1, 1], "{stage}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_costs_one_look_at_another_endpoint() -> anyhow::Result<()> {
    let full = [Behaviour::FailAt(Code::ResourceExhausted, "queued")];
    for (count, infers) in [(1, vec![1]), (2, vec![1, 1]), (3, vec![0, 1, 1])] {
        let (answer, seen) = meet(count, false, &full).await?;
        let status = answer.expect_err("every queue is full");
        assert_eq!(status.code(), Code::ResourceExhausted);
        let pushback = status.metadata().get("grpc-retry-pushback-ms");
        assert_eq!(
            pushback.and_then(|value| value.to_str().ok()),
            Some(PUSHBACK)
        );
        assert_eq!(seen, infers, "with {count} endpoints");
        // How far it got is for every caller, the load for whoever balances.
        let metadata = status.metadata();
        assert!(metadata.contains_key("forebay-stage"));
        assert!(!metadata.contains_key("endpoint-load-metrics-bin"));
    }
    let begun = [Behaviour::FailAt(Code::ResourceExhausted, "executing")];
    let (answer, seen) = meet(2, true, &begun).await?;
    assert_eq!(
        answer.map_err(|status| status.code()),
        Err(Code::ResourceExhausted)
    );
    assert_eq!(seen, [0, 1]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_endpoint_has_room() -> anyhow::Result<()> {
    let full = Upstream::start("full").await?;
    let idle = Upstream::start("idle").await?;
    full.always(Behaviour::FailAt(Code::ResourceExhausted, "queued"));
    let folder = folder!()?;
    let addresses = endpoints([full.address, idle.address]);
    let config = format!(
        "[[listeners]]\naddress = '127.0.0.1:0'\n\
         [[routes]]\ncluster = 'workers'\nretry = {{ idempotent = false }}\n\
         [[clusters]]\nname = 'workers'\nendpoints = {addresses}\npolicy = 'round_robin'\n"
    );
    let gateway = Gateway::start(&folder, &config)?;
    gateway.all_healthy().await?;
    let mut inference = client::inference(gateway.address()).await?;
    for _ in 0..8 {
        inference.model_infer(floats("m", &ROW)).await?;
    }
    assert_eq!(idle.infers(), 8);
    assert!(full.infers() > 0, "the full one was never asked");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_declined_goes_elsewhere() -> anyhow::Result<()> {
    let servers = [Faulty::start(&[])?, Faulty::start(&[])?];
    let folder = folder!()?;
    let gateway = Gateway::start(
        &folder,
        &format!(
            "[[listeners]]\naddress = '127.0.0.1:0'\n[[routes]]\ncluster = 'workers'\nmode = 'stream'\n\
             [[clusters]]\nname = 'workers'\npolicy = 'round_robin'\nbreaker = false\n\
             health = {{ probe = 'tcp' }}\nendpoints = {}\n",
            endpoints(servers.iter().map(|server| server.address))
        ),
    )?;
    gateway.all_healthy().await?;
    servers[0].control("fault=errors&share=1").await?;
    let calls = Multiplexed::new(gateway.address(), 1);
    let path = "/inference.GRPCInferenceService/ModelStreamInfer";
    for _ in 0..4 {
        assert_eq!(calls.call(0, path, frame(0, b"any")).await?.len(), 1605);
    }
    assert_eq!(
        servers[0].count("failed").await?,
        2,
        "every other one came here first"
    );
    // When all decline, the client gets what the last one said.
    servers[1].control("fault=errors&share=1").await?;
    let error = calls
        .call(0, path, frame(0, b"any"))
        .await
        .expect_err("declined");
    let error = format!("{error:#}");
    assert!(
        error.contains("\"14\"") && error.contains("x-forebay-endpoint"),
        "{error}"
    );
    gateway.all_idle().await
}
