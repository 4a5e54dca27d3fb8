//! The log: one line per event on stderr, so that stdout stays free for what programs read.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Installs the log for the whole process; a second call changes nothing.
///
/// `level` is the configured one. The variable `RUST_LOG` wins over it.
pub fn init(level: &str) {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(filter(level)));
    let installed = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .try_init();
    if installed.is_err() {
        tracing::debug!("the log was already set up");
    }
}

/// Libraries speak only when something is wrong, whatever the level of our own lines.
fn filter(level: &str) -> String {
    match level {
        "error" => "error".to_owned(),
        level => format!("warn,forebay_worker={level}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_stay_at_warnings() {
        assert_eq!(filter("debug"), "warn,forebay_worker=debug");
        assert_eq!(filter("error"), "error");
    }
}
