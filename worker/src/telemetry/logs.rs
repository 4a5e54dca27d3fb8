//! The log: one line per event on stderr, so that stdout stays free for what programs read.

use std::fmt;
use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

/// The installed log, whose level can be changed.
#[derive(Clone, Default)]
pub struct Logs {
    filter: Option<reload::Handle<EnvFilter, Registry>>,
}

/// Installs the log for the whole process; a second call installs nothing.
///
/// `level` is the configured one. The variable `RUST_LOG` wins over it.
pub fn init(level: &str) -> Logs {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(filter(level)));
    let (filter, handle) = reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    let installed = Registry::default().with(filter).with(lines).try_init();
    if installed.is_err() {
        tracing::debug!("the log was already set up");
        return Logs::default();
    }
    Logs {
        filter: Some(handle),
    }
}

impl Logs {
    /// The finest level that is written.
    pub fn level(&self) -> LevelFilter {
        LevelFilter::current()
    }

    /// Writes what is at this level or above from now on, whatever `RUST_LOG` said.
    ///
    /// # Errors
    /// The log was not installed by this process.
    pub fn set_level(&self, level: LevelFilter) -> Result<(), String> {
        let handle = self.filter.as_ref();
        let handle = handle.ok_or("this process does not own the log")?;
        let filter = EnvFilter::new(filter(&level.to_string()));
        handle.reload(filter).map_err(|error| error.to_string())
    }
}

impl fmt::Debug for Logs {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Logs({})", self.level())
    }
}

/// Libraries speak only when something is wrong, whatever the level of our own lines.
fn filter(level: &str) -> String {
    match level {
        "error" | "off" => level.to_owned(),
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
        assert_eq!(filter(&LevelFilter::OFF.to_string()), "off");
        assert_eq!(
            filter(&LevelFilter::TRACE.to_string()),
            "warn,forebay_worker=trace"
        );
    }

    #[test]
    fn who_does_not_own_the_log_cannot_change_it() {
        assert!(Logs::default().set_level(LevelFilter::DEBUG).is_err());
    }
}
