//! Whoever goes away takes the work for it along: within ten milliseconds in the median, for unary calls and pages.
//!
//! Measured from the client's own giving up to the upstream's noticing, both in this process, through a real gateway.

use std::time::{Duration, Instant};

use anyhow::ensure;
use forebay_tests::client::{self, Rest, behaving, floats};
use forebay_tests::folder;
use forebay_tests::gateway::{Gateway, endpoints};
use forebay_tests::upstream::grpc::Upstream;
use forebay_tests::upstream::http::HttpUpstream;
use tokio::task::JoinHandle;

const ROW: [f32; 4] = [1.0, 2.0, 3.0, 4.0];
const TIMES: usize = 21;
const BOUND: Duration = Duration::from_millis(10);

/// The middle one of many: what the machine does beside is not the gateway's doing.
fn judge(path: &str, mut took: Vec<Duration>) -> anyhow::Result<()> {
    took.sort();
    let (median, longest) = (took[took.len() / 2], took[took.len() - 1]);
    println!("{path}: cancelled upstream after {median:?} (median), {longest:?} (longest)");
    ensure!(median < BOUND, "{path}: {took:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn inference_ends_with_its_client() -> anyhow::Result<()> {
    let upstream = Upstream::start("upstream").await?;
    let folder = folder!()?;
    let config = format!(
        "[[listeners]]\naddress = '127.0.0.1:0'\n[[clusters]]\nname = 'workers'\nendpoints = {}\n",
        endpoints([upstream.address])
    );
    let gateway = Gateway::start(&folder, &config)?;
    gateway.all_healthy().await?;
    let inference = client::inference(gateway.address()).await?;
    let grpc = || -> JoinHandle<()> {
        let mut inference = inference.clone();
        tokio::spawn(async move {
            let request = behaving("never", floats("m", &ROW));
            drop(inference.model_infer(request).await);
        })
    };
    let rest = || -> JoinHandle<()> {
        let rest = Rest::new(gateway.address());
        tokio::spawn(async move {
            let body = client::json_request(ROW, Some("never")).to_string();
            drop(rest.post("/v2/models/m/infer", body).await);
        })
    };
    type Start<'a> = &'a dyn Fn() -> JoinHandle<()>;
    let paths: [(&str, Start<'_>); 2] = [("unary gRPC", &grpc), ("REST over HTTP/1.1", &rest)];
    for (path, start) in paths {
        let mut took = Vec::new();
        for _ in 0..TIMES {
            let call = start();
            upstream.until_active(|active| *active == 1).await?;
            let gone = Instant::now();
            call.abort();
            upstream.until_active(|active| *active == 0).await?;
            took.push(gone.elapsed());
        }
        judge(path, took)?;
    }
    ensure!(upstream.cancelled() == 2 * TIMES as u64);
    gateway.all_idle().await
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_end_with_their_client() -> anyhow::Result<()> {
    let pages = HttpUpstream::start("pages").await?;
    let folder = folder!()?;
    let config = format!(
        "[[listeners]]\naddress = '127.0.0.1:0'\n\
         [[clusters]]\nname = 'pages'\nprotocol = 'http'\nendpoints = {}\n",
        endpoints([pages.address])
    );
    let gateway = Gateway::start(&folder, &config)?;
    gateway.all_healthy().await?;
    for (path, http2) in [("proxy, HTTP/1.1", false), ("proxy, HTTP/2", true)] {
        let mut took = Vec::new();
        for _ in 0..TIMES {
            let client = match http2 {
                false => Rest::new(gateway.address()),
                true => Rest::http2(gateway.address()),
            };
            let call = tokio::spawn(async move { client.get("/held").await });
            pages.until_active(|active| *active == 1).await?;
            let gone = Instant::now();
            call.abort();
            pages.until_active(|active| *active == 0).await?;
            took.push(gone.elapsed());
        }
        judge(path, took)?;
    }
    gateway.all_idle().await
}
