//! The command line, and the configuration it amounts to.
//!
//! A file, a repository, or both; flags win over the file. Nothing is opened here but the file.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{ArgGroup, Parser};
use forebay_config::problem::Problems;
use forebay_config::worker::Worker;

/// Serves ONNX models with dynamic batching over the Open Inference Protocol.
#[derive(Debug, Clone, Parser)]
#[command(name = "forebay-worker", version)]
#[command(group(ArgGroup::new("models").args(["config", "repository"]).required(true).multiple(true)))]
pub struct Args {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Model repository, DIR/MODEL/VERSION/model.onnx; every model in it is served
    #[arg(long, value_name = "DIR")]
    pub repository: Option<PathBuf>,

    /// Address of the gRPC service; port 0 lets the kernel choose
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,

    /// Address of the REST service and of /metrics; port 0 lets the kernel choose
    #[arg(long, value_name = "ADDR")]
    pub http_listen: Option<SocketAddr>,

    /// Threads of each model instance; by default the cores are divided among the instances
    #[arg(long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,

    /// Validate the configuration and exit: 0 when it is valid, 1 after listing every problem
    #[arg(long)]
    pub check: bool,
}

/// Why there is no configuration to run with.
#[derive(Debug, thiserror::Error)]
pub enum ArgsError {
    #[error("cannot read '{}': {error}", path.display())]
    Unreadable {
        path: PathBuf,
        error: std::io::Error,
    },
    #[error("'{}' is not a valid configuration:\n{problems}", path.display())]
    Invalid { path: PathBuf, problems: Problems },
    #[error("give --config FILE or --repository DIR")]
    Nothing,
}

impl Args {
    /// Reads the file, if one is named, and lays the flags over it.
    pub fn worker(&self) -> Result<Worker, ArgsError> {
        let mut worker = match (&self.config, &self.repository) {
            (Some(path), _) => {
                let text =
                    std::fs::read_to_string(path).map_err(|error| ArgsError::Unreadable {
                        path: path.clone(),
                        error,
                    })?;
                Worker::parse(&text).map_err(|problems| ArgsError::Invalid {
                    path: path.clone(),
                    problems,
                })?
            }
            (None, Some(repository)) => Worker::default_for(repository.clone()),
            (None, None) => return Err(ArgsError::Nothing),
        };
        self.lay_over(&mut worker);
        Ok(worker)
    }

    fn lay_over(&self, worker: &mut Worker) {
        if let Some(repository) = &self.repository {
            worker.repository.clone_from(repository);
        }
        if let Some(listen) = self.listen {
            worker.listen = listen;
        }
        if let Some(http_listen) = self.http_listen {
            worker.http_listen = Some(http_listen);
        }
        if let Some(threads) = self.threads {
            worker.threads = Some(threads.get());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn a_repository_is_enough() {
        let worker = parse("forebay-worker --repository /models")
            .unwrap()
            .worker()
            .unwrap();
        assert_eq!(worker, Worker::default_for(PathBuf::from("/models")));
    }

    #[test]
    fn flags_win() {
        let line = "forebay-worker --repository /models --listen 127.0.0.1:0 \
                    --http-listen [::1]:9000 --threads 3";
        let worker = parse(line).unwrap().worker().unwrap();
        assert_eq!(worker.listen, "127.0.0.1:0".parse().unwrap());
        assert_eq!(worker.http_listen, Some("[::1]:9000".parse().unwrap()));
        assert_eq!(worker.threads, Some(3));
    }

    #[test]
    fn neither_file_nor_repository_is_a_usage_error() {
        assert!(parse("forebay-worker").is_err());
        assert!(parse("forebay-worker --repository /models --threads 0").is_err());
        assert!(parse("forebay-worker --repository /models --listen nowhere").is_err());
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let args = parse("forebay-worker --config /nonexistent/worker.toml").unwrap();
        let error = args.worker().unwrap_err();
        assert!(
            error.to_string().contains("/nonexistent/worker.toml"),
            "{error}"
        );
    }
}
