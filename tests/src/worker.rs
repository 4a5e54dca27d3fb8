//! A running worker with real models on the real ONNX Runtime.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::folder::Folder;
use crate::onnx;
use crate::process::Process;

/// Loading the runtime takes a moment on a busy machine.
const START: Duration = Duration::from_secs(60);
const ANY_PORT: &str = "127.0.0.1:0";

pub struct Worker {
    pub process: Process,
    pub grpc: SocketAddr,
    pub http: SocketAddr,
}

/// A folder with the models of `onnx`, to be served by any number of workers.
pub struct Repository {
    folder: Folder,
    models: PathBuf,
}

impl Repository {
    pub fn make(folder: Folder) -> anyhow::Result<Self> {
        let models = folder.join("models");
        onnx::write_repository(&models)?;
        Ok(Self { folder, models })
    }

    pub fn models(&self) -> &Path {
        &self.models
    }

    /// A worker on ports that the kernel chooses.
    pub fn serve(&self) -> anyhow::Result<Worker> {
        self.start(&["--listen", ANY_PORT, "--http-listen", ANY_PORT])
    }

    /// A worker where another one was before.
    pub fn serve_again(&self, grpc: SocketAddr, http: SocketAddr) -> anyhow::Result<Worker> {
        self.start(&[
            "--listen",
            &grpc.to_string(),
            "--http-listen",
            &http.to_string(),
        ])
    }

    /// A worker with more of a configuration; the repository is added to it.
    pub fn serve_with(&self, config: &str) -> anyhow::Result<Worker> {
        let text = format!("repository = '{}'\n{config}", self.models.display());
        let file = self.folder.write("worker.toml", text)?;
        let file = file.to_str().context("UTF-8 path")?;
        self.start(&[
            "--config",
            file,
            "--listen",
            ANY_PORT,
            "--http-listen",
            ANY_PORT,
        ])
    }

    fn start(&self, arguments: &[&str]) -> anyhow::Result<Worker> {
        let repository = self.models.to_str().context("UTF-8 path")?;
        let mut all = vec!["--repository", repository, "--threads", "1"];
        all.extend(arguments);
        let process = Process::start("forebay-worker", &all)?;
        let hint = "does it find ONNX Runtime? ORT_DYLIB_PATH says where it is, and make test-rust sets it";
        let line = process
            .line("forebay-worker listening", START)
            .context(hint)?;
        let (mut grpc, mut http) = (None, None);
        for word in line.split_whitespace().skip(2) {
            let (name, address) = word.split_once('=').context("NAME=ADDRESS")?;
            let address = address
                .parse()
                .with_context(|| format!("address in '{line}'"))?;
            match name {
                "grpc" => grpc = Some(address),
                _ => http = Some(address),
            }
        }
        let ready = process.line("forebay-worker ready", START).context(hint)?;
        ensure!(ready.ends_with("failed=0"), "{ready}\n{}", process.stderr());
        Ok(Worker {
            process,
            grpc: grpc.context("grpc address")?,
            http: http.context("http address")?,
        })
    }
}
