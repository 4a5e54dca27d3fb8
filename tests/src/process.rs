//! A child process that is killed with its test, and whose standard output is read line by line.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

pub struct Process {
    child: Child,
    lines: Receiver<String>,
    name: String,
}

/// A binary of this workspace, beside the test's own.
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("the test has a path")?;
    let path = own
        .ancestors()
        .skip(1)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("'{name}' is not built: run cargo build --workspace first"))?;
    Ok(path)
}

impl Process {
    pub fn start(name: &str, arguments: &[&str]) -> anyhow::Result<Self> {
        Self::spawn(name, Command::new(binary(name)?).args(arguments))
    }

    pub fn spawn(name: &str, command: &mut Command) -> anyhow::Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let stdout = child.stdout.take().context("standard output is a pipe")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, lines, name: name.to_owned() })
    }

    /// The next line of standard output that begins so, within `time`.
    pub fn line(&self, prefix: &str, time: Duration) -> anyhow::Result<String> {
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line.starts_with(prefix) => return Ok(line),
                Ok(_) => {}
                Err(error) => bail!("{} did not print '{prefix}…' within {time:?}: {error}", self.name),
            }
        }
    }

    /// `KILL`, `TERM`, `STOP`, `CONT`, `HUP`, …
    pub fn signal(&self, signal: &str) -> anyhow::Result<()> {
        let status = Command::new("kill").arg(format!("-{signal}")).arg(self.child.id().to_string()).status()?;
        if !status.success() {
            bail!("cannot send SIG{signal} to {}", self.name);
        }
        Ok(())
    }

    /// The exit status, within `time`.
    pub fn wait(&mut self, time: Duration) -> anyhow::Result<std::process::ExitStatus> {
        let end = Instant::now() + time;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= end {
                bail!("{} still runs after {time:?}", self.name);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be stopped, and it may be gone already: both are fine.
        let _ = self.signal("CONT");
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
