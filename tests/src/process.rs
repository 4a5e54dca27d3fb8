//! A child process that is killed with its test, and whose output is read line by line.
//!
//! Standard error is kept for assertions and repeated on the test's own, where it shows when the test fails.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use parking_lot::Mutex;

/// How often something is looked at that cannot be waited for.
const POLL: Duration = Duration::from_millis(5);

pub struct Process {
    child: Child,
    lines: Receiver<String>,
    errors: Arc<Mutex<String>>,
    name: String,
}

/// How a process ended that was run to its end.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// A binary of this workspace: in `FOREBAY_BIN_DIR`, or beside the test's own.
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("the test has a path")?;
    let folders = std::env::var_os("FOREBAY_BIN_DIR")
        .map(PathBuf::from)
        .into_iter();
    folders
        .chain(own.ancestors().skip(1).map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("'{name}' is not built: run cargo build --workspace first"))
}

/// Runs a binary of this workspace to its end, within `time`.
pub fn run(name: &str, arguments: &[&str], time: Duration) -> anyhow::Result<Ended> {
    let mut process = Process::start(name, arguments)?;
    let status = process.wait(time)?;
    let stdout: Vec<String> = process.lines.iter().collect();
    Ok(Ended {
        status,
        stdout: stdout.join("\n"),
        stderr: process.stderr_to_its_end(),
    })
}

/// Bytes of memory that are resident, of the process with this number.
pub fn memory_of(process: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("VmRSS")?;
    let kibibytes: u64 = line
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .with_context(|| line.to_owned())?;
    Ok(kibibytes * 1024)
}

impl Process {
    pub fn start(name: &str, arguments: &[&str]) -> anyhow::Result<Self> {
        Self::spawn(name, Command::new(binary(name)?).args(arguments))
    }

    pub fn spawn(name: &str, command: &mut Command) -> anyhow::Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let stdout = child.stdout.take().context("standard output is a pipe")?;
        let stderr = child.stderr.take().context("standard error is a pipe")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let errors = Arc::new(Mutex::new(String::new()));
        let (kept, prefix) = (errors.clone(), format!("{name}[{}]", child.id()));
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                eprintln!("{prefix}: {line}");
                let mut kept = kept.lock();
                kept.push_str(&line);
                kept.push('\n');
            }
        });
        Ok(Self {
            child,
            lines,
            errors,
            name: name.to_owned(),
        })
    }

    /// The next line of standard output that begins so, within `time`.
    pub fn line(&self, prefix: &str, time: Duration) -> anyhow::Result<String> {
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line.starts_with(prefix) => return Ok(line),
                Ok(_) => {}
                Err(error) => bail!(
                    "{} did not print '{prefix}…' within {time:?}: {error}; its standard error:\n{}",
                    self.name,
                    self.stderr()
                ),
            }
        }
    }

    /// What it wrote to standard error so far.
    pub fn stderr(&self) -> String {
        self.errors.lock().clone()
    }

    /// Waits until standard error says `text` at least `times` times.
    pub fn until_stderr(&self, text: &str, times: usize, time: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + time;
        while self.errors.lock().matches(text).count() < times {
            if Instant::now() > end {
                bail!(
                    "{} did not say '{text}' {times} times within {time:?} but:\n{}",
                    self.name,
                    self.stderr()
                );
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// `KILL`, `TERM`, `STOP`, `CONT`, `HUP`, …
    pub fn signal(&self, signal: &str) -> anyhow::Result<()> {
        let status = Command::new("kill")
            .arg(format!("-{signal}"))
            .arg(self.child.id().to_string())
            .status()?;
        if !status.success() {
            bail!("cannot send SIG{signal} to {}", self.name);
        }
        Ok(())
    }

    /// The exit status, within `time`.
    pub fn wait(&mut self, time: Duration) -> anyhow::Result<ExitStatus> {
        let end = Instant::now() + time;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= end {
                bail!("{} still runs after {time:?}", self.name);
            }
            std::thread::sleep(POLL);
        }
    }

    /// None while it runs.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Bytes of memory that are resident.
    pub fn memory(&self) -> anyhow::Result<u64> {
        memory_of(self.id())
    }

    /// Of a process that has ended: standard output closes after standard error's last line was read.
    fn stderr_to_its_end(&self) -> String {
        // The reader holds the other reference until the pipe is closed.
        while Arc::strong_count(&self.errors) > 1 {
            std::thread::sleep(POLL);
        }
        self.stderr()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be stopped, and it may be gone already: both are fine.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.signal("CONT");
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}
