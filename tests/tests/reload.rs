//! A new configuration takes effect between two requests; a bad one not at all.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use forebay_tests::client::{self, Rest, floats, json_request};
use forebay_tests::folder;
use forebay_tests::gateway::{Gateway, endpoints};
use forebay_tests::load::{self, open_loop};
use forebay_tests::strict::{KeepAlive, Multiplexed};
use forebay_tests::upstream::grpc::{Behaviour, Upstream};
use forebay_tests::upstream::http::HttpUpstream;
use forebay_tests::wire::{INFER, frame};
use prost::Message;

const ROW: [f32; 4] = [1.0, 2.0, 3.0, 4.0];
const LISTENER: &str = "[[listeners]]\naddress = '127.0.0.1:0'\n";

async fn upstreams(count: usize) -> anyhow::Result<Vec<Upstream>> {
    let mut upstreams = Vec::new();
    for number in 0..count {
        upstreams.push(Upstream::start(&format!("upstream-{number}")).await?);
    }
    Ok(upstreams)
}

fn one_cluster(addresses: &[SocketAddr], more: &str) -> String {
    let list = endpoints(addresses.iter().copied());
    format!("{LISTENER}[[clusters]]\nname = 'workers'\nendpoints = {list}\n{more}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_everything_changes() -> anyhow::Result<()> {
    let upstreams = upstreams(4).await?;
    let pages = HttpUpstream::start("pages").await?;
    let [a, b, c, extra] = [0, 1, 2, 3].map(|number| upstreams[number].address);
    // Two of three workers at a time, one of them from the time before; a cluster and a route that come and go.
    let config = move |round: usize| {
        let workers = endpoints([[a, b], [b, c], [c, a]][round % 3]);
        let policy = ["least_request", "round_robin", "peak_ewma", "random"][round % 4];
        let timeout = 5 + round % 3;
        let special = match round % 2 {
            0 => String::new(),
            _ => format!(
                "[[routes]]\nname = 'special'\ncluster = 'extra'\nmatch = {{ model = 'special' }}\n\
                 [[clusters]]\nname = 'extra'\nhealth = false\nendpoints = ['{extra}']\n"
            ),
        };
        format!(
            "{LISTENER}[[routes]]\nname = 'all'\ncluster = 'workers'\ntimeout = '{timeout}s'\n\
             [[routes]]\nname = 'pages'\ncluster = 'pages'\nmatch = {{ path = '/echo' }}\n\
             {special}[[clusters]]\nname = 'workers'\npolicy = '{policy}'\nendpoints = {workers}\n\
             [[clusters]]\nname = 'pages'\nprotocol = 'http'\nendpoints = ['{}']\n",
            pages.address
        )
    };
    let folder = folder!()?;
    let gateway = Gateway::start(&folder, &config(0))?;
    gateway.all_healthy().await?;
    let address = gateway.address();
    let rest = Rest::new(address);
    let inference = client::inference(address).await?;
    let load = tokio::spawn(open_loop(150, Duration::from_millis(3500), move |number| {
        let (rest, mut inference) = (rest.clone(), inference.clone());
        async move {
            let model = if number % 8 < 4 { "plain" } else { "special" };
            match number % 4 {
                0 => ensure!(rest.infer(model, ROW).await?.floats()? == ROW),
                1 => ensure!(rest.post("/echo", "hello").await?.body == "hello"),
                2 => {
                    let stream = inference
                        .model_stream_infer(tokio_stream::iter([floats(model, &ROW)]))
                        .await?;
                    let answer = stream.into_inner().message().await?.context("an answer")?;
                    ensure!(answer.error_message.is_empty(), "{}", answer.error_message);
                }
                _ => drop(inference.model_infer(floats(model, &ROW)).await?),
            }
            Ok(())
        }
    }));
    let mut pace = tokio::time::interval(Duration::from_millis(200));
    let mut rounds = 0;
    while !load.is_finished() {
        pace.tick().await;
        rounds += 1;
        gateway.reload(&config(rounds), rounds)?;
        // The new workers are healthy before others go.
        gateway.all_healthy().await?;
    }
    let report = load.await?;
    assert!(rounds >= 10, "{rounds} rounds");
    assert!(report.errors.is_empty(), "{report:?}");
    assert!(upstreams.iter().all(|upstream| upstream.infers() > 0));
    gateway.all_idle().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_changes_nothing_and_says_why() -> anyhow::Result<()> {
    let upstreams = upstreams(1).await?;
    let folder = folder!()?;
    let good = one_cluster(&[upstreams[0].address], "");
    let gateway = Gateway::start(&folder, &good)?;
    gateway.all_healthy().await?;
    let rest = Rest::new(gateway.address());
    let stays = "configuration not reloaded, the running one stays";
    let bad: [(&str, &[&str]); 3] = [
        ("[[listeners", &["line 1"]),
        (
            &good.replace(
                "name = 'workers'",
                "name = 'workers'\npolicy = 'fastest'\nweight = 2",
            ),
            &["clusters[0].policy", "fastest", "clusters[0].weight"],
        ),
        (
            &format!("{good}tls = {{ server_name = 'worker.internal', ca = '/nowhere' }}\n"),
            &["/nowhere", "workers"],
        ),
    ];
    for (round, (config, says)) in bad.iter().enumerate() {
        gateway.rewrite(config)?;
        gateway.process.signal("HUP")?;
        gateway
            .process
            .until_stderr(stays, round + 1, Duration::from_secs(10))?;
        for part in *says {
            gateway
                .process
                .until_stderr(part, 1, Duration::from_secs(1))?;
        }
        assert_eq!(rest.infer("m", ROW).await?.floats()?, ROW);
        assert_eq!(gateway.endpoints().await?.len(), 1);
    }
    std::fs::remove_file(&gateway.config)?;
    gateway.process.signal("HUP")?;
    gateway
        .process
        .until_stderr(stays, 4, Duration::from_secs(10))?;
    assert_eq!(rest.infer("m", ROW).await?.floats()?, ROW);

    // What only a restart can change is said, and the rest applies.
    let moved = good
        .replace(
            "[[listeners]]",
            "threads = 7\n[[listeners]]\nname = 'other'",
        )
        .replace("'workers'", "'renamed'");
    gateway.reload(&moved, 1)?;
    for key in ["'threads' changed: restart", "'listeners' changed: restart"] {
        gateway
            .process
            .until_stderr(key, 1, Duration::from_secs(1))?;
    }
    assert!(gateway.admin("/endpoints").await?.contains("renamed"));
    gateway.all_healthy().await?;
    assert_eq!(rest.infer("m", ROW).await?.floats()?, ROW);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_of_an_endpoint_survives() -> anyhow::Result<()> {
    let upstreams = upstreams(3).await?;
    let addresses: Vec<_> = upstreams.iter().map(|upstream| upstream.address).collect();
    let folder = folder!()?;
    let breaker = "policy = 'round_robin'\nbreaker = { consecutive_failures = 1, open_for = '1h' }";
    let gateway = Gateway::start(&folder, &one_cluster(&addresses, breaker))?;
    gateway.all_healthy().await?;
    let rest = Rest::new(gateway.address());
    // One is unhealthy, one has its breaker open, and all of them have counted.
    upstreams[1].next([Behaviour::Fail(tonic::Code::Unavailable)]);
    for _ in 0..12 {
        rest.infer("m", ROW).await?;
    }
    upstreams[2].set_serving(false);
    let third = |endpoints: &[serde_json::Value]| endpoints[2]["health"] == "unhealthy";
    let before = gateway
        .until("the third unhealthy", Duration::from_secs(10), third)
        .await?;
    assert_eq!(before[1]["breaker"], "open", "{before:?}");
    assert!(
        before
            .iter()
            .all(|endpoint| endpoint["requests"].as_u64() > Some(0)),
        "{before:?}"
    );

    // Other order, other weight, other policy, another route: the endpoints are the same.
    let list = format!(
        "['{}', {{ address = '{}', weight = 3 }}, '{}']",
        addresses[2], addresses[1], addresses[0]
    );
    let config = format!(
        "{LISTENER}[[routes]]\nname = 'new'\ncluster = 'workers'\n[[clusters]]\nname = 'workers'\nendpoints = {list}\n\
         policy = 'random'\nbreaker = {{ consecutive_failures = 1, open_for = '1h' }}\n"
    );
    gateway.reload(&config, 1)?;
    let after = gateway.endpoints().await?;
    for (old, new) in [(0, 2), (1, 1), (2, 0)] {
        for key in ["address", "health", "breaker", "requests", "failures"] {
            assert_eq!(
                before[old][key], after[new][key],
                "{key} of {}",
                before[old]["address"]
            );
        }
    }
    // And they are used accordingly.
    let counts = [upstreams[1].infers(), upstreams[2].infers()];
    for _ in 0..20 {
        assert_eq!(rest.infer("m", ROW).await?.floats()?, ROW);
    }
    assert_eq!([upstreams[1].infers(), upstreams[2].infers()], counts);
    // An endpoint with another breaker is another endpoint.
    gateway.reload(&one_cluster(&addresses, "breaker = false"), 2)?;
    assert_eq!(gateway.endpoints().await?[1]["breaker"], "off");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_endpoint_is_left_alone() -> anyhow::Result<()> {
    let upstreams = upstreams(2).await?;
    let [kept, removed] = [0, 1].map(|number| upstreams[number].address);
    let health = "policy = 'round_robin'\nhealth = { interval = '20ms' }";
    let folder = folder!()?;
    let gateway = Gateway::start(&folder, &one_cluster(&[kept, removed], health))?;
    gateway.all_healthy().await?;
    let rest = Rest::new(gateway.address());
    for _ in 0..4 {
        rest.infer("m", ROW).await?;
    }
    assert!(upstreams[1].infers() >= 1);
    // A call that is under way stays where it is.
    upstreams
        .iter()
        .for_each(|upstream| upstream.next([Behaviour::Held]));
    let inference = client::inference(gateway.address()).await?;
    let held: Vec<_> = (0..2)
        .map(|_| {
            let mut inference = inference.clone();
            tokio::spawn(async move { inference.model_infer(floats("m", &ROW)).await })
        })
        .collect();
    for upstream in &upstreams {
        upstream.until_active(|active| *active == 1).await?;
    }
    gateway.reload(&one_cluster(&[kept], health), 1)?;
    assert_eq!(gateway.endpoints().await?.len(), 1);
    let before = upstreams[1].infers();
    for _ in 0..20 {
        assert_eq!(rest.infer("m", ROW).await?.floats()?, ROW);
    }
    upstreams.iter().for_each(|upstream| upstream.release());
    for call in held {
        call.await??;
    }
    assert_eq!(upstreams[1].infers(), before);
    // Its health is of no interest any more: ten checks of the other one, and at most one that was under way.
    let (own, other) = (upstreams[1].health_checks(), upstreams[0].health_checks());
    while upstreams[0].health_checks() < other + 10 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(
        upstreams[1].health_checks() <= own + 1,
        "{own}, then {}",
        upstreams[1].health_checks()
    );
    gateway.all_idle().await
}

#[tokio::test(flavor = "multi_thread")]
async fn reloads_in_quick_succession_end_with_the_last_file() -> anyhow::Result<()> {
    let upstreams = upstreams(2).await?;
    let [a, b] = [0, 1].map(|number| upstreams[number].address);
    let folder = folder!()?;
    let gateway = Gateway::start(&folder, &one_cluster(&[a], ""))?;
    gateway.all_healthy().await?;
    let stop = Arc::new(AtomicBool::new(false));
    let rest = Rest::new(gateway.address());
    let asking = tokio::spawn({
        let (rest, stop) = (rest.clone(), stop.clone());
        async move {
            while !stop.load(Ordering::SeqCst) {
                rest.infer("m", ROW).await?.floats()?;
            }
            anyhow::Ok(())
        }
    });
    for round in 0..30 {
        gateway.rewrite(&one_cluster(&[a, b][..1 + round % 2], ""))?;
        gateway.process.signal("HUP")?;
    }
    gateway.rewrite(&one_cluster(&[a, b], "policy = 'random'"))?;
    gateway.process.signal("HUP")?;
    let settled = |endpoints: &[serde_json::Value]| endpoints.len() == 2;
    gateway
        .until("two endpoints", Duration::from_secs(10), settled)
        .await?;
    let end = tokio::time::Instant::now() + Duration::from_secs(10);
    while !gateway.admin("/endpoints").await?.contains("random") {
        ensure!(
            tokio::time::Instant::now() < end,
            "the last file is not in force"
        );
    }
    gateway.all_healthy().await?;
    stop.store(true, Ordering::SeqCst);
    asking.await??;
    gateway.all_idle().await
}

/// One worker more or less, another policy, another timeout, a route that comes and goes: every second, under load.
#[tokio::test(flavor = "multi_thread")]
async fn reloads_under_load_cost_nothing() -> anyhow::Result<()> {
    let upstreams = upstreams(3).await?;
    let pages = HttpUpstream::start("pages").await?;
    let addresses = [0, 1, 2].map(|number| upstreams[number].address);
    let config = move |round: usize| {
        let workers = endpoints(addresses[..2 + round % 2].iter().copied());
        let policy = ["least_work", "least_request", "round_robin"][round % 3];
        let special = match round % 2 {
            0 => "",
            _ => {
                "[[routes]]\nname = 'special'\ncluster = 'workers'\nmatch = { model = 'special' }\n"
            }
        };
        format!(
            "{LISTENER}{special}[[routes]]\nname = 'all'\ncluster = 'workers'\ntimeout = '{}s'\n\
             [[routes]]\nname = 'pages'\ncluster = 'pages'\nmatch = {{ path = '/echo' }}\n\
             [[clusters]]\nname = 'workers'\npolicy = '{policy}'\nendpoints = {workers}\n\
             [[clusters]]\nname = 'pages'\nprotocol = 'http'\nendpoints = ['{}']\n",
            10 + round % 5,
            pages.address
        )
    };
    let folder = folder!()?;
    let gateway = Gateway::start(&folder, &config(0))?;
    gateway.all_healthy().await?;
    let address = gateway.address();
    let (calls, kept) = (
        Arc::new(Multiplexed::new(address, 4)),
        Arc::new(KeepAlive::new(address)),
    );
    let message = frame(0, &floats("m", &ROW).encode_to_vec());
    let json = Bytes::from(json_request(ROW, None).to_string());
    let seconds = load::seconds(5);
    let load = tokio::spawn(open_loop(load::rate(400), seconds, move |number| {
        let (calls, kept) = (calls.clone(), kept.clone());
        let (message, json) = (message.clone(), json.clone());
        async move {
            match number % 4 {
                0 | 1 => drop(calls.call(number as usize / 4, INFER, message).await?),
                2 => drop(kept.post("/v2/models/m/infer", json).await?),
                _ => ensure!(kept.post("/echo", "hello").await? == "hello"),
            }
            Ok(())
        }
    }));
    let mut pace = tokio::time::interval(Duration::from_secs(1));
    pace.tick().await;
    let mut rounds = 0;
    while !load.is_finished() {
        pace.tick().await;
        rounds += 1;
        gateway.rewrite(&config(rounds))?;
        // A storm now and then: what is read last counts.
        for _ in 0..[1, 1, 20][rounds % 3] {
            gateway.process.signal("HUP")?;
        }
    }
    let report = load.await?;
    println!("{rounds} reloads, {report:?}");
    assert!(report.errors.is_empty(), "{report:?}");
    assert!(report.longest < Duration::from_secs(2), "{report:?}");
    gateway.all_idle().await?;
    // Whatever was reloaded meanwhile, each request was counted once, and so was each attempt.
    let count = |route: &str| format!("forebay_requests_total{{route=\"{route}\",code=\"0\"}}");
    let all = gateway.metric(&count("all")).await? + gateway.metric(&count("pages")).await?;
    assert_eq!(all, report.calls as f64);
    let infers: u64 = upstreams.iter().map(|upstream| upstream.infers()).sum();
    let sent = report.calls as u64 - pages.requests();
    assert_eq!((infers, pages.requests()), (sent, report.calls as u64 / 4));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn telemetry_changes_between_two_requests() -> anyhow::Result<()> {
    let upstream = Upstream::start("upstream").await?;
    let collectors = [
        HttpUpstream::start("first").await?,
        HttpUpstream::start("second").await?,
    ];
    let config = |level: &str, collector: &HttpUpstream| {
        format!(
            "[telemetry]\nlog_level = '{level}'\nsampling_ratio = 1.0\n\
             otlp = {{ endpoint = 'http://{}/echo', protocol = 'http' }}\n{}",
            collector.address,
            one_cluster(&[upstream.address], "")
        )
    };
    let folder = folder!()?;
    let gateway = Gateway::start(&folder, &config("info", &collectors[0]))?;
    gateway.all_healthy().await?;
    upstream.next([Behaviour::Held]);
    let mut inference = client::inference(gateway.address()).await?;
    let held = tokio::spawn({
        let mut inference = inference.clone();
        async move { inference.model_infer(floats("m", &ROW)).await }
    });
    upstream.until_active(|active| *active == 1).await?;
    break_the_protocol(&gateway).await?;
    assert!(!gateway.process.stderr().contains("DEBUG http/2"));
    gateway.reload(&config("debug", &collectors[1]), 1)?;
    break_the_protocol(&gateway).await?;
    gateway
        .process
        .until_stderr("DEBUG http/2", 1, Duration::from_secs(10))?;
    // The request that began before tells the collector of that time.
    assert_eq!(collectors.each_ref().map(HttpUpstream::requests), [0, 0]);
    upstream.release();
    held.await??;
    until_exported(&collectors[0]).await?;
    assert_eq!(collectors[1].requests(), 0);
    let told = collectors[0].requests();
    inference.model_infer(floats("m", &ROW)).await?;
    until_exported(&collectors[1]).await?;
    assert_eq!(collectors[0].requests(), told);
    Ok(())
}

/// What is worth a line to who debugs. Returns when the gateway has hung up.
async fn break_the_protocol(gateway: &Gateway) -> anyhow::Result<()> {
    let nonsense = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnonsense that is no frame";
    client::raw(gateway.address(), nonsense, Duration::from_secs(10)).await?;
    Ok(())
}

async fn until_exported(collector: &HttpUpstream) -> anyhow::Result<()> {
    let end = tokio::time::Instant::now() + Duration::from_secs(10);
    while collector.requests() == 0 {
        ensure!(tokio::time::Instant::now() < end, "no span was exported");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}
