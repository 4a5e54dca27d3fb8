//! Gateways that have a rate limit together in a real Redis, and each for itself when it is gone.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use forebay_tests::client::{self, Rest};
use forebay_tests::folder;
use forebay_tests::folder::Folder;
use forebay_tests::gateway::Gateway;
use forebay_tests::redis::Redis;
use forebay_tests::upstream::grpc::Upstream;
use http::{Method, Request};

const ROW: [f32; 4] = [1.0, 2.0, 3.0, 4.0];
const PATIENCE: Duration = Duration::from_secs(20);
const UP: &str = "forebay_redis_up";

fn start(
    folder: &Path,
    redis: &Redis,
    upstream: &Upstream,
    limits: &str,
) -> anyhow::Result<Gateway> {
    let config = format!(
        "[redis]\naddress = '127.0.0.1:{}'\ntimeout = '1s'\n\
         [[listeners]]\naddress = '127.0.0.1:0'\n\
         [[routes]]\nname = 'all'\ncluster = 'workers'\nrate_limits = [{limits}]\n\
         [[clusters]]\nname = 'workers'\nendpoints = ['{}']\n",
        redis.address.port(),
        upstream.address
    );
    Gateway::start(folder, &config)
}

struct Setting {
    gateways: Vec<Gateway>,
    redis: Redis,
    upstream: Upstream,
    _folder: Folder,
}

/// Two gateways that have found Redis.
async fn setting(limits: &str) -> anyhow::Result<Setting> {
    let folder = folder!()?;
    let redis = Redis::start(&folder, &[])?;
    let upstream = Upstream::start("worker").await?;
    let mut gateways = Vec::new();
    for name in ["one", "other"] {
        let folder = folder.join(name);
        std::fs::create_dir(&folder)?;
        let gateway = start(&folder, &redis, &upstream, limits)?;
        gateway.all_healthy().await?;
        until(&gateway, 1.0).await?;
        gateways.push(gateway);
    }
    Ok(Setting {
        gateways,
        redis,
        upstream,
        _folder: folder,
    })
}

/// Until Redis is up, or not.
async fn until(gateway: &Gateway, up: f64) -> anyhow::Result<()> {
    let end = Instant::now() + PATIENCE;
    while gateway.metric(UP).await? != up {
        if Instant::now() > end {
            bail!("{UP} is not {up}");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

async fn ask(gateway: &Gateway, key: &str) -> anyhow::Result<client::Answer> {
    let builder = Request::builder().header("x-key", key);
    let body = client::json_request(ROW, None).to_string();
    let rest = Rest::new(gateway.address());
    rest.send(builder, Method::POST, "/v2/models/m/infer", body)
        .await
}

/// How many of so many in turn over both gateways are let through.
async fn passed(setting: &Setting, key: &str, requests: usize) -> anyhow::Result<usize> {
    let mut passed = 0;
    for gateway in setting.gateways.iter().cycle().take(requests) {
        passed += usize::from(ask(gateway, key).await?.status == 200);
    }
    Ok(passed)
}

const HOURLY: &str = "{ requests = 5, per = '1h', by = { header = 'x-key' }, shared = true }, { requests = 12, per = '1h', shared = true }";

#[tokio::test(flavor = "multi_thread")]
async fn gateways_have_a_limit_together() -> anyhow::Result<()> {
    let setting = setting(HOURLY).await?;
    for key in ["a", "b"] {
        ensure!(passed(&setting, key, 12).await? == 5, "of {key}");
    }
    // Ten of the twelve that the route may have, as refused ones cost nothing.
    ensure!(passed(&setting, "c", 6).await? == 2);
    let refused = ask(&setting.gateways[0], "a").await?;
    let wait: u32 = refused.header("retry-after").unwrap_or_default().parse()?;
    ensure!(
        (700..=720).contains(&wait),
        "{wait} s of a fifth of an hour"
    );
    ensure!(setting.upstream.infers() == 12);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_refused_without_redis() -> anyhow::Result<()> {
    let setting = setting(HOURLY).await?;
    ensure!(passed(&setting, "a", 12).await? == 5);
    let commands = setting.redis.command(&["INFO", "commandstats"]).await?;
    ensure!(passed(&setting, "a", 40).await? == 0);
    let after = setting.redis.command(&["INFO", "commandstats"]).await?;
    let scripts = |text: &str| {
        let mut lines = text.lines();
        let line = lines.find(|line| line.starts_with("cmdstat_evalsha:"));
        line.map(str::to_owned)
    };
    ensure!(
        scripts(&commands) == scripts(&after) && scripts(&after).is_some(),
        "{commands}\n{after}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_each_grants_its_own() -> anyhow::Result<()> {
    let setting = setting(HOURLY).await?;
    ensure!(passed(&setting, "a", 4).await? == 4);
    setting.redis.process.signal("KILL")?;
    for gateway in &setting.gateways {
        until(gateway, 0.0).await?;
    }
    // Each knows of what it was told last: four and three of five.
    let passed = passed(&setting, "a", 20).await?;
    ensure!((1..=6).contains(&passed), "{passed}");
    let alone = "forebay_rate_limit_unshared_total{route=\"all\"}";
    let alone =
        setting.gateways[0].metric(alone).await? + setting.gateways[1].metric(alone).await?;
    ensure!(alone == passed as f64, "{alone} of {passed}");
    Ok(())
}
