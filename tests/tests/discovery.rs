//! Endpoints come and go by file and by DNS, and no request notices; a source that is down changes nothing.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use forebay_tests::client::{self, floats};
use forebay_tests::folder;
use forebay_tests::gateway::{Gateway, endpoints};
use forebay_tests::members::{load, until_members, until_up};
use forebay_tests::nameserver::{Nameserver, Service};
use forebay_tests::upstream::grpc::Upstream;

const ROW: [f32; 4] = [1.0, 2.0, 3.0, 4.0];
const PATIENCE: Duration = Duration::from_secs(10);

fn config(discovery: &str, more: &str) -> String {
    format!(
        "[[listeners]]\naddress = '127.0.0.1:0'\n[[clusters]]\nname = 'workers'\n{more}\n\
         [clusters.discovery]\ninterval = '100ms'\n{discovery}\n"
    )
}

/// Half written, a file would be one that is wrong.
fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, text)?;
    Ok(std::fs::rename(new, path)?)
}

fn list(addresses: impl IntoIterator<Item = SocketAddr>) -> String {
    format!("endpoints = {}\n", endpoints(addresses))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_does_not_resolve_keeps_out_no_other() -> anyhow::Result<()> {
    let upstreams = [Upstream::start("a").await?, Upstream::start("b").await?];
    let [a, b] = [upstreams[0].address, upstreams[1].address];
    let folder = folder!()?;
    let file = folder.join("endpoints.toml");
    write(&file, &list([a]))?;
    let discovery = format!("file = '{}'", file.display());
    let gateway = Gateway::start(&folder, &config(&discovery, ""))?;
    until_members(&gateway, &[a]).await?;
    let lost = format!("endpoints = ['{a}', 'lost.invalid:8001', '{b}']\n");
    write(&file, &lost)?;
    until_members(&gateway, &[a, b]).await?;
    let told = "all but these are in force: 'lost.invalid:8001' does not resolve";
    gateway.process.until_stderr(told, 1, PATIENCE)?;
    until_up(&gateway, "file", false).await?;
    until_members(&gateway, &[a, b]).await?;
    write(&file, &list([b]))?;
    until_members(&gateway, &[b]).await?;
    until_up(&gateway, "file", true).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_adds_and_removes_endpoints_without_a_failed_request() -> anyhow::Result<()> {
    let mut upstreams = Vec::new();
    for number in 0..3 {
        upstreams.push(Upstream::start(&format!("upstream-{number}")).await?);
    }
    let [a, b, c] = [0, 1, 2].map(|number: usize| upstreams[number].address);
    let folder = folder!()?;
    let file = folder.join("endpoints.toml");
    write(&file, &list([a]))?;
    let discovery = format!("file = '{}'", file.display());
    let gateway = Gateway::start(&folder, &config(&discovery, ""))?;
    until_members(&gateway, &[a]).await?;

    let load = load(&gateway, Duration::from_secs(4)).await?;
    for members in [vec![a, b], vec![b, c], vec![c], vec![a, b, c]] {
        write(&file, &list(members.clone()))?;
        until_members(&gateway, &members).await?;
    }
    let up = "forebay_discovery_up{cluster=\"workers\",source=\"file\"}";
    write(&file, "endpoints = ['nonsense']\n")?;
    gateway
        .process
        .until_stderr("discovery of cluster 'workers' failed", 1, PATIENCE)?;
    ensure!(gateway.metric(up).await? == 0.0);
    until_members(&gateway, &[a, b, c]).await?;
    // Over a reload what was found stays as well, although the source says nothing.
    gateway.reload(&config(&discovery, "connect_timeout = '1s'"), 1)?;
    until_members(&gateway, &[a, b, c]).await?;
    write(&file, &list([b]))?;
    until_members(&gateway, &[b]).await?;
    ensure!(gateway.metric(up).await? == 1.0);

    let report = load.await?;
    ensure!(report.errors.is_empty(), "{report:?}");
    ensure!(report.calls == 600, "{report:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_is_read_at_once() -> anyhow::Result<()> {
    let upstreams = [Upstream::start("a").await?, Upstream::start("b").await?];
    let [a, b] = [upstreams[0].address, upstreams[1].address];
    let folder = folder!()?;
    // As Kubernetes mounts a ConfigMap: links to what a link names, and the latter changes.
    let mount = folder.join("mount");
    for (version, members) in [("first", vec![a]), ("second", vec![a, b])] {
        std::fs::create_dir_all(mount.join(version))?;
        std::fs::write(mount.join(version).join("endpoints.toml"), list(members))?;
    }
    symlink("first", mount.join("..data"))?;
    let file = mount.join("endpoints.toml");
    symlink("..data/endpoints.toml", &file)?;
    let config = format!(
        "[[listeners]]\naddress = '127.0.0.1:0'\n[[clusters]]\nname = 'workers'\n\
         discovery = {{ file = '{}', interval = '1h' }}\n",
        file.display()
    );
    let gateway = Gateway::start(&folder, &config)?;
    until_members(&gateway, &[a]).await?;
    symlink("second", mount.join("..data_tmp"))?;
    std::fs::rename(mount.join("..data_tmp"), mount.join("..data"))?;
    until_members(&gateway, &[a, b]).await?;
    // Another file in its place, and then written over.
    write(&file, &list([b]))?;
    until_members(&gateway, &[b]).await?;
    std::fs::write(&file, list([b, a]))?;
    until_members(&gateway, &[a, b]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn written_and_found_endpoints_stand_together() -> anyhow::Result<()> {
    let (written, found) = (
        Upstream::start("written").await?,
        Upstream::start("found").await?,
    );
    let folder = folder!()?;
    let file = folder.join("endpoints.toml");
    write(&file, &list([written.address, found.address]))?;
    let discovery = format!("file = '{}'", file.display());
    let more = format!("endpoints = ['{}']", written.address);
    let gateway = Gateway::start(&folder, &config(&discovery, &more))?;
    until_members(&gateway, &[written.address, found.address]).await?;
    write(&file, "endpoints = []\n")?;
    until_members(&gateway, &[written.address]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_endpoints_change_at_once_and_nobody_notices() -> anyhow::Result<()> {
    // One server on every loopback address stands for all of them.
    let everywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let upstream = Upstream::start_at("everywhere", everywhere, None).await?;
    let port = upstream.address.port();
    let set = move |third: u8| {
        (0..1000_u16).map(move |number| {
            let [high, low] = number.to_be_bytes();
            SocketAddr::from(([127, third, high, low], port))
        })
    };
    let folder = folder!()?;
    let file = folder.join("endpoints.toml");
    write(&file, &list(set(1)))?;
    let discovery = format!("file = '{}'", file.display());
    let more =
        "connect_timeout = '5s'\nhealth = { probe = 'tcp', interval = '30s', timeout = '5s' }";
    let gateway = Gateway::start(&folder, &config(&discovery, more))?;
    until_members(&gateway, &set(1).collect::<Vec<_>>()).await?;
    let load = load(&gateway, Duration::from_secs(4)).await?;
    // Half of them go, and as many come; then all go but a few.
    let halves: Vec<SocketAddr> = set(1).take(500).chain(set(2).take(500)).collect();
    write(&file, &list(halves.clone()))?;
    until_members(&gateway, &halves).await?;
    let few: Vec<SocketAddr> = set(2).take(3).collect();
    write(&file, &list(few.clone()))?;
    until_members(&gateway, &few).await?;
    let report = load.await?;
    ensure!(report.errors.is_empty(), "{report:?}");
    ensure!(report.longest < Duration::from_secs(1), "{report:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_address_of_a_name_is_an_endpoint() -> anyhow::Result<()> {
    let nameserver = Nameserver::start().await?;
    let first = Upstream::start("first").await?;
    let port = first.address.port();
    let second_address = SocketAddr::from(([127, 0, 0, 2], port));
    let _second = Upstream::start_at("second", second_address, None).await?;
    let addresses: Vec<IpAddr> = vec![first.address.ip(), second_address.ip()];
    nameserver.addresses("workers", &addresses[..1]).await?;

    let folder = folder!()?;
    let discovery = format!(
        "dns = 'workers.test:{port}'\nnameserver = '{}'",
        nameserver.address
    );
    let gateway = Gateway::start(&folder, &config(&discovery, ""))?;
    until_members(&gateway, &[first.address]).await?;
    let load = load(&gateway, Duration::from_secs(3)).await?;
    nameserver.addresses("workers", &addresses).await?;
    until_members(&gateway, &[first.address, second_address]).await?;
    nameserver.addresses("workers", &addresses[1..]).await?;
    until_members(&gateway, &[second_address]).await?;
    // Neither a zone without the name nor a server that is gone takes the last endpoint away.
    nameserver.addresses("workers", &[]).await?;
    let failures = "forebay_discovery_failures_total{cluster=\"workers\",source=\"dns\"}";
    gateway
        .process
        .until_stderr("discovery of cluster 'workers' failed", 1, PATIENCE)?;
    let before = gateway.metric(failures).await?;
    nameserver.stop().await?;
    let more_failures = Arc::new(AtomicBool::new(false));
    while !more_failures.load(Ordering::Relaxed) {
        let now = gateway.metric(failures).await?;
        more_failures.store(now > before, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    until_members(&gateway, &[second_address]).await?;
    let report = load.await?;
    ensure!(report.errors.is_empty(), "{report:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn services_bring_their_ports_and_weights() -> anyhow::Result<()> {
    let nameserver = Nameserver::start().await?;
    let (light, heavy) = (
        Upstream::start("light").await?,
        Upstream::start("heavy").await?,
    );
    let spare = Upstream::start("spare").await?;
    nameserver.addresses("one", &[light.address.ip()]).await?;
    let service = |upstream: &Upstream, priority, weight| Service {
        priority,
        weight,
        port: upstream.address.port(),
        target: "one",
    };
    let records = [
        service(&light, 1, 1),
        service(&heavy, 1, 3),
        service(&spare, 2, 1),
    ];
    nameserver.services("_grpc._tcp", &records).await?;
    let folder = folder!()?;
    let discovery = format!(
        "srv = '_grpc._tcp.test'\nnameserver = '{}'",
        nameserver.address
    );
    let gateway = Gateway::start(&folder, &config(&discovery, "policy = 'round_robin'"))?;
    until_members(&gateway, &[light.address, heavy.address]).await?;
    let mut inference = client::inference(gateway.address()).await?;
    for _ in 0..40 {
        inference
            .model_infer(floats("m", &ROW))
            .await
            .context("an answer")?;
    }
    let (light, heavy) = (light.script.infers(), heavy.script.infers());
    ensure!((light, heavy) == (10, 30), "light {light}, heavy {heavy}");
    ensure!(spare.script.infers() == 0);
    Ok(())
}
