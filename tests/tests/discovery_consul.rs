//! Consul names the endpoints, over blocking queries. It is a stand-in, in the test's own process, that answers as Consul's
//! documentation says: Debian has no package of the real one.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use forebay_tests::consul::{self, Consul, Instance};
use forebay_tests::folder;
use forebay_tests::folder::Folder;
use forebay_tests::gateway::Gateway;
use forebay_tests::members::{load, until_members, until_up};
use forebay_tests::upstream::grpc::Upstream;

const PATIENCE: Duration = Duration::from_secs(10);

fn config(folder: &Folder, server: SocketAddr, token: &str) -> anyhow::Result<String> {
    let token = folder.write("token", format!("{token}\n"))?;
    Ok(format!(
        "[[listeners]]\naddress = '127.0.0.1:0'\n[[clusters]]\nname = 'workers'\n\
         [clusters.discovery]\ninterval = '500ms'\n\
         [clusters.discovery.consul]\nserver = '{server}'\nservice = 'workers'\ntags = ['live']\n\
         token_file = '{}'\n",
        token.display()
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_come_and_go_without_a_failed_request() -> anyhow::Result<()> {
    let mut upstreams = Vec::new();
    for number in 0..3 {
        upstreams.push(Upstream::start(&format!("upstream-{number}")).await?);
    }
    let [a, b, c] = [0, 1, 2].map(|number: usize| Instance::passing(upstreams[number].address));
    let folder = folder!()?;
    let mut consul = Consul::start().await?;
    let failing = Instance {
        passing: false,
        ..b.clone()
    };
    let other = Instance {
        tag: "canary",
        ..c.clone()
    };
    consul.set(&[a.clone(), failing, other]);
    let text = config(&folder, consul.address, "wrong")?;
    let gateway = Gateway::start(&folder, &text)?;
    gateway
        .process
        .until_stderr("403 Forbidden: Permission denied", 1, PATIENCE)?;
    folder.write("token", consul::token())?;
    until_members(&gateway, &[a.address]).await?;

    let load = load(&gateway, Duration::from_secs(6)).await?;
    let before = consul.queries();
    for members in [vec![&a, &b], vec![&b, &c], vec![&c], vec![&a, &b, &c]] {
        let instances: Vec<Instance> = members.iter().map(|member| (*member).clone()).collect();
        consul.set(&instances);
        let addresses: Vec<SocketAddr> = members.iter().map(|member| member.address).collect();
        until_members(&gateway, &addresses).await?;
    }
    let queries = consul.queries() - before;
    ensure!(
        queries <= 6,
        "{queries} queries for 4 changes: they do not block"
    );

    // What it cannot tell changes nothing.
    consul.lose_leader(true);
    until_up(&gateway, "consul", false).await?;
    until_members(&gateway, &[a.address, b.address, c.address]).await?;
    consul.lose_leader(false);
    until_up(&gateway, "consul", true).await?;
    consul.stop();
    until_up(&gateway, "consul", false).await?;
    until_members(&gateway, &[a.address, b.address, c.address]).await?;
    // An index that went back is not waited for.
    consul.set_back(std::slice::from_ref(&b));
    consul.restart().await?;
    until_members(&gateway, &[b.address]).await?;
    consul.set_back(&[b.clone(), c.clone()]);
    consul.set(std::slice::from_ref(&c));
    until_members(&gateway, &[c.address]).await?;
    let report = load.await?;
    ensure!(report.errors.is_empty(), "{report:?}");

    // What Consul says of nobody is believed.
    consul.set(&[]);
    until_members(&gateway, &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_are_consuls() -> anyhow::Result<()> {
    let light = Upstream::start("light").await?;
    let heavy = Upstream::start("heavy").await?;
    let folder = folder!()?;
    let consul = Consul::start().await?;
    consul.set(&[
        Instance::passing(light.address),
        Instance {
            weight: 3,
            ..Instance::passing(heavy.address)
        },
    ]);
    let text = config(&folder, consul.address, consul::token())?;
    let text = text.replace(
        "name = 'workers'\n",
        "name = 'workers'\npolicy = 'round_robin'\n",
    );
    let gateway = Gateway::start(&folder, &text)?;
    until_members(&gateway, &[light.address, heavy.address]).await?;
    let mut inference = forebay_tests::client::inference(gateway.address()).await?;
    for _ in 0..40 {
        let request = forebay_tests::client::floats("m", &[1.0, 2.0, 3.0, 4.0]);
        inference.model_infer(request).await?;
    }
    let (light, heavy) = (light.script.infers(), heavy.script.infers());
    ensure!((light, heavy) == (10, 30), "light {light}, heavy {heavy}");
    Ok(())
}
