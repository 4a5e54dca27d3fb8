//! The policy `least_work` goes by rows, and by what workers report.

use std::time::Duration;

use forebay_proto::orca::OrcaLoadReport;
use forebay_tests::client::{self, Inference, behaving, floats};
use forebay_tests::folder;
use forebay_tests::gateway::{Gateway, endpoints};
use forebay_tests::upstream::grpc::Upstream;

const ROW: [f32; 4] = [1.0; 4];
const LEARNING: usize = 40;

struct Setup {
    upstreams: [Upstream; 2],
    gateway: Gateway,
    inference: Inference,
}

impl Setup {
    async fn start(folder: &std::path::Path, keys: &str) -> anyhow::Result<Self> {
        let upstreams = [Upstream::start("one").await?, Upstream::start("two").await?];
        Self::before(upstreams, folder, keys).await
    }

    async fn before(
        upstreams: [Upstream; 2],
        folder: &std::path::Path,
        keys: &str,
    ) -> anyhow::Result<Self> {
        let addresses = endpoints(upstreams.iter().map(|upstream| upstream.address));
        let config = format!(
            "[[listeners]]\naddress = '127.0.0.1:0'\n\
             [[clusters]]\nname = 'workers'\nendpoints = {addresses}\n{keys}\n"
        );
        let gateway = Gateway::start(folder, &config)?;
        gateway.all_healthy().await?;
        let inference = client::inference(gateway.address()).await?;
        Ok(Self {
            upstreams,
            gateway,
            inference,
        })
    }

    /// Requests of one row, one after the other; how many each upstream got.
    async fn ask(&mut self, times: usize) -> anyhow::Result<[u64; 2]> {
        let before = self.infers();
        for _ in 0..times {
            self.inference.model_infer(floats("m", &ROW)).await?;
        }
        let after = self.infers();
        Ok([after[0] - before[0], after[1] - before[1]])
    }

    /// Until the gateway was told of such rows of others at the first endpoint.
    async fn until_others_have(&self, rows: impl Fn(u64) -> bool) -> anyhow::Result<()> {
        let told = |endpoints: &[serde_json::Value]| {
            endpoints[0]["rows_of_others"].as_u64().is_some_and(&rows)
        };
        self.gateway
            .until("rows of others", Duration::from_secs(10), told)
            .await
            .map(drop)
    }

    fn infers(&self) -> [u64; 2] {
        [self.upstreams[0].infers(), self.upstreams[1].infers()]
    }
}

fn report(rows: f64) -> OrcaLoadReport {
    OrcaLoadReport {
        named_metrics: [("forebay.rows".to_owned(), rows)].into(),
        ..OrcaLoadReport::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_request_counts_by_its_rows_until_it_is_answered() -> anyhow::Result<()> {
    let folder = folder!()?;
    let mut setup = Setup::start(&folder, "").await?;
    let learned = setup.ask(LEARNING).await?;
    assert!(learned.iter().all(|infers| *infers > 0), "{learned:?}");
    let large = behaving("held", floats("m", &ROW.repeat(200)));
    let mut other = setup.inference.clone();
    let before = setup.infers();
    let held = tokio::spawn(async move { other.model_infer(large).await });
    let rows = |endpoint: &serde_json::Value| endpoint["rows"].as_u64().unwrap_or(0);
    setup
        .gateway
        .until("200 rows in flight", Duration::from_secs(10), |endpoints| {
            endpoints.iter().map(rows).sum::<u64>() == 200
        })
        .await?;
    let busy = usize::from(setup.infers()[1] > before[1]);
    let small = setup.ask(20).await?;
    assert_eq!(small[busy], 0, "beside 200 rows: {small:?}");
    setup.upstreams[busy].release();
    held.await??;
    setup.gateway.all_idle().await?;
    let endpoints = setup.gateway.endpoints().await?;
    assert!(endpoints.iter().all(|endpoint| rows(endpoint) == 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reports_rows_of_others_is_avoided_unless_reports_are_ignored() -> anyhow::Result<()> {
    for heeded in [true, false] {
        let keys = if heeded {
            "load_reports = 'answers'"
        } else {
            "load_reports = 'ignore'"
        };
        let folder = folder!()?;
        let mut setup = Setup::start(&folder, keys).await?;
        setup.upstreams[0].report(&report(1.0));
        setup.ask(LEARNING).await?;
        setup.upstreams[0].report(&report(5_000.0));
        let [crowded, other] = setup.ask(60).await?;
        if heeded {
            assert!(crowded < 20, "{crowded} beside {other}");
        } else {
            assert!(crowded >= 10, "{crowded} beside {other}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_reports_tells_before_the_first_answer_and_is_opened_again()
-> anyhow::Result<()> {
    let upstreams = [Upstream::start("one").await?, Upstream::start("two").await?];
    upstreams[0].report(&report(700.0));
    upstreams[1].report(&report(0.0));
    let folder = folder!()?;
    let mut setup = Setup::before(upstreams, &folder, "load_reports = 'stream'").await?;
    setup.until_others_have(|rows| rows == 700).await?;
    let [crowded, other] = setup.ask(10).await?;
    assert!(crowded <= 1, "{crowded} beside {other}");

    setup.upstreams[0].stop();
    setup.upstreams[0].restart().await?;
    setup.upstreams[0].report(&report(90.0));
    let streams = setup.upstreams[0].streams();
    setup.until_others_have(|rows| rows < 600).await?;
    assert!(setup.upstreams[0].streams() >= streams.max(2));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_reports_is_asked_again_only_after_it_was_gone() -> anyhow::Result<()> {
    let folder = folder!()?;
    let keys = "load_reports = 'stream'\nhealth = { interval = '20ms' }";
    let mut setup = Setup::start(&folder, keys).await?;
    let gone = &mut setup.upstreams[0];
    let asked_at_first = gone.streams();
    assert!((1..=2).contains(&asked_at_first), "{asked_at_first}");
    let checks = gone.health_checks();
    while gone.health_checks() < checks + 20 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(gone.streams() <= 2, "asked for what it does not have");
    gone.stop();
    let unhealthy = |endpoints: &[serde_json::Value]| endpoints[0]["health"] == "unhealthy";
    setup
        .gateway
        .until("unhealthy", Duration::from_secs(10), unhealthy)
        .await?;
    setup.upstreams[0].report(&report(60.0));
    setup.upstreams[0].restart().await?;
    setup.until_others_have(|rows| rows == 60).await?;
    Ok(())
}
