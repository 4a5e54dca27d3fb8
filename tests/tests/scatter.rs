//! A request of many rows goes out in parts and is answered as one.

use std::time::Duration;

use anyhow::{Context, ensure};
use forebay_proto::inference::ModelInferRequest;
use forebay_tests::client::{self, Rest, floats, output_floats};
use forebay_tests::folder;
use forebay_tests::folder::Folder;
use forebay_tests::gateway::{Gateway, endpoints};
use forebay_tests::onnx;
use forebay_tests::upstream::grpc::{Behaviour, Upstream};
use forebay_tests::worker::Repository;
use serde_json::json;
use tonic::Code;

const PARTS: &str = "forebay_scattered_parts_total{route=\"all\"}";
const IN_VAIN: &str = "forebay_scattered_in_vain_total{route=\"all\"}";

fn config(addresses: &str, keys: &str) -> String {
    format!(
        "[[listeners]]\naddress = '127.0.0.1:0'\n\
         [[routes]]\nname = 'all'\ncluster = 'workers'\n{keys}\n\
         [[clusters]]\nname = 'workers'\npolicy = 'least_request'\nendpoints = {addresses}\n"
    )
}

fn rows(model: &str, count: usize) -> ModelInferRequest {
    let values: Vec<f32> = (0..count * 4).map(|value| value as f32).collect();
    floats(model, &values)
}

/// Three stand-ins, and a route that cuts at ten rows.
async fn start() -> anyhow::Result<(Gateway, [Upstream; 3], Folder)> {
    let upstreams = [
        Upstream::start("a").await?,
        Upstream::start("b").await?,
        Upstream::start("c").await?,
    ];
    let folder = folder!()?;
    let addresses = endpoints(upstreams.iter().map(|upstream| upstream.address));
    let gateway = Gateway::start(&folder, &config(&addresses, "max_rows = 10"))?;
    gateway.all_healthy().await?;
    Ok((gateway, upstreams, folder))
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_go_to_different_endpoints_and_come_back_in_order() -> anyhow::Result<()> {
    let (gateway, upstreams, _folder) = start().await?;
    let [a, ..] = &upstreams;
    // The first part comes last.
    a.always(Behaviour::After(Duration::from_millis(100)));
    let mut inference = client::inference(gateway.address()).await?;
    let request = rows("m", 25);
    let answer = inference.model_infer(request.clone()).await?.into_inner();
    ensure!(answer.raw_output_contents == request.raw_input_contents);
    ensure!(answer.outputs[0].shape == [25, 4]);
    for upstream in &upstreams {
        ensure!(upstream.infers() == 1);
    }
    ensure!(gateway.metric(PARTS).await? == 3.0);
    // What fits goes out whole.
    inference.model_infer(rows("m", 10)).await?;
    ensure!(gateway.metric(PARTS).await? == 3.0);
    gateway.all_idle().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_is_retried_and_one_that_fails_ends_the_whole() -> anyhow::Result<()> {
    let (gateway, upstreams, _folder) = start().await?;
    let [a, b, c] = &upstreams;
    let mut inference = client::inference(gateway.address()).await?;
    a.next([Behaviour::Fail(Code::Unavailable)]);
    let request = rows("m", 30);
    let answer = inference.model_infer(request.clone()).await?.into_inner();
    ensure!(answer.raw_output_contents == request.raw_input_contents);
    ensure!(
        gateway
            .metric("forebay_retries_total{route=\"all\"}")
            .await?
            == 1.0
    );

    a.always(Behaviour::Fail(Code::InvalidArgument));
    for held in [b, c] {
        held.always(Behaviour::Never);
    }
    let status = inference.model_infer(rows("m", 30)).await.err();
    ensure!(status.context("the part's error")?.code() == Code::InvalidArgument);
    // Nobody goes on working.
    for held in [b, c] {
        held.until_active(|active| *active == 0).await?;
        ensure!(held.cancelled() == 1);
    }
    gateway.all_idle().await
}

#[tokio::test(flavor = "multi_thread")]
async fn real_workers_answer_parts_as_they_answer_the_whole() -> anyhow::Result<()> {
    let repository = Repository::make(folder!()?)?;
    onnx::write_version(repository.models(), "largest", 1, &onnx::largest())?;
    let workers = [repository.serve()?, repository.serve()?];
    let folder = folder!()?;
    let addresses = endpoints(workers.iter().map(|worker| worker.grpc));
    let gateway = Gateway::start(&folder, &config(&addresses, ""))?;
    gateway.all_healthy().await?;
    let mut inference = client::inference(gateway.address()).await?;
    let request = rows("double", 333);
    let whole = inference.model_infer(request.clone()).await?.into_inner();
    ensure!(gateway.metric(PARTS).await? == 0.0);

    gateway.reload(&config(&addresses, "max_rows = 16"), 1)?;
    let parts = inference.model_infer(request).await?.into_inner();
    ensure!(gateway.metric(PARTS).await? == 21.0);
    ensure!(parts.raw_output_contents == whole.raw_output_contents);
    ensure!((&parts.outputs, &parts.model_version) == (&whole.outputs, &whole.model_version));

    // REST, and elements as JSON.
    let data: Vec<u32> = (0..40).map(|value| value % 7).collect();
    let tensor = json!({"name": "ids", "datatype": "INT64", "shape": [40, 1], "data": data});
    let body = json!({ "inputs": [tensor], "id": "9" }).to_string();
    let answer = Rest::new(gateway.address())
        .post("/v2/models/lookup/infer", body)
        .await?;
    let expected: Vec<f32> = data.iter().flat_map(|id| [*id as f32; 4]).collect();
    ensure!(answer.floats()? == expected);
    ensure!(
        answer.json()?["id"] == "9" && answer.json()?["outputs"][0]["shape"] == json!([40, 1, 4])
    );
    ensure!(gateway.metric(PARTS).await? == 24.0);

    // A model that looks at all rows gets them all.
    let answer = inference
        .model_infer(rows("largest", 40))
        .await?
        .into_inner();
    ensure!(output_floats(&answer)? == [159.0]);
    ensure!(gateway.metric(IN_VAIN).await? == 1.0);
    gateway.all_idle().await
}
