//! Logs go to standard error, one line an event; `RUST_LOG` wins over the configured level.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// `level`: `error`, `warn`, `info`, `debug` or `trace`.
pub fn init(level: &str) {
    let quiet = format!(
        "{level},pingora=warn,pingora_core=warn,pingora_proxy=error,h2=warn,opentelemetry=warn"
    );
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(quiet));
    // A second initialisation in one process changes nothing and is no error.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .try_init();
}
