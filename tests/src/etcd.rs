//! A real etcd with one member, written to over its JSON gateway.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::client::Rest;
use crate::process::Process;

const READY: Duration = Duration::from_secs(20);

pub struct Etcd {
    pub process: Process,
    pub address: SocketAddr,
    peers: SocketAddr,
    data: PathBuf,
}

/// What an etcd with TLS shows, and whom it trusts.
pub struct EtcdTls<'a> {
    pub certificate: &'a Path,
    pub key: &'a Path,
    pub client_ca: &'a Path,
}

impl Etcd {
    /// Its data goes into `folder`.
    pub fn start(folder: &Path) -> anyhow::Result<Self> {
        let [address, peers] = free_ports()?;
        let data = folder.join("etcd");
        Ok(Self {
            process: run(address, peers, &data, None)?,
            address,
            peers,
            data,
        })
    }

    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.process.signal("KILL")?;
        self.process.wait(READY)?;
        Ok(())
    }

    /// Where it was, and with what it knew.
    pub fn restart(&mut self, tls: Option<EtcdTls<'_>>) -> anyhow::Result<()> {
        self.process = run(self.address, self.peers, &self.data, tls)?;
        Ok(())
    }

    /// While it does not run.
    pub fn lose_everything(&self) -> anyhow::Result<()> {
        Ok(std::fs::remove_dir_all(&self.data)?)
    }

    pub async fn put(&self, key: &str, value: impl ToString) -> anyhow::Result<()> {
        let pair = json!({ "key": coded(key), "value": coded(value.to_string()) });
        self.call("kv/put", pair).await.map(drop)
    }

    /// Lives for a second.
    pub async fn put_with_lease(&self, key: &str, value: impl ToString) -> anyhow::Result<()> {
        let lease = self.call("lease/grant", json!({ "TTL": 1 })).await?;
        let pair = json!({
            "key": coded(key), "value": coded(value.to_string()), "lease": lease["ID"],
        });
        self.call("kv/put", pair).await.map(drop)
    }

    pub async fn delete(&self, key: &str) -> anyhow::Result<()> {
        let range = json!({ "key": coded(key) });
        self.call("kv/deleterange", range).await.map(drop)
    }

    /// All history up to now is gone.
    pub async fn compact(&self) -> anyhow::Result<()> {
        let now = self
            .call("kv/range", json!({ "key": coded("none") }))
            .await?;
        let revision = &now["header"]["revision"];
        let request = json!({ "revision": revision, "physical": true });
        self.call("kv/compaction", request).await.map(drop)
    }

    /// From now on only `user` may read, and only keys under `prefix`, whose end is `end`.
    pub async fn require_login(
        &self,
        [user, password]: [&str; 2],
        [prefix, end]: [&str; 2],
    ) -> anyhow::Result<()> {
        let permission =
            json!({ "permType": "READ", "key": coded(prefix), "range_end": coded(end) });
        for (path, request) in [
            (
                "auth/user/add",
                json!({ "name": "root", "password": "root" }),
            ),
            ("auth/role/add", json!({ "name": "root" })),
            ("auth/user/grant", json!({ "user": "root", "role": "root" })),
            (
                "auth/user/add",
                json!({ "name": user, "password": password }),
            ),
            ("auth/role/add", json!({ "name": "reader" })),
            (
                "auth/role/grant",
                json!({ "name": "reader", "perm": permission }),
            ),
            ("auth/user/grant", json!({ "user": user, "role": "reader" })),
            ("auth/enable", json!({})),
        ] {
            self.call(path, request).await?;
        }
        Ok(())
    }

    async fn call(&self, path: &str, request: Value) -> anyhow::Result<Value> {
        let path = format!("/v3/{path}");
        let answer = Rest::new(self.address)
            .post(&path, request.to_string())
            .await?;
        ensure!(answer.status == 200, "{path}: {answer:?}");
        answer.json()
    }
}

fn run(
    clients: SocketAddr,
    peers: SocketAddr,
    data: &Path,
    tls: Option<EtcdTls<'_>>,
) -> anyhow::Result<Process> {
    let mut command = Command::new("etcd");
    let scheme = if tls.is_some() { "https" } else { "http" };
    let (clients, peers) = (format!("{scheme}://{clients}"), format!("http://{peers}"));
    command.arg("--data-dir").arg(data).args([
        "--listen-client-urls",
        &clients,
        "--advertise-client-urls",
        &clients,
        "--listen-peer-urls",
        &peers,
        "--initial-advertise-peer-urls",
        &peers,
        "--initial-cluster",
        &format!("default={peers}"),
        // Leases may be as short as one and a half election timeouts, in whole seconds.
        "--heartbeat-interval",
        "20",
        "--election-timeout",
        "200",
    ]);
    if let Some(tls) = tls {
        command
            .arg("--cert-file")
            .arg(tls.certificate)
            .arg("--key-file")
            .arg(tls.key)
            .arg("--trusted-ca-file")
            .arg(tls.client_ca)
            .arg("--client-cert-auth");
    }
    let process = Process::spawn("etcd", &mut command)
        .context("etcd is needed: on Debian install the package etcd-server")?;
    process.until_stderr("ready to serve client requests", 1, READY)?;
    Ok(process)
}

/// Of the kernel's choice, and still free when etcd takes them: it has to be told what to advertise, and comes back to
/// them after a restart.
fn free_ports() -> anyhow::Result<[SocketAddr; 2]> {
    let (one, other) = (
        TcpListener::bind("127.0.0.1:0")?,
        TcpListener::bind("127.0.0.1:0")?,
    );
    Ok([one.local_addr()?, other.local_addr()?])
}

fn coded(text: impl AsRef<[u8]>) -> String {
    STANDARD.encode(text)
}
