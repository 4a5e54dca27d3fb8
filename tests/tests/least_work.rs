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

    fn infers(&self) -> [u64; 2] {
        [self.upstreams[0].infers(), self.upstreams[1].infers()]
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
        let report = |rows: f64| OrcaLoadReport {
            named_metrics: [("forebay.rows".to_owned(), rows)].into(),
            ..OrcaLoadReport::default()
        };
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
