//! Whatever happens to requests, what was counted up comes down again.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use fastrand::Rng;
use forebay_tests::client::{self, Inference, Rest, behaving, floats, json_request};
use forebay_tests::folder;
use forebay_tests::gateway::{Gateway, endpoints};
use forebay_tests::upstream::grpc::{Behaviour, Upstream};
use forebay_tests::upstream::http::HttpUpstream;
use http::{Method, Request};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const CALLS: u64 = 2000;
const ROW: [f32; 4] = [1.0, 2.0, 3.0, 4.0];
const BEHAVIOURS: [&str; 8] = [
    "answer",
    "answer",
    "after 20",
    "after 120",
    "never",
    "fail 14",
    "fail 13",
    "fail 3",
];

/// What is called, and the tally of how it ended.
struct Mix {
    grpc: Inference,
    rest: Rest,
    address: std::net::SocketAddr,
    tally: Mutex<BTreeMap<&'static str, u32>>,
}

#[tokio::test(flavor = "multi_thread")]
async fn after_any_mix_nothing_is_active() -> anyhow::Result<()> {
    let mut upstreams = Vec::new();
    for number in 0..3 {
        upstreams.push(Upstream::start(&format!("upstream-{number}")).await?);
    }
    let pages = HttpUpstream::start("pages").await?;
    let folder = folder!()?;
    let gateway = Gateway::start(
        &folder,
        &format!(
            "[[listeners]]\naddress = '127.0.0.1:0'\n\
             [[routes]]\ncluster = 'workers'\ntimeout = '400ms'\nretry = {{ per_try_timeout = '150ms' }}\n\
             [[routes]]\ncluster = 'pages'\ntimeout = '400ms'\n\
             match = {{ path = {{ regex = '/(slow|echo|chunks|socket|events)(/.*)?' }} }}\n\
             [[clusters]]\nname = 'workers'\nendpoints = {}\nbreaker = {{ consecutive_failures = 20, open_for = '50ms' }}\n\
             [[clusters]]\nname = 'pages'\nprotocol = 'http'\nendpoints = ['{}']\n",
            endpoints(upstreams.iter().map(|upstream| upstream.address)),
            pages.address
        ),
    )?;
    gateway.all_healthy().await?;
    let seed = 0x00f0_7eba_u64;
    println!("seed {seed}");
    let mut random = Rng::with_seed(seed);
    let mix = std::sync::Arc::new(Mix {
        grpc: client::inference(gateway.address()).await?,
        rest: Rest::new(gateway.address()),
        address: gateway.address(),
        tally: Mutex::default(),
    });
    let mut calls = JoinSet::new();
    for _ in 0..CALLS {
        // At most so many at a time, so that some meet idle endpoints and some busy ones.
        while calls.len() >= 48 {
            calls.join_next().await.context("a call")??;
        }
        let (mix, own) = (mix.clone(), random.fork());
        calls.spawn(async move { mix.call(own).await });
    }
    while let Some(call) = calls.join_next().await {
        call?;
    }
    println!("{:?}", mix.tally.lock());
    for ending in [
        "answered",
        "failed",
        "cancelled",
        "stream answered",
        "page answered",
        "page cancelled",
    ] {
        assert!(
            mix.tally.lock().contains_key(ending),
            "no call was {ending}: {:?}",
            mix.tally.lock()
        );
    }
    gateway.all_idle().await?;
    for upstream in &upstreams {
        upstream.until_active(|active| *active == 0).await?;
    }
    let cancelled: u64 = gateway
        .endpoints()
        .await?
        .iter()
        .filter_map(|e| e["cancelled"].as_u64())
        .sum();
    assert!(cancelled > 0, "no lease was given up");
    let retries: f64 = gateway
        .metric("forebay_retries_total{route=\"route-1\"}")
        .await?;
    assert!(retries > 0.0, "nothing was retried");
    // And it all still works.
    assert_eq!(mix.rest.infer("m", ROW).await?.floats()?, ROW);
    gateway.all_idle().await
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_gives_up_is_followed_by_the_worker() -> anyhow::Result<()> {
    let upstream = Upstream::start("upstream").await?;
    upstream.always(Behaviour::Never);
    let folder = folder!()?;
    let gateway = Gateway::start(
        &folder,
        &format!(
            "[[listeners]]\naddress = '127.0.0.1:0'\n[[clusters]]\nname = 'workers'\nendpoints = ['{}']\n",
            upstream.address
        ),
    )?;
    gateway.all_healthy().await?;
    let address = gateway.address();
    let grpc = tokio::spawn(async move {
        drop(
            client::inference(address)
                .await?
                .model_infer(floats("m", &ROW))
                .await?,
        );
        anyhow::Ok(())
    });
    let stream = tokio::spawn(async move {
        let requests = tokio_stream::iter([floats("m", &ROW)]);
        let answers = client::inference(address)
            .await?
            .model_stream_infer(requests)
            .await?;
        answers.into_inner().message().await?;
        Ok(())
    });
    let rest = tokio::spawn(async move {
        Rest::new(address).infer("m", ROW).await?;
        Ok(())
    });
    let rest_over_http2 = tokio::spawn(async move {
        Rest::http2(address).infer("m", ROW).await?;
        Ok(())
    });
    upstream.until_active(|active| *active == 4).await?;
    assert_eq!(gateway.endpoint(upstream.address).await?["active"], 4);
    for (done, call) in (1..).zip([grpc, stream, rest, rest_over_http2]) {
        call.abort();
        upstream.until_active(|active| *active == 4 - done).await?;
        assert_eq!(upstream.cancelled(), done);
    }
    gateway.all_idle().await?;
    let endpoint = gateway.endpoint(upstream.address).await?;
    assert_eq!(
        (&endpoint["cancelled"], &endpoint["failures"]),
        (&4.into(), &0.into()),
        "{endpoint}"
    );
    assert_eq!(
        upstream.infers(),
        4,
        "nothing is retried for a client that is gone"
    );
    Ok(())
}

impl Mix {
    async fn call(&self, mut random: Rng) {
        let behaviour = BEHAVIOURS[random.usize(..BEHAVIOURS.len())];
        let patience = match random.u8(..3) {
            0 => Duration::from_millis(random.u64(..200)),
            _ => Duration::from_secs(20),
        };
        let ending = match random.u8(..10) {
            0..4 => self.over_grpc(behaviour, &mut random, patience).await,
            4..6 => self.over_rest(behaviour, patience).await,
            6 => self.stream(behaviour, patience).await,
            7 => self.abandon(&mut random).await,
            _ => self.page(&mut random, patience).await,
        };
        *self.tally.lock().entry(ending).or_default() += 1;
    }

    /// Given up, the call is dropped and its stream reset.
    async fn over_grpc(
        &self,
        behaviour: &str,
        random: &mut Rng,
        patience: Duration,
    ) -> &'static str {
        let mut request = tonic::Request::new(behaving(behaviour, floats("m", &ROW)));
        if random.bool() {
            let timeout = format!("{}m", random.u32(1..300));
            request
                .metadata_mut()
                .insert("grpc-timeout", timeout.parse().expect("a timeout is ASCII"));
        }
        match tokio::time::timeout(patience, self.grpc.clone().model_infer(request)).await {
            Ok(Ok(_)) => "answered",
            Ok(Err(_)) => "failed",
            Err(_) => "cancelled",
        }
    }

    /// Given up, the connection is closed.
    async fn over_rest(&self, behaviour: &str, patience: Duration) -> &'static str {
        let body = json_request(ROW, Some(behaviour)).to_string();
        match tokio::time::timeout(patience, self.rest.post("/v2/models/m/infer", body)).await {
            Ok(Ok(answer)) if answer.status == 200 => "answered",
            Ok(_) => "failed",
            Err(_) => "cancelled",
        }
    }

    async fn stream(&self, behaviour: &str, patience: Duration) -> &'static str {
        let requests = [
            floats("m", &ROW),
            behaving(behaviour, floats("m", &ROW)),
            floats("m", &ROW),
        ];
        let exchange = async {
            let answers = self
                .grpc
                .clone()
                .model_stream_infer(tokio_stream::iter(requests))
                .await;
            let Ok(answers) = answers else {
                return "stream failed";
            };
            let mut answers = answers.into_inner();
            loop {
                match answers.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return "stream answered",
                    Err(_) => return "stream failed",
                }
            }
        };
        // A stream has no timeout of its own: one that never ends is given up.
        let patience = patience.min(Duration::from_millis(300));
        tokio::time::timeout(patience, exchange)
            .await
            .unwrap_or("stream cancelled")
    }

    /// Says that a body comes, sends a part of it, and is gone.
    async fn abandon(&self, random: &mut Rng) -> &'static str {
        let path = if random.bool() {
            "/v2/models/m/infer"
        } else {
            "/echo"
        };
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{{\"inputs\"");
        let Ok(mut stream) = TcpStream::connect(self.address).await else {
            return "no connection";
        };
        let _ = stream.write_all(head.as_bytes()).await;
        "abandoned"
    }

    async fn page(&self, random: &mut Rng, patience: Duration) -> &'static str {
        let path = [
            "/echo",
            "/slow/5",
            "/slow/100",
            "/slow/10000",
            "/chunks/50",
            "/events",
        ][random.usize(..6)];
        let exchange = async {
            let opened = self
                .rest
                .open(Request::builder(), Method::POST, path, "body")
                .await;
            let Ok(answer) = opened else {
                return "page failed";
            };
            match answer.status().as_u16() {
                200 if answer.into_body().collect().await.is_ok() => "page answered",
                _ => "page failed",
            }
        };
        let patience = patience.min(Duration::from_millis(600));
        tokio::time::timeout(patience, exchange)
            .await
            .unwrap_or("page cancelled")
    }
}
