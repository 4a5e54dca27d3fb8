//! A service of Kubernetes names the endpoints, over lists and watches of its EndpointSlices that the real client of the
//! gateway makes. The API is a stand-in, in the test's own process.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use forebay_tests::folder;
use forebay_tests::folder::Folder;
use forebay_tests::gateway::Gateway;
use forebay_tests::kubernetes::{Kubernetes, Pod};
use forebay_tests::members::{load, until_members, until_up};
use forebay_tests::upstream::grpc::Upstream;

const PATIENCE: Duration = Duration::from_secs(10);

fn config(folder: &Folder, api: &Kubernetes, more: &str) -> anyhow::Result<String> {
    let kubeconfig = folder.write("kubeconfig", api.kubeconfig())?;
    Ok(format!(
        "[[listeners]]\naddress = '127.0.0.1:0'\n[[clusters]]\nname = 'workers'\n\
         [clusters.discovery]\ninterval = '500ms'\n\
         [clusters.discovery.kubernetes]\nservice = 'workers'\nkubeconfig = '{}'\n{more}\n",
        kubeconfig.display()
    ))
}

/// Pods have addresses of their own and one port.
async fn upstreams() -> anyhow::Result<(Vec<Upstream>, [SocketAddr; 3])> {
    let first = Upstream::start("first").await?;
    let port = first.address.port();
    let mut upstreams = vec![first];
    for number in [2, 3] {
        let address = SocketAddr::from(([127, 0, 0, number], port));
        upstreams.push(Upstream::start_at(&format!("pod-{number}"), address, None).await?);
    }
    let addresses = [0, 1, 2].map(|number: usize| upstreams[number].address);
    Ok((upstreams, addresses))
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_come_and_go_without_a_failed_request() -> anyhow::Result<()> {
    let (_upstreams, [a, b, c]) = upstreams().await?;
    let folder = folder!()?;
    let api = Kubernetes::start().await?;
    api.put("workers-1", &[Pod::Ready(a), Pod::Unready(b)]);
    let gateway = Gateway::start(&folder, &config(&folder, &api, "port = 'grpc'")?)?;
    until_members(&gateway, &[a]).await?;

    let load = load(&gateway, Duration::from_secs(4)).await?;
    api.put("workers-1", &[Pod::Ready(a), Pod::Ready(b)]);
    until_members(&gateway, &[a, b]).await?;
    api.put("workers-2", &[Pod::Ready(c)]);
    until_members(&gateway, &[a, b, c]).await?;
    api.put("workers-1", &[Pod::Terminating(a), Pod::Ready(b)]);
    until_members(&gateway, &[b, c]).await?;
    api.delete("workers-1")?;
    until_members(&gateway, &[c]).await?;
    // The only pod is replaced: it serves until the next one is ready.
    api.put("workers-2", &[Pod::Terminating(c), Pod::Unready(a)]);
    api.put("workers-3", &[Pod::Unready(b)]);
    until_members(&gateway, &[c]).await?;
    api.put("workers-3", &[Pod::Ready(b)]);
    until_members(&gateway, &[b]).await?;
    until_up(&gateway, "kubernetes", true).await?;
    let report = load.await?;
    ensure!(report.errors.is_empty(), "{report:?}");
    ensure!(api.lists() == 1, "{} lists: it is not watched", api.lists());

    // Scaled to nothing, and the service gone.
    api.delete("workers-3")?;
    api.delete("workers-2")?;
    until_members(&gateway, &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_go_on_where_they_ended() -> anyhow::Result<()> {
    let (_upstreams, [a, b, c]) = upstreams().await?;
    let folder = folder!()?;
    let mut api = Kubernetes::start().await?;
    api.put("workers-1", &[Pod::Ready(a)]);
    // The slice has one port, and the context a namespace.
    let gateway = Gateway::start(&folder, &config(&folder, &api, "")?)?;
    until_members(&gateway, &[a]).await?;

    let load = load(&gateway, Duration::from_secs(6)).await?;
    let bookmark = api.bookmark();
    api.end_watches();
    api.put("workers-1", &[Pod::Ready(b)]);
    until_members(&gateway, &[b]).await?;
    let from = api.watched_from();
    ensure!(
        from.last() == Some(&bookmark),
        "{from:?} after bookmark {bookmark}"
    );
    ensure!(api.lists() == 1, "{} lists", api.lists());

    // The API is away: what was named last stays.
    api.stop();
    until_up(&gateway, "kubernetes", false).await?;
    until_members(&gateway, &[b]).await?;
    api.put("workers-2", &[Pod::Ready(c)]);
    api.restart().await?;
    until_members(&gateway, &[b, c]).await?;
    ensure!(api.lists() == 1, "{} lists", api.lists());

    // What happens meanwhile is forgotten (410 Gone): only a list tells.
    api.stop();
    until_up(&gateway, "kubernetes", false).await?;
    api.delete("workers-1")?;
    api.forget();
    api.restart().await?;
    until_members(&gateway, &[c]).await?;
    ensure!(api.lists() == 2, "{} lists", api.lists());
    api.put("workers-1", &[Pod::Ready(a)]);
    until_members(&gateway, &[a, c]).await?;
    let report = load.await?;
    ensure!(report.errors.is_empty(), "{report:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_told() -> anyhow::Result<()> {
    let (_upstreams, [a, ..]) = upstreams().await?;
    let folder = folder!()?;
    let api = Kubernetes::start().await?;
    api.put("workers-1", &[Pod::Ready(a)]);
    api.forbid(true);
    let gateway = Gateway::start(&folder, &config(&folder, &api, "")?)?;
    let said = "needs get, list and watch on endpointslices (API group discovery.k8s.io) in namespace 'inference'";
    gateway.process.until_stderr(said, 1, PATIENCE)?;
    until_up(&gateway, "kubernetes", false).await?;
    api.forbid(false);
    until_members(&gateway, &[a]).await?;
    gateway.reload(&config(&folder, &api, "port = 'metrics'")?, 1)?;
    let said = "the service has no port 'metrics', but has grpc";
    gateway.process.until_stderr(said, 1, PATIENCE)?;
    Ok(())
}
