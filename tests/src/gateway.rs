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
        Self::launch(path, &[])
    }

    /// Another one with the same file, which takes over from this one.
    pub fn successor(&self) -> anyhow::Result<Self> {
        Self::launch(self.config.clone(), &["--upgrade"])
    }

    fn launch(path: PathBuf, arguments: &[&str]) -> anyhow::Result<Self> {
        let config = path.to_str().context("UTF-8 path")?;
        let process = Process::start(
            "forebay-gateway",
            &[&["--config", config], arguments].concat(),
        )?;
        let line = process.line("forebay-gateway listening", Duration::from_secs(20))?;
        let mut listeners = Vec::new();
        let mut admin = None;
        for word in line.split_whitespace().skip(2) {
            let (name, address) = word.split_once('=').context("NAME=ADDRESS")?;
            let address: SocketAddr = address
                .parse()
                .with_context(|| format!("address in '{line}'"))?;
            if name == "admin" {
                admin = Some(address)
            } else {
                listeners.push(address)
            }
        }
        Ok(Self {
            process,
            listeners,
            admin: admin.context("admin address")?,
            config: path,
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.listeners[0]
    }

    /// Replaces the file's text; SIGHUP is the caller's.
    pub fn rewrite(&self, config: &str) -> anyhow::Result<()> {
        write(&self.config, config)
    }

    /// Replaces the configuration and waits until it is in force. `times`: how often that was done before, and once
    /// more.
    pub fn reload(&self, config: &str, times: usize) -> anyhow::Result<()> {
        self.rewrite(config)?;
        self.process.signal("HUP")?;
        self.process
            .until_stderr("configuration reloaded", times, Duration::from_secs(10))
    }

    /// The value of a metric without labels, or with exactly these.
    pub async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let page = self.admin("/metrics").await?;
        let line = page
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.with_context(|| format!("no metric {name} in:\n{page}"))?
            .parse()
            .context("a number")
    }

    /// One endpoint, as the admin interface shows it.
    pub async fn endpoint(&self, address: SocketAddr) -> anyhow::Result<serde_json::Value> {
        let endpoints = self.endpoints().await?;
        let address = address.to_string();
        let found = endpoints
            .iter()
            .find(|endpoint| endpoint["address"] == address.as_str())
            .cloned();
        found.with_context(|| format!("no endpoint {address} in {endpoints:?}"))
    }

    /// Body of an admin page.
    pub async fn admin(&self, path: &str) -> anyhow::Result<String> {
        let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let answer = client
            .get(format!("http://{}{path}", self.admin).parse()?)
            .await?;
        Ok(String::from_utf8(
            answer.into_body().collect().await?.to_bytes().to_vec(),
        )?)
    }

    /// The endpoints of all clusters, as the admin interface shows them.
    pub async fn endpoints(&self) -> anyhow::Result<Vec<serde_json::Value>> {
        let page: serde_json::Value = serde_json::from_str(&self.admin("/endpoints").await?)?;
        let clusters = page["clusters"].as_array().context("clusters")?;
        Ok(clusters
            .iter()
            .flat_map(|c| c["endpoints"].as_array().cloned().unwrap_or_default())
            .collect())
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
        self.until(
            "all endpoints healthy",
            Duration::from_secs(10),
            |endpoints| {
                endpoints.iter().all(|endpoint| {
                    endpoint["health"] == "healthy" || endpoint["health"] == "unchecked"
                })
            },
        )
        .await
        .map(drop)
    }

    /// Until nothing is in flight anywhere: no lease is out, no request is being served.
    pub async fn all_idle(&self) -> anyhow::Result<()> {
        self.until("no active requests", Duration::from_secs(10), |endpoints| {
            endpoints.iter().all(|endpoint| endpoint["active"] == 0)
        })
        .await?;
        let end = Instant::now() + Duration::from_secs(10);
        while self.metric("forebay_requests_in_flight").await? != 0.0 {
            if Instant::now() > end {
                bail!(
                    "requests still in flight:\n{}",
                    self.admin("/metrics").await?
                );
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }
}

/// As an array of endpoints in TOML.
pub fn endpoints(addresses: impl IntoIterator<Item = SocketAddr>) -> String {
    let quoted: Vec<String> = addresses
        .into_iter()
        .map(|address| format!("\"{address}\""))
        .collect();
    format!("[{}]", quoted.join(", "))
}

fn write(path: &Path, config: &str) -> anyhow::Result<()> {
    let admin = if config.contains("[admin]") {
        ""
    } else {
        "\n[admin]\nlisten = \"127.0.0.1:0\"\n"
    };
    std::fs::write(path, format!("{config}{admin}"))
        .with_context(|| format!("cannot write {}", path.display()))
}
