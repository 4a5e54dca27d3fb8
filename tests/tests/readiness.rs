//! Endpoints that have not loaded a model yet.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context;
use forebay_tests::client::{self, Rest, floats};
use forebay_tests::folder;
use forebay_tests::gateway::{Gateway, endpoints};
use forebay_tests::upstream::grpc::Upstream;

const ROW: [f32; 4] = [1.0, 2.0, 3.0, 4.0];

/// The endpoints that answer 12 calls for a model, over gRPC, REST and streams in turn.
async fn who(gateway: &Gateway, model: &str) -> anyhow::Result<BTreeSet<String>> {
    let mut seen = BTreeSet::new();
    let mut inference = client::inference(gateway.address()).await?;
    let rest = Rest::new(gateway.address());
    for _ in 0..4 {
        let unary = inference.model_infer(floats(model, &ROW)).await?;
        let stream = tokio_stream::iter([floats(model, &ROW)]);
        let stream = inference.model_stream_infer(stream).await?;
        for metadata in [unary.metadata(), stream.metadata()] {
            let endpoint = metadata.get("x-forebay-endpoint").context("an endpoint")?;
            seen.insert(endpoint.to_str()?.to_owned());
        }
        let answer = rest.infer(model, ROW).await?;
        let endpoint = answer.header("x-forebay-endpoint").context("an endpoint")?;
        seen.insert(endpoint.to_owned());
    }
    Ok(seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_not_loaded_a_model_gets_none_of_its_requests() -> anyhow::Result<()> {
    let upstreams = [
        Upstream::start("early").await?,
        Upstream::start("late").await?,
    ];
    let [early, late] = [&upstreams[0], &upstreams[1]];
    late.set_ready("big", false);
    let folder = folder!()?;
    let config = format!(
        "[[listeners]]\naddress = '127.0.0.1:0'\n[[clusters]]\nname = 'workers'\npolicy = 'round_robin'\n\
         endpoints = {}\nhealth = {{ interval = '50ms', models = ['small', 'big'] }}\n",
        endpoints(upstreams.iter().map(|upstream| upstream.address))
    );
    let gateway = Gateway::start(&folder, &config)?;
    gateway.all_healthy().await?;
    let both: BTreeSet<String> = upstreams
        .iter()
        .map(|upstream| upstream.address.to_string())
        .collect();
    let only_early: BTreeSet<String> = [early.address.to_string()].into();
    assert_eq!(who(&gateway, "big").await?, only_early);
    assert_eq!(who(&gateway, "small").await?, both);
    assert_eq!(who(&gateway, "unlisted").await?, both);
    assert_eq!(gateway.endpoint(late.address).await?["not_ready"][0], "big");
    let until = |ready: usize| {
        let ready_everywhere = move |all: &[serde_json::Value]| {
            let not_ready = |one: &&serde_json::Value| one["not_ready"] == serde_json::json!([]);
            all.iter().filter(not_ready).count() == ready
        };
        gateway.until("models as told", Duration::from_secs(10), ready_everywhere)
    };
    late.set_ready("big", true);
    until(2).await?;
    assert_eq!(who(&gateway, "big").await?, both);
    // Nobody has it: whoever is asked says so.
    early.set_ready("big", false);
    late.set_ready("big", false);
    until(0).await?;
    assert_eq!(who(&gateway, "big").await?, both);
    gateway.all_idle().await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_side_of_a_split_knows_its_models() -> anyhow::Result<()> {
    let upstreams = [
        Upstream::start("aside").await?,
        Upstream::start("early").await?,
        Upstream::start("late").await?,
    ];
    upstreams[2].set_ready("big", false);
    let folder = folder!()?;
    let [aside, early, late] = [0, 1, 2].map(|number: usize| upstreams[number].address);
    let config = format!(
        "[[listeners]]\naddress = '127.0.0.1:0'\n\
         [[routes]]\nname = 'all'\nsplit = [{{ cluster = 'one', weight = 0 }}, {{ cluster = 'two' }}]\n\
         [[clusters]]\nname = 'one'\nendpoints = {}\nhealth = {{ interval = '50ms', models = ['small'] }}\n\
         [[clusters]]\nname = 'two'\npolicy = 'round_robin'\nendpoints = {}\n\
         health = {{ interval = '50ms', models = ['big', 'small'] }}\n",
        endpoints([aside]),
        endpoints([early, late])
    );
    let gateway = Gateway::start(&folder, &config)?;
    gateway.all_healthy().await?;
    assert_eq!(
        who(&gateway, "big").await?,
        [early.to_string()].into(),
        "streams too"
    );
    let both = [early.to_string(), late.to_string()].into();
    assert_eq!(who(&gateway, "small").await?, both);
    gateway.all_idle().await
}
