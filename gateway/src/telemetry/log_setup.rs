//! Logs go to standard error, one line an event; `RUST_LOG` wins over the configured level.

use std::io::IsTerminal;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

/// How much the process logs.
pub struct LogLevel {
    /// None: the environment says it, once and for all.
    filter: Option<reload::Handle<EnvFilter, Registry>>,
}

impl LogLevel {
    /// Once a process. `level`: `error`, `warn`, `info`, `debug` or `trace`.
    pub fn init(level: &str) -> Self {
        let from_environment = EnvFilter::try_from_default_env().ok();
        let is_fixed = from_environment.is_some();
        let (filter, handle) =
            reload::Layer::new(from_environment.unwrap_or_else(|| filter_of(level)));
        let lines = fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false);
        tracing_subscriber::registry()
            .with(filter)
            .with(lines)
            .init();
        Self {
            filter: (!is_fixed).then_some(handle),
        }
    }

    /// From now on.
    pub fn set(&self, level: &str) {
        let Some(filter) = &self.filter else {
            return;
        };
        match filter.reload(filter_of(level)) {
            // What comes through the crate `log` is held back there already.
            Ok(()) => log::set_max_level(of_log(LevelFilter::current())),
            Err(error) => log::error!("the log level stays as it is: {error}"),
        }
    }
}

fn filter_of(level: &str) -> EnvFilter {
    EnvFilter::new(format!(
        "{level},pingora=warn,pingora_core=warn,pingora_proxy=error,h2=warn,opentelemetry=warn"
    ))
}

fn of_log(level: LevelFilter) -> log::LevelFilter {
    match level.into_level() {
        None => log::LevelFilter::Off,
        Some(tracing::Level::ERROR) => log::LevelFilter::Error,
        Some(tracing::Level::WARN) => log::LevelFilter::Warn,
        Some(tracing::Level::INFO) => log::LevelFilter::Info,
        Some(tracing::Level::DEBUG) => log::LevelFilter::Debug,
        Some(tracing::Level::TRACE) => log::LevelFilter::Trace,
    }
}
