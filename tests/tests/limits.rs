//! What a route takes over time and at a time, on every data path.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use forebay_tests::client::{self, Rest, behaving, floats};
use forebay_tests::folder;
use forebay_tests::gateway::{Gateway, endpoints};
use forebay_tests::upstream::grpc::Upstream;
use forebay_tests::upstream::http::HttpUpstream;
use http::{Method, Request};
use tonic::Code;

const ROW: [f32; 4] = [1.0, 2.0, 3.0, 4.0];

fn config(upstream: &Upstream, pages: &HttpUpstream, limits: &str) -> String {
    format!(
        "[[listeners]]\naddress = '127.0.0.1:0'\n\
         [[routes]]\nname = 'inference'\ncluster = 'workers'\n{limits}\n\
         [[routes]]\nname = 'pages'\ncluster = 'pages'\n{limits}\n\
         match = {{ path = {{ regex = '/(echo|held)' }} }}\n\
         [[clusters]]\nname = 'workers'\nendpoints = {}\n\
         [[clusters]]\nname = 'pages'\nprotocol = 'http'\nendpoints = {}\n",
        endpoints([upstream.address]),
        endpoints([pages.address])
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn each_key_has_its_rate() -> anyhow::Result<()> {
    let upstream = Upstream::start("upstream").await?;
    let pages = HttpUpstream::start("pages").await?;
    let folder = folder!()?;
    let limits = "rate_limits = [{ requests = 2, per = '2h', by = { header = 'x-key' } }]";
    let text = config(&upstream, &pages, limits);
    let gateway = Gateway::start(&folder, &text)?;
    gateway.all_healthy().await?;
    let rest = Rest::new(gateway.address());
    let inference = client::inference(gateway.address()).await?;
    let over_rest = |key: &'static str, path: &'static str| {
        let builder = Request::builder().header("x-key", key);
        let body = client::json_request(ROW, None).to_string();
        let rest = rest.clone();
        async move { rest.send(builder, Method::POST, path, body).await }
    };
    let over_grpc = |key: &'static str| {
        let mut request = tonic::Request::new(floats("m", &ROW));
        request
            .metadata_mut()
            .insert("x-key", key.parse().expect("ASCII"));
        let mut inference = inference.clone();
        async move { inference.model_infer(request).await }
    };
    let infer = "/v2/models/m/infer";
    for key in ["a", "b"] {
        ensure!(over_rest(key, infer).await?.status == 200);
        over_grpc(key).await?;
        let refused = over_rest(key, infer).await?;
        ensure!(refused.status == 429, "{}", refused.status);
        let wait = refused.header("retry-after").context("retry-after")?;
        ensure!(
            (3590..=3600).contains(&wait.parse::<u32>()?),
            "{wait} of an hour"
        );
        let message = "too many requests with one value of a header: at most 2 in 7200s";
        ensure!(refused.error()? == message, "{}", refused.error()?);
        let refused = over_grpc(key).await.err().context("an error")?;
        ensure!(refused.code() == Code::ResourceExhausted, "{refused}");
        let pushback = refused.metadata().get("grpc-retry-pushback-ms");
        let pushback: u64 = pushback.context("pushback")?.to_str()?.parse()?;
        ensure!((3_590_000..=3_600_000).contains(&pushback), "{pushback}");
    }
    // A route of its own, through the proxy.
    for status in [200, 200, 429] {
        let answer = over_rest("a", "/echo").await?;
        ensure!(
            answer.status == status,
            "{} instead of {status}",
            answer.status
        );
    }
    ensure!((upstream.infers(), pages.requests()) == (4, 2));
    let refused = "forebay_rate_limited_total{route=\"inference\",by=\"x-key\",rate=\"2 in 2h\"}";
    ensure!(gateway.metric(refused).await? == 4.0);
    // The same limits go on over a reload, others begin anew.
    gateway.reload(&text.replacen("name = 'pages'", "name = 'site'", 1), 1)?;
    ensure!(over_rest("a", infer).await?.status == 429);
    gateway.reload(&text.replace("requests = 2", "requests = 3"), 2)?;
    ensure!(over_rest("a", infer).await?.status == 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_serves_so_many_at_a_time() -> anyhow::Result<()> {
    let upstream = Upstream::start("upstream").await?;
    let pages = HttpUpstream::start("pages").await?;
    let folder = folder!()?;
    let text = config(&upstream, &pages, "max_concurrent = 2");
    let gateway = Gateway::start(&folder, &text)?;
    gateway.all_healthy().await?;
    let rest = Rest::new(gateway.address());
    let inference = client::inference(gateway.address()).await?;
    let call = || {
        let mut inference = inference.clone();
        let request = behaving("held", floats("m", &ROW));
        tokio::spawn(async move { inference.model_infer(request).await })
    };
    let (gone, kept) = (call(), call());
    upstream.until_active(|active| *active == 2).await?;
    let refused = call().await?.err().context("an error")?;
    ensure!(refused.code() == Code::ResourceExhausted, "{refused}");
    ensure!(rest.infer("m", ROW).await?.status == 429);
    ensure!(upstream.infers() == 2);
    gone.abort();
    upstream.until_active(|active| *active == 1).await?;
    let served = "forebay_route_concurrent{route=\"inference\"}";
    let end = Instant::now() + Duration::from_secs(10);
    while gateway.metric(served).await? != 1.0 {
        ensure!(Instant::now() < end, "the place was not given back");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    ensure!(rest.infer("m", ROW).await?.floats()? == ROW);
    upstream.release();
    kept.await??;
    // Through the proxy, on its own route.
    let get = |path: &'static str| {
        let rest = rest.clone();
        tokio::spawn(async move { rest.get(path).await })
    };
    let held = [get("/held"), get("/held")];
    pages.until_active(|active| *active == 2).await?;
    let refused = get("/echo").await??;
    ensure!((refused.status.as_u16(), refused.header("retry-after")) == (429, Some("1")));
    pages.release();
    for page in held {
        ensure!(page.await??.status == 200);
    }
    ensure!(get("/echo").await??.status == 200);
    gateway.all_idle().await?;
    for route in ["inference", "pages"] {
        let served = format!("forebay_route_concurrent{{route=\"{route}\"}}");
        ensure!(gateway.metric(&served).await? == 0.0);
    }
    Ok(())
}
