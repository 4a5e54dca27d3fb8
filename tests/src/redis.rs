//! A real Redis of the test's own, on a port that the kernel chose and in no folder but the test's.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::client;
use crate::process::Process;

/// How long it may take to be there.
const START: Duration = Duration::from_secs(20);

pub struct Redis {
    pub process: Process,
    pub address: SocketAddr,
}

impl Redis {
    /// `arguments` besides those that say where; `{port}` in them stands for the port. Plain text on the port unless
    /// they say otherwise.
    pub fn start(folder: &Path, arguments: &[&str]) -> anyhow::Result<Self> {
        let mut last = None;
        // Another process may take the port in between.
        for _ in 0..5 {
            let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
            match Self::start_at(address, folder, arguments) {
                Ok(redis) => return Ok(redis),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("no attempt")?)
    }

    pub fn start_at(
        address: SocketAddr,
        folder: &Path,
        arguments: &[&str],
    ) -> anyhow::Result<Self> {
        let port = address.port().to_string();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--dir"]);
        command.arg(folder);
        if !arguments.contains(&"--port") {
            command.args(["--port", &port]);
        }
        command.args(
            arguments
                .iter()
                .map(|argument| argument.replace("{port}", &port)),
        );
        let process = Process::spawn("redis-server", &mut command)
            .context("these tests need Redis: apt-get install redis-server")?;
        let end = Instant::now() + START;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = process.line("", left)?;
            if line.contains("Ready to accept connections") {
                return Ok(Self { process, address });
            }
            if line.contains("Failed listening") {
                bail!("redis-server: {line}");
            }
        }
    }

    /// The raw answer to one command, its words without blanks.
    pub async fn command(&self, words: &[&str]) -> anyhow::Result<String> {
        let text = format!("{}\r\nQUIT\r\n", words.join(" "));
        let answer = client::raw(self.address, text.as_bytes(), Duration::from_secs(10)).await?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        Ok(answer.trim_end_matches("+OK\r\n").to_owned())
    }

    pub async fn keys(&self) -> anyhow::Result<Vec<String>> {
        let answer = self.command(&["KEYS", "*"]).await?;
        let is_key = |line: &&str| !line.is_empty() && !line.starts_with(['*', '$']);
        Ok(answer.lines().filter(is_key).map(str::to_owned).collect())
    }
}
