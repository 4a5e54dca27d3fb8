//! Routes and headers that ask for endpoints by their labels, and clusters that prefer some.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, ensure};
use forebay_tests::client::{self, Rest, floats};
use forebay_tests::folder;
use forebay_tests::folder::Folder;
use forebay_tests::gateway::Gateway;
use forebay_tests::upstream::grpc::Upstream;
use http::{Method, Request};
use tonic::Code;

const ROW: [f32; 4] = [1.0, 2.0, 3.0, 4.0];

/// Upstreams 0 and 1 are H100s in zones a and b, upstream 2 is an A10 in zone a.
struct Fleet {
    gateway: Gateway,
    upstreams: Vec<Upstream>,
    _folder: Folder,
}

/// The endpoints come from a discovery's file, since that has to know labels too.
async fn fleet(fallback: &str) -> anyhow::Result<Fleet> {
    let labels = "gpu = 'h100', zone = { header = 'x-zone' }";
    fleet_with(&format!(
        "[[routes]]\ncluster = 'workers'\nsubset = {{ labels = {{ {labels} }}, fallback = '{fallback}' }}\n"
    ))
    .await
}

/// `more` follows the cluster.
async fn fleet_with(more: &str) -> anyhow::Result<Fleet> {
    let labels = [("h100", "a"), ("h100", "b"), ("a10", "a")];
    let mut upstreams = Vec::new();
    let mut endpoints = String::new();
    for (gpu, zone) in labels {
        let upstream = Upstream::start(&format!("{gpu}-{zone}")).await?;
        endpoints.push_str(&format!(
            "{{ address = '{}', labels = {{ gpu = '{gpu}', zone = '{zone}' }} }},\n",
            upstream.address
        ));
        upstreams.push(upstream);
    }
    let folder = folder!()?;
    let file = folder.join("endpoints.toml");
    std::fs::write(&file, format!("endpoints = [\n{endpoints}]\n"))?;
    let config = format!(
        "[[listeners]]\naddress = '127.0.0.1:0'\n\
         [[clusters]]\nname = 'workers'\npolicy = 'round_robin'\nhealth = {{ interval = '50ms' }}\ndiscovery = {{ file = '{}' }}\n\
         {more}",
        file.display()
    );
    let gateway = Gateway::start(&folder, &config)?;
    let three = |all: &[serde_json::Value]| {
        all.len() == 3 && all.iter().all(|one| one["health"] == "healthy")
    };
    gateway
        .until("three healthy endpoints", Duration::from_secs(10), three)
        .await?;
    Ok(Fleet {
        gateway,
        upstreams,
        _folder: folder,
    })
}

impl Fleet {
    async fn grpc(&self, zone: Option<&str>) -> Result<String, tonic::Status> {
        let inference = client::inference(self.gateway.address()).await;
        let mut inference =
            inference.map_err(|error| tonic::Status::internal(error.to_string()))?;
        let mut request = tonic::Request::new(floats("m", &ROW));
        if let Some(zone) = zone.and_then(|zone| zone.parse().ok()) {
            request.metadata_mut().insert("x-zone", zone);
        }
        let answer = inference.model_infer(request).await?;
        let name = answer.metadata().get("x-upstream");
        let name = name.and_then(|name| name.to_str().ok());
        Ok(name.unwrap_or_default().to_owned())
    }

    /// Who is asked in 20 calls.
    async fn seen(&self, zone: Option<&str>) -> anyhow::Result<BTreeSet<String>> {
        let mut seen = BTreeSet::new();
        for _ in 0..20 {
            seen.insert(self.grpc(zone).await?);
        }
        Ok(seen)
    }

    async fn rest(&self, zone: &str) -> anyhow::Result<client::Answer> {
        let body = client::json_request(ROW, None).to_string();
        let builder = Request::builder().header("x-zone", zone);
        let rest = Rest::new(self.gateway.address());
        rest.send(builder, Method::POST, "/v2/models/m/infer", body)
            .await
    }

    /// Until the gateway knows that upstream 1 is away.
    async fn lose_b(&mut self) -> anyhow::Result<()> {
        let address = self.upstreams[1].address.to_string();
        self.upstreams[1].stop();
        let away = |all: &[serde_json::Value]| {
            let mut all = all.iter();
            all.any(|one| one["address"] == address.as_str() && one["health"] == "unhealthy")
        };
        self.gateway
            .until("zone b away", Duration::from_secs(10), away)
            .await
            .map(drop)
    }
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_is_what_answers() -> anyhow::Result<()> {
    let mut fleet = fleet("none").await?;
    assert_eq!(fleet.seen(None).await?, names(&["h100-a", "h100-b"]));
    assert_eq!(fleet.seen(Some("a")).await?, names(&["h100-a"]));
    assert_eq!(fleet.seen(Some("b")).await?, names(&["h100-b"]));
    let answer = fleet.rest("b").await?;
    let endpoint = answer.header("x-forebay-endpoint").context("an endpoint")?;
    assert_eq!(endpoint, fleet.upstreams[1].address.to_string());
    // Nobody there, or nobody well.
    let status = fleet.grpc(Some("c")).await.expect_err("no zone c");
    assert_eq!(status.code(), Code::Unavailable);
    ensure!(status.message().contains("with the labels"), "{status:?}");
    fleet.lose_b().await?;
    let answer = fleet.rest("b").await?;
    assert_eq!(answer.status, 503);
    ensure!(answer.error()?.contains("with the labels"), "{answer:?}");
    assert_eq!(fleet.seen(None).await?, names(&["h100-a"]));
    fleet.gateway.all_idle().await
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_fallback_others_stand_in() -> anyhow::Result<()> {
    let mut fleet = fleet("any").await?;
    assert_eq!(fleet.seen(Some("b")).await?, names(&["h100-b"]));
    assert_eq!(
        fleet.seen(Some("c")).await?,
        names(&["a10-a", "h100-a", "h100-b"])
    );
    fleet.lose_b().await?;
    assert_eq!(fleet.seen(Some("b")).await?, names(&["a10-a", "h100-a"]));
    fleet.gateway.all_idle().await
}

#[tokio::test(flavor = "multi_thread")]
async fn preferred_endpoints_come_first_and_others_stand_in() -> anyhow::Result<()> {
    let mut fleet = fleet_with("[clusters.prefer]\nlabels = { zone = 'b' }\n").await?;
    assert_eq!(fleet.seen(None).await?, names(&["h100-b"]));
    fleet.lose_b().await?;
    assert_eq!(fleet.seen(None).await?, names(&["a10-a", "h100-a"]));
    fleet.gateway.all_idle().await
}
