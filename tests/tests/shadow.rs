//! Copies of inference calls for another cluster: clients never notice, and the metrics tell how the answers differ.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use forebay_proto::inference::infer_parameter::ParameterChoice;
use forebay_proto::inference::{InferParameter, ModelMetadataRequest};
use forebay_tests::client::{self, Rest, behaving, floats, output_floats};
use forebay_tests::folder;
use forebay_tests::folder::Folder;
use forebay_tests::gateway::Gateway;
use forebay_tests::onnx;
use forebay_tests::upstream::grpc::{Behaviour, Upstream};
use forebay_tests::worker::Repository;
use tonic::Code;

const ROW: [f32; 4] = [1.0, 2.0, 3.0, 4.0];

struct Fixture {
    gateway: Gateway,
    real: Upstream,
    shadow: Upstream,
    _folder: Folder,
}

impl Fixture {
    /// `keys`: of the shadow, apart from its cluster.
    async fn start(keys: &str) -> anyhow::Result<Self> {
        let real = Upstream::start("real").await?;
        let shadow = Upstream::start("shadow").await?;
        let folder = folder!()?;
        let addresses = [real.address, shadow.address].map(|address| address.to_string());
        let gateway = Gateway::start(&folder, &config(&addresses, keys))?;
        gateway.all_healthy().await?;
        Ok(Self {
            gateway,
            real,
            shadow,
            _folder: folder,
        })
    }
}

fn config([real, shadow]: &[String; 2], keys: &str) -> String {
    format!(
        "[[listeners]]\naddress = '127.0.0.1:0'\n\
         [[routes]]\nname = 'all'\ncluster = 'real'\nretry = false\n\
         [routes.shadow]\ncluster = 'shadow'\n{keys}\n\
         [[clusters]]\nname = 'real'\nendpoints = ['{real}']\n\
         [[clusters]]\nname = 'shadow'\nbreaker = false\nendpoints = ['{shadow}']\n"
    )
}

/// Waits until so many copies have ended this way.
async fn until(gateway: &Gateway, end: &str, count: f64) -> anyhow::Result<()> {
    let name = format!("forebay_shadow_requests_total{{route=\"all\",end=\"{end}\"}}");
    until_metric(gateway, &name, count).await
}

async fn until_metric(gateway: &Gateway, name: &str, wanted: f64) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while gateway.metric(name).await? != wanted {
        if Instant::now() > deadline {
            bail!(
                "{name} is not {wanted}:\n{}",
                gateway.admin("/metrics").await?
            );
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

const IN_FLIGHT: &str = "forebay_shadow_in_flight{route=\"all\"}";

#[tokio::test(flavor = "multi_thread")]
async fn differences_of_real_models_are_told_by_output() -> anyhow::Result<()> {
    let repository = Repository::make(folder!()?)?;
    for (name, amount) in [("base", 0.0), ("off", 0.25)] {
        onnx::write_version(repository.models(), name, 1, &onnx::add(amount))?;
    }
    let worker = repository.serve()?;
    let addresses = [worker.grpc.to_string(), worker.grpc.to_string()];
    let folder = folder!()?;
    let gateway = Gateway::start(&folder, &config(&addresses, "model = 'off'"))?;
    gateway.all_healthy().await?;

    let mut inference = client::inference(gateway.address()).await?;
    for _ in 0..10 {
        let answer = inference
            .model_infer(floats("base", &ROW))
            .await?
            .into_inner();
        ensure!(output_floats(&answer)? == ROW && answer.model_name == "base");
    }
    let rest = Rest::new(gateway.address());
    for _ in 0..2 {
        ensure!(rest.infer("base", ROW).await?.floats()? == ROW);
    }
    until(&gateway, "compared", 12.0).await?;
    let of_output = |name: &str, more: &str| {
        let name = format!("forebay_shadow_{name}{{route=\"all\",output=\"y\"{more}}}");
        let gateway = &gateway;
        async move { gateway.metric(&name).await }
    };
    ensure!(of_output("outputs_total", ",finding=\"different\"").await? == 12.0);
    ensure!(of_output("absolute_difference_bucket", ",le=\"0.1\"").await? == 0.0);
    ensure!(of_output("absolute_difference_bucket", ",le=\"1\"").await? == 12.0);
    ensure!(of_output("absolute_difference_sum", "").await? == 3.0);
    ensure!(of_output("relative_difference_sum", "").await? == 12.0 * 0.25 / 4.0);
    ensure!(of_output("rows_total", "").await? == 12.0);
    ensure!(of_output("agreed_total", "").await? == 12.0);

    // The same model again, and one that knows no such input.
    gateway.reload(&config(&addresses, "model = 'base'"), 1)?;
    inference.model_infer(floats("base", &ROW)).await?;
    until(&gateway, "compared", 13.0).await?;
    ensure!(of_output("outputs_total", ",finding=\"equal\"").await? == 1.0);
    gateway.reload(&config(&addresses, "model = 'lookup'"), 2)?;
    inference.model_infer(floats("base", &ROW)).await?;
    until(&gateway, "only_shadow_failed", 1.0).await?;
    // Whoever is asked wrongly fails on both sides.
    ensure!(
        inference
            .model_infer(floats("nowhere", &ROW))
            .await
            .is_err()
    );
    until(&gateway, "both_failed", 1.0).await?;
    gateway.all_idle().await
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_copy_and_what_has_no_room_is_dropped() -> anyhow::Result<()> {
    let keys = "max_requests = 2\nmodel = 'n'\nversion = '7'";
    let fixture = Fixture::start(keys).await?;
    let (gateway, shadow) = (&fixture.gateway, &fixture.shadow);
    shadow.always(Behaviour::Held);
    let mut inference = client::inference(gateway.address()).await?;
    let start = Instant::now();
    for _ in 0..5 {
        let mut request = tonic::Request::new(floats("m", &ROW));
        request.metadata_mut().insert("x-tenant", "a".parse()?);
        let traced = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        request
            .metadata_mut()
            .insert("traceparent", traced.parse()?);
        let answer = inference.model_infer(request).await?.into_inner();
        ensure!(answer.model_name == "m");
    }
    ensure!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    until(gateway, "dropped", 3.0).await?;
    shadow.until_active(|active| *active == 2).await?;
    ensure!(gateway.metric(IN_FLIGHT).await? == 2.0);
    let seen = shadow.last()?;
    ensure!((seen.model.as_str(), seen.version.as_str()) == ("n", "7"));
    ensure!(seen.headers["x-forebay-shadow"] == "true" && seen.headers["x-tenant"] == "a");
    ensure!(!seen.headers.contains_key("traceparent"));
    ensure!(
        !fixture
            .real
            .last()?
            .headers
            .contains_key("x-forebay-shadow")
    );

    shadow.release();
    until(gateway, "compared", 2.0).await?;
    until_metric(gateway, IN_FLIGHT, 0.0).await?;
    for (metric, value) in [
        ("forebay_requests_total{route=\"all\",code=\"0\"}", 5.0),
        (
            "forebay_shadow_outputs_total{route=\"all\",output=\"x\",finding=\"equal\"}",
            2.0,
        ),
        ("forebay_shadow_duration_seconds_count{route=\"all\"}", 2.0),
    ] {
        ensure!(gateway.metric(metric).await? == value, "{metric}");
    }
    gateway.all_idle().await
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_told_by_side_and_stay_there() -> anyhow::Result<()> {
    let mut fixture = Fixture::start("timeout = '300ms'").await?;
    let gateway = &fixture.gateway;
    let (real, shadow) = (&fixture.real, &fixture.shadow);
    let mut inference = client::inference(gateway.address()).await?;
    let ill = Behaviour::Fail(Code::InvalidArgument);

    shadow.next([Behaviour::Fail(Code::Unavailable)]);
    inference.model_infer(floats("m", &ROW)).await?;
    until(gateway, "only_shadow_failed", 1.0).await?;

    real.next([ill.clone(), ill.clone()]);
    shadow.next([Behaviour::Answer, ill]);
    for (end, count) in [("only_original_failed", 1.0), ("both_failed", 1.0)] {
        let status = inference.model_infer(floats("m", &ROW)).await.err();
        ensure!(status.context("an error")?.code() == Code::InvalidArgument);
        until(gateway, end, count).await?;
    }

    // No copies for those who have too much to do.
    real.next([
        Behaviour::Fail(Code::ResourceExhausted),
        Behaviour::Fail(Code::Unavailable),
    ]);
    for count in [1.0, 2.0] {
        ensure!(inference.model_infer(floats("m", &ROW)).await.is_err());
        until(gateway, "dropped", count).await?;
    }

    shadow.next([Behaviour::Never]);
    inference.model_infer(floats("m", &ROW)).await?;
    until(gateway, "no_answer", 1.0).await?;
    shadow.until_active(|active| *active == 0).await?;
    fixture.shadow.stop();
    inference.model_infer(floats("m", &ROW)).await?;
    until(gateway, "no_answer", 2.0).await?;
    ensure!(
        gateway
            .metric("forebay_retries_total{route=\"all\"}")
            .await?
            == 0.0
    );
    gateway.all_idle().await?;

    // With the shadow alone nobody can be served.
    ensure!(gateway.admin("/readyz").await? == "ready\n");
    fixture.shadow.restart().await?;
    fixture.real.stop();
    let real = fixture.real.address.to_string();
    let only_the_shadow = |endpoints: &[serde_json::Value]| {
        endpoints.iter().all(|endpoint| {
            let is_real = endpoint["address"] == real.as_str();
            endpoint["health"] == if is_real { "unhealthy" } else { "healthy" }
        })
    };
    let time = Duration::from_secs(20);
    gateway
        .until("only the shadow healthy", time, only_the_shadow)
        .await?;
    ensure!(gateway.admin("/readyz").await? == "not ready\n");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_may_be_sent_twice_is_copied() -> anyhow::Result<()> {
    let fixture = Fixture::start("share = 1.0").await?;
    let gateway = &fixture.gateway;
    let mut inference = client::inference(gateway.address()).await?;
    let mut in_region = floats("m", &ROW);
    in_region.inputs[0].parameters.insert(
        "shared_memory_region".to_owned(),
        InferParameter {
            parameter_choice: Some(ParameterChoice::StringParam("r".to_owned())),
        },
    );
    inference.model_infer(in_region).await?;
    until(gateway, "unsuitable", 1.0).await?;
    // Neither what is no inference, nor what streams, nor what was never answered.
    inference
        .model_metadata(ModelMetadataRequest {
            name: "m".to_owned(),
            ..Default::default()
        })
        .await?;
    let stream = futures::stream::iter([floats("m", &ROW)]);
    let mut answers = inference.model_stream_infer(stream).await?.into_inner();
    ensure!(answers.message().await?.is_some());
    let mut hasty = tonic::Request::new(behaving("never", floats("m", &ROW)));
    hasty.set_timeout(Duration::from_millis(50));
    ensure!(inference.model_infer(hasty).await.is_err());
    inference.model_infer(floats("m", &ROW)).await?;
    until(gateway, "compared", 1.0).await?;
    ensure!(fixture.shadow.infers() == 1);
    gateway.all_idle().await
}
