//! A running gateway, started from configuration text.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use crate::process::Process;

pub struct Gateway {
    pub process: Process,
    /// In the order of the configuration.
    pub listeners: Vec<SocketAddr>,
    pub admin: SocketAddr,
    pub config: PathBuf,
}

impl Gateway {
    /// `config` may use port 0; an admin listener is added. `folder` is where the file goes.
    pub fn start(folder: &Path, config: &str) -> anyhow::Result<Self> {
        let path = folder.join("gateway.toml");
        write(&path, config)?;
        let process = Process::start("forebay-gateway", &["--config", path.to_str().context("UTF-8 path")?])?;
        let line = process.line("forebay-gateway listening", Duration::from_secs(20))?;
        let mut listeners = Vec::new();
        let mut admin = None;
        for word in line.split_whitespace().skip(2) {
            let (name, address) = word.split_once('=').context("NAME=ADDRESS")?;
            let address: SocketAddr = address.parse().with_context(|| format!("address in '{line}'"))?;
            if name == "admin" { admin = Some(address) } else { listeners.push(address) }
        }
        Ok(Self { process, listeners, admin: admin.context("admin address")?, config: path })
    }

    pub fn address(&self) -> SocketAddr {
        self.listeners[0]
    }

    /// Replaces the file's text; SIGHUP is the caller's.
    pub fn rewrite(&self, config: &str) -> anyhow::Result<()> {
        write(&self.config, config)
    }

    /// Body of an admin page.
    pub async fn admin(&self, path: &str) -> anyhow::Result<String> {
        let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let answer = client.get(format!("http://{}{path}", self.admin).parse()?).await?;
        Ok(String::from_utf8(answer.into_body().collect().await?.to_bytes().to_vec())?)
    }

    /// The endpoints of all clusters, as the admin interface shows them.
    pub async fn endpoints(&self) -> anyhow::Result<Vec<serde_json::Value>> {
        let page: serde_json::Value = serde_json::from_str(&self.admin("/endpoints").await?)?;
        let clusters = page["clusters"].as_array().context("clusters")?;
        Ok(clusters.iter().flat_map(|c| c["endpoints"].as_array().cloned().unwrap_or_default()).collect())
    }

    /// Polls the endpoints until `condition` holds.
    pub async fn until(
        &self,
        what: &str,
        time: Duration,
        condition: impl Fn(&[serde_json::Value]) -> bool,
    ) -> anyhow::Result<Vec<serde_json::Value>> {
        let end = Instant::now() + time;
        loop {
            let endpoints = self.endpoints().await?;
            if condition(&endpoints) {
                return Ok(endpoints);
            }
            if Instant::now() > end {
                bail!("not within {time:?}: {what}; endpoints: {endpoints:?}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Until every endpoint takes traffic.
    pub async fn all_healthy(&self) -> anyhow::Result<()> {
        self.until("all endpoints healthy", Duration::from_secs(10), |endpoints| {
            endpoints.iter().all(|endpoint| endpoint["health"] == "healthy" || endpoint["health"] == "unchecked")
        })
        .await
        .map(drop)
    }

    /// Until nothing is in flight anywhere.
    pub async fn all_idle(&self) -> anyhow::Result<()> {
        self.until("no active requests", Duration::from_secs(10), |endpoints| {
            endpoints.iter().all(|endpoint| endpoint["active"] == 0)
        })
        .await
        .map(drop)
    }
}

fn write(path: &Path, config: &str) -> anyhow::Result<()> {
    let admin = if config.contains("[admin]") { "" } else { "\n[admin]\nlisten = \"127.0.0.1:0\"\n" };
    std::fs::write(path, format!("{config}{admin}")).with_context(|| format!("cannot write {}", path.display()))
}
