//! A real etcd names the endpoints, changes them, dies, forgets, and comes back, and no request notices.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use forebay_tests::etcd::{Etcd, EtcdTls};
use forebay_tests::folder;
use forebay_tests::gateway::Gateway;
use forebay_tests::members::{load, until_members, until_up};
use forebay_tests::relay::Relay;
use forebay_tests::tls::Authority;
use forebay_tests::upstream::grpc::Upstream;

const PATIENCE: Duration = Duration::from_secs(10);

/// A gateway's configuration that asks this etcd, with further keys.
fn config(server: SocketAddr, more: &str) -> String {
    format!(
        "[[listeners]]\naddress = '127.0.0.1:0'\n[[clusters]]\nname = 'workers'\n\
         [clusters.discovery]\ninterval = '500ms'\n\
         [clusters.discovery.etcd]\nservers = ['{server}']\nprefix = '/workers/'\n{more}\n"
    )
}

async fn upstreams<const N: usize>() -> anyhow::Result<(Vec<Upstream>, [SocketAddr; N])> {
    let mut upstreams = Vec::new();
    for number in 0..N {
        upstreams.push(Upstream::start(&format!("upstream-{number}")).await?);
    }
    let mut addresses = upstreams.iter().map(|upstream| upstream.address);
    let none = SocketAddr::from(([0, 0, 0, 0], 0));
    let addresses = [none; N].map(|none| addresses.next().unwrap_or(none));
    Ok((upstreams, addresses))
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_come_and_go_without_a_failed_request() -> anyhow::Result<()> {
    let (_upstreams, [a, b, c]) = upstreams().await?;
    let folder = folder!()?;
    let etcd = Etcd::start(&folder)?;
    etcd.put("/workers/a", a).await?;
    etcd.put("/workerz/b", b).await?;
    let gateway = Gateway::start(&folder, &config(etcd.address, ""))?;
    until_members(&gateway, &[a]).await?;

    let load = load(&gateway, Duration::from_secs(5)).await?;
    let heavy = format!(r#"{{"address": "{b}", "weight": 3}}"#);
    etcd.put("/workers/b", heavy).await?;
    until_members(&gateway, &[a, b]).await?;
    etcd.put_with_lease("/workers/c", c).await?;
    until_members(&gateway, &[a, b, c]).await?;
    etcd.delete("/workers/a").await?;
    // c goes with its lease.
    until_members(&gateway, &[b]).await?;
    // What one writer got wrong leaves the others, and what it wrote before.
    etcd.put("/workers/b", "nonsense").await?;
    etcd.put("/workers/c", "nonsense").await?;
    etcd.put("/workers/a", a).await?;
    until_members(&gateway, &[a, b]).await?;
    gateway
        .process
        .until_stderr("the value of '/workers/b' is left out", 1, PATIENCE)?;
    until_up(&gateway, "etcd", true).await?;
    let report = load.await?;
    ensure!(report.errors.is_empty(), "{report:?}");
    ensure!(report.calls == 750, "{report:?}");

    // The last one may go too, on purpose.
    etcd.delete("/workers/a").await?;
    etcd.delete("/workers/b").await?;
    until_members(&gateway, &[]).await?;
    etcd.put("/workers/a", a).await?;
    until_members(&gateway, &[a]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn while_etcd_is_down_its_last_endpoints_stay() -> anyhow::Result<()> {
    let (_upstreams, [a, b, c]) = upstreams().await?;
    let folder = folder!()?;
    let mut etcd = Etcd::start(&folder)?;
    let relay = Relay::start(etcd.address).await?;
    etcd.put("/workers/a", a).await?;
    etcd.put("/workers/b", b).await?;
    let text = config(relay.address, "");
    let gateway = Gateway::start(&folder, &text)?;
    until_members(&gateway, &[a, b]).await?;

    let load = load(&gateway, Duration::from_secs(6)).await?;
    etcd.kill()?;
    until_up(&gateway, "etcd", false).await?;
    until_members(&gateway, &[a, b]).await?;
    // Over a reload too.
    gateway.reload(
        &text.replace("'workers'\n", "'workers'\nconnect_timeout = '1s'\n"),
        1,
    )?;
    until_members(&gateway, &[a, b]).await?;
    etcd.restart(None)?;
    until_up(&gateway, "etcd", true).await?;
    etcd.delete("/workers/a").await?;
    etcd.put("/workers/c", c).await?;
    until_members(&gateway, &[b, c]).await?;

    // A store that begins anew never comes to the revisions that a watch would wait for. While it is empty nobody looks,
    // as that would be believed.
    relay.cut();
    etcd.kill()?;
    until_up(&gateway, "etcd", false).await?;
    etcd.lose_everything()?;
    etcd.restart(None)?;
    etcd.put("/workers/a", a).await?;
    relay.mend();
    until_members(&gateway, &[a]).await?;
    let report = load.await?;
    ensure!(report.errors.is_empty(), "{report:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happened_while_the_way_was_cut_is_caught_up_with() -> anyhow::Result<()> {
    let (_upstreams, [a, b, c]) = upstreams().await?;
    let folder = folder!()?;
    let etcd = Etcd::start(&folder)?;
    let relay = Relay::start(etcd.address).await?;
    etcd.put("/workers/a", a).await?;
    let gateway = Gateway::start(&folder, &config(relay.address, ""))?;
    until_members(&gateway, &[a]).await?;

    let load = load(&gateway, Duration::from_secs(4)).await?;
    relay.cut();
    until_up(&gateway, "etcd", false).await?;
    etcd.delete("/workers/a").await?;
    etcd.put("/workers/b", b).await?;
    relay.mend();
    until_members(&gateway, &[b]).await?;

    relay.cut();
    until_up(&gateway, "etcd", false).await?;
    etcd.delete("/workers/b").await?;
    etcd.put("/workers/c", c).await?;
    // The history of this is gone: only a list says that b is.
    etcd.compact().await?;
    relay.mend();
    until_members(&gateway, &[c]).await?;
    etcd.put("/workers/a", a).await?;
    until_members(&gateway, &[a, c]).await?;
    let report = load.await?;
    ensure!(report.errors.is_empty(), "{report:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_and_a_password_are_read_from_files() -> anyhow::Result<()> {
    let (_upstreams, [a, b]) = upstreams().await?;
    let folder = folder!()?;
    let mut etcd = Etcd::start(&folder)?;
    etcd.put("/workers/a", a).await?;
    etcd.put("/workers/b", b).await?;
    etcd.require_login(["gateway", "right"], ["/workers/", "/workers0"])
        .await?;
    etcd.kill()?;
    let authority = Authority::new()?;
    let ca = folder.write("ca.pem", authority.pem())?;
    let (certificate, key) = authority.issue("127.0.0.1")?.write(&folder, "etcd")?;
    let (own, own_key) = authority.issue("gateway")?.write(&folder, "gateway")?;
    etcd.restart(Some(EtcdTls {
        certificate: &certificate,
        key: &key,
        client_ca: &ca,
    }))?;
    let password = folder.write("password", "wrong\n")?;
    let more = format!(
        "user = 'gateway'\npassword_file = '{}'\ntls = {{ ca = '{}', certificate = '{}', key = '{}' }}",
        password.display(),
        ca.display(),
        own.display(),
        own_key.display(),
    );
    let gateway = Gateway::start(&folder, &config(etcd.address, &more))?;
    gateway
        .process
        .until_stderr("authentication failed", 1, PATIENCE)?;
    folder.write("password", "right\n")?;
    until_members(&gateway, &[a, b]).await
}
