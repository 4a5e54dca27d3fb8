//! A running `faulty-upstream`: a server with a capacity that fails on command.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::client::Rest;
use crate::process::Process;

pub struct Faulty {
    pub address: SocketAddr,
    rest: Rest,
    pub process: Process,
}

impl Faulty {
    /// `arguments` as the head of the program's source has them.
    pub fn start(arguments: &[&str]) -> anyhow::Result<Self> {
        let process = Process::start("faulty-upstream", arguments)?;
        let line = process.line("faulty-upstream listening", Duration::from_secs(10))?;
        let address: SocketAddr = line.split(' ').next_back().context("an address")?.parse()?;
        Ok(Self {
            address,
            rest: Rest::new(address),
            process,
        })
    }

    /// Such as `fault=errors&share=0.3`.
    pub async fn control(&self, command: &str) -> anyhow::Result<()> {
        let answer = self.rest.get(&format!("/ctl?{command}")).await?;
        ensure!(answer.body == "ok\n", "{answer:?}");
        Ok(())
    }

    /// One of its counters.
    pub async fn count(&self, counter: &str) -> anyhow::Result<u64> {
        let stats = self.rest.get("/stats").await?.json()?;
        stats[counter].as_u64().context("a counter")
    }
}
