//! Gateways that keep answers together in a real Redis, and do as well without it when it is gone.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use forebay_tests::client::{self, Inference, Rest, floats, json_request, output_floats};
use forebay_tests::folder;
use forebay_tests::folder::Folder;
use forebay_tests::gateway::Gateway;
use forebay_tests::redis::Redis;
use forebay_tests::tls::Authority;
use forebay_tests::upstream::grpc::Upstream;
use http::{Method, Request as HttpRequest, StatusCode};

const ROW: [f32; 4] = [1.0, 2.0, 3.0, 4.0];
const PATIENCE: Duration = Duration::from_secs(20);
const UP: &str = "forebay_redis_up";
const KEPT: &str = "forebay_redis_writes_total{result=\"kept\"}";

fn lookups(result: &str) -> String {
    format!("forebay_redis_lookups_total{{result=\"{result}\"}}")
}

struct Setting {
    upstream: Upstream,
    redis: Redis,
    folder: Folder,
}

impl Setting {
    async fn start() -> anyhow::Result<Self> {
        let folder = folder!()?;
        Ok(Self {
            upstream: Upstream::start("worker").await?,
            redis: Redis::start(&folder, &[])?,
            folder,
        })
    }

    /// A gateway of this name, once it has found Redis.
    async fn gateway(&self, name: &str, redis: &str) -> anyhow::Result<Gateway> {
        let folder = self.folder.join(name);
        std::fs::create_dir(&folder)?;
        let gateway = gateway(&folder, &self.upstream, &self.redis, redis)?;
        gateway.all_healthy().await?;
        until(&gateway, UP, 1.0).await?;
        Ok(gateway)
    }
}

fn gateway(
    folder: &Path,
    upstream: &Upstream,
    redis: &Redis,
    settings: &str,
) -> anyhow::Result<Gateway> {
    let config = format!(
        "[redis]\naddress = 'localhost:{}'\n{settings}\n\
         [[listeners]]\naddress = '127.0.0.1:0'\n\
         [[routes]]\nname = 'all'\ncluster = 'workers'\nretry = false\ncache = {{ shared = true }}\n\
         [[clusters]]\nname = 'workers'\nendpoints = ['{}']\n",
        redis.address.port(),
        upstream.address
    );
    Gateway::start(folder, &config)
}

/// Until a metric is as wanted.
async fn until(gateway: &Gateway, metric: &str, wanted: f64) -> anyhow::Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        let value = gateway.metric(metric).await?;
        if value == wanted {
            return Ok(());
        }
        if Instant::now() > end {
            bail!("{metric} is {value}, want {wanted}");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Asks, and says what the cache said.
async fn ask(grpc: &mut Inference, model: &str, row: [f32; 4]) -> anyhow::Result<String> {
    let answer = grpc.model_infer(floats(model, &row)).await?;
    ensure!(output_floats(answer.get_ref())? == row);
    let said = answer
        .metadata()
        .get("x-forebay-cache")
        .context("a word of the cache")?;
    Ok(said.to_str()?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_gateway_was_told_the_other_knows() -> anyhow::Result<()> {
    let setting = Setting::start().await?;
    let one = setting.gateway("one", "").await?;
    let other = setting.gateway("other", "").await?;
    let mut grpc = client::inference(one.address()).await?;
    ensure!(ask(&mut grpc, "m", ROW).await? == "miss");
    until(&one, KEPT, 1.0).await?;
    let rest = Rest::new(other.address());
    let answer = rest.infer("m", ROW).await?;
    ensure!(answer.floats()? == ROW);
    ensure!(
        answer.header("x-forebay-cache") == Some("hit") && answer.header("age").is_some(),
        "{answer:?}"
    );
    ensure!(other.metric(&lookups("hit")).await? == 1.0);
    // From here on it is the process' own.
    ensure!(ask(&mut client::inference(other.address()).await?, "m", ROW).await? == "hit");
    ensure!(other.metric(&lookups("hit")).await? == 1.0);
    ensure!(setting.upstream.infers() == 1);
    // Who wants it anew gets it anew, and leaves it for all.
    let builder = HttpRequest::builder().header("cache-control", "no-cache");
    let path = "/v2/models/m/infer";
    let body = json_request(ROW, None).to_string();
    let anew = rest.send(builder, Method::POST, path, body).await?;
    ensure!(anew.header("x-forebay-cache") == Some("miss"), "{anew:?}");
    until(&other, KEPT, 1.0).await?;
    ensure!(setting.upstream.infers() == 2);

    // A purge reaches Redis, and those processes that are told.
    ensure!(ask(&mut grpc, "n", ROW).await? == "miss");
    until(&one, KEPT, 2.0).await?;
    ensure!(setting.redis.keys().await?.len() == 2);
    let admin = Rest::new(one.admin);
    let purged = admin
        .send(HttpRequest::builder(), Method::DELETE, "/cache?model=m", "")
        .await?;
    ensure!(
        purged.json()? == serde_json::json!({"removed": 1, "removed_from_redis": 1}),
        "{purged:?}"
    );
    ensure!(setting.redis.keys().await?.len() == 1);
    ensure!(ask(&mut grpc, "m", ROW).await? == "miss");
    ensure!(ask(&mut grpc, "n", ROW).await? == "hit");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_ours_is_as_good_as_nothing() -> anyhow::Result<()> {
    let setting = Setting::start().await?;
    let one = setting.gateway("one", "").await?;
    let mut grpc = client::inference(one.address()).await?;
    ensure!(ask(&mut grpc, "m", ROW).await? == "miss");
    until(&one, KEPT, 1.0).await?;
    let keys = setting.redis.keys().await?;
    let [key] = &keys[..] else {
        bail!("{keys:?}");
    };
    let key = key.as_str();
    ensure!(key.starts_with("forebay:answer:all:workers:"), "{key}");
    let damage: [(&[&[&str]], &str); 4] = [
        (&[&["SETRANGE", key, "60", "x"]], "unreadable"),
        (&[&["SET", key, "foreign"]], "unreadable"),
        (&[&["DEL", key]], "miss"),
        (&[&["DEL", key], &["LPUSH", key, "list"]], "failed"),
    ];
    for (number, (commands, result)) in damage.into_iter().enumerate() {
        let gateway = setting.gateway(&format!("after-{number}"), "").await?;
        for command in commands {
            let done = setting.redis.command(command).await?;
            ensure!(!done.starts_with('-'), "{done}");
        }
        let mut grpc = client::inference(gateway.address()).await?;
        ensure!(ask(&mut grpc, "m", ROW).await? == "miss");
        ensure!(gateway.metric(&lookups(result)).await? == 1.0, "{result}");
        // What is in the way is replaced.
        until(&gateway, KEPT, 1.0).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_on_without_redis() -> anyhow::Result<()> {
    let mut setting = Setting::start().await?;
    let timeout = Duration::from_millis(200);
    let gateway = setting.gateway("one", "timeout = '200ms'").await?;
    let mut grpc = client::inference(gateway.address()).await?;
    let mut asked = 0_u32;
    // Each is a question that nobody asked before.
    let mut new_row = || {
        asked += 1;
        [asked as f32, 0.0, 0.0, 0.0]
    };
    ensure!(ask(&mut grpc, "m", new_row()).await? == "miss");

    // It hangs: a few wait, then nobody does.
    setting.redis.process.signal("STOP")?;
    let (start, mut slow) = (Instant::now(), 0);
    for _ in 0..100 {
        let began = Instant::now();
        ensure!(ask(&mut grpc, "m", new_row()).await? == "miss");
        slow += u32::from(began.elapsed() >= timeout);
    }
    ensure!(start.elapsed() < 30 * timeout, "{:?}", start.elapsed());
    ensure!(slow <= 10, "{slow} calls waited");
    until(&gateway, UP, 0.0).await?;
    setting.redis.process.signal("CONT")?;
    until(&gateway, UP, 1.0).await?;

    // It dies under load.
    let load = {
        let mut grpc = grpc.clone();
        tokio::spawn(async move {
            for number in 0..400 {
                ask(&mut grpc, "load", [number as f32, 1.0, 0.0, 0.0]).await?;
            }
            anyhow::Ok(())
        })
    };
    let before = setting.upstream.infers();
    while setting.upstream.infers() < before + 50 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    setting.redis.process.signal("KILL")?;
    setting.redis.process.wait(PATIENCE)?;
    load.await??;
    until(&gateway, UP, 0.0).await?;
    let admin = Rest::new(gateway.admin);
    let purged = admin
        .send(HttpRequest::builder(), Method::DELETE, "/cache", "")
        .await?;
    ensure!(
        purged.status == StatusCode::BAD_GATEWAY && !purged.error()?.is_empty(),
        "{purged:?}"
    );

    // And comes back, empty.
    setting.redis = Redis::start_at(setting.redis.address, &setting.folder, &[])?;
    until(&gateway, UP, 1.0).await?;
    let kept = gateway.metric(KEPT).await?;
    ensure!(ask(&mut grpc, "m", new_row()).await? == "miss");
    until(&gateway, KEPT, kept + 1.0).await?;
    ensure!(setting.redis.keys().await?.len() == 1);
    gateway.all_idle().await
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_may_ask_for_tls_and_a_password() -> anyhow::Result<()> {
    let folder = folder!()?;
    let authority = Authority::new()?;
    let (certificate, key) = authority.issue("localhost")?.write(&folder, "redis")?;
    let (shown, shown_key) = authority.issue("gateway")?.write(&folder, "gateway")?;
    let ca = folder.write("ca.crt", authority.pem())?;
    let password = folder.write("password", "s3cret\n")?;
    let wrong = folder.write("wrong", "other\n")?;
    let text = |path: &Path| path.to_str().map(str::to_owned).context("UTF-8 path");
    let files = [text(&certificate)?, text(&key)?, text(&ca)?];
    let [certificate, key, trusted] = files.each_ref().map(String::as_str);
    let arguments = [
        ["--port", "0"],
        ["--tls-port", "{port}"],
        ["--tls-cert-file", certificate],
        ["--tls-key-file", key],
        ["--tls-ca-cert-file", trusted],
        ["--tls-auth-clients", "yes"],
    ];
    let user = ["--user", "gateways", "on", ">s3cret", "~fb:*", "+@all"];
    let redis = Redis::start(&folder, &[arguments.as_flattened(), &user].concat())?;
    let upstream = Upstream::start("worker").await?;
    let settings = |password: &Path| -> anyhow::Result<String> {
        Ok(format!(
            "username = 'gateways'\npassword_file = '{}'\nprefix = 'fb'\n\
             tls = {{ ca = '{}', certificate = '{}', key = '{}' }}",
            text(password)?,
            text(&ca)?,
            text(&shown)?,
            text(&shown_key)?
        ))
    };
    let start = |name: &str, settings: &str| {
        let folder = folder.join(name);
        std::fs::create_dir(&folder)?;
        gateway(&folder, &upstream, &redis, settings)
    };
    let right = start("right", &settings(&password)?)?;
    right.all_healthy().await?;
    until(&right, UP, 1.0).await?;
    let mut grpc = client::inference(right.address()).await?;
    ensure!(ask(&mut grpc, "m", ROW).await? == "miss");
    until(&right, KEPT, 1.0).await?;

    let refused = start("refused", &settings(&wrong)?)?;
    let patience = Duration::from_secs(10);
    refused
        .process
        .until_stderr("is not there, going on without it", 1, patience)?;
    let mut grpc = client::inference(refused.address()).await?;
    refused.all_healthy().await?;
    ensure!(ask(&mut grpc, "m", ROW).await? == "miss");
    ensure!(refused.metric(UP).await? == 0.0);
    Ok(())
}
