//! The loading thread, and how clients reach it.
//!
//! Commands are carried out one after the other, in the order they came. Whoever gave one is told when it is
//! done; that he waits no longer does not take it back. So what waits is bounded, in number and in bytes of the files
//! that came with it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use forebay_config::worker::ModelControl;
use tokio::sync::oneshot;

use crate::repository::disk;
use crate::repository::loader::{LoadError, Loader};
use crate::repository::source::Given;

/// Commands that may wait.
const MAX_COMMANDS: usize = 256;
/// Bytes that came with commands which are not carried out yet. The files of a single one may be more, as long as it is
/// the only one that has any.
const MAX_BYTES: usize = 1 << 30;

/// Why a command was not carried out as given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// The words begin as Triton's, which clients look for.
    #[error("explicit model load / unload is not allowed: model_control is \"none\"")]
    NotAllowed,
    #[error("too many loads and unloads are waiting ({MAX_COMMANDS})")]
    Busy,
    #[error(
        "loads that are waiting hold {held} bytes of files, {more} more would be above {MAX_BYTES}"
    )]
    TooMuch { held: usize, more: usize },
    #[error("the server is shutting down")]
    Closed,
    #[error(transparent)]
    Load(#[from] LoadError),
}

#[derive(Debug)]
enum Command {
    Load {
        name: String,
        given: Given,
        done: oneshot::Sender<Result<(), LoadError>>,
    },
    Unload {
        name: String,
        with_models: bool,
        done: oneshot::Sender<()>,
    },
}

impl Command {
    /// Of what came with it.
    fn bytes(&self) -> usize {
        match self {
            Self::Load { given, .. } => {
                let files = given.files.values().map(bytes::Bytes::len);
                files.sum::<usize>() + given.config.as_ref().map_or(0, String::len)
            }
            Self::Unload { .. } => 0,
        }
    }
}

/// Bytes of a command, for as long as it is not carried out.
#[derive(Debug)]
struct Booked {
    bytes: usize,
    held: Arc<AtomicUsize>,
}

impl Booked {
    fn new(bytes: usize, held: &Arc<AtomicUsize>) -> Result<Self, ControlError> {
        let book = |before: usize| {
            let after = before.checked_add(bytes)?;
            (bytes == 0 || before == 0 || after <= MAX_BYTES).then_some(after)
        };
        let booked = held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, book);
        booked.map_err(|before| ControlError::TooMuch {
            held: before,
            more: bytes,
        })?;
        Ok(Self {
            bytes,
            held: Arc::clone(held),
        })
    }
}

impl Drop for Booked {
    fn drop(&mut self) {
        self.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Gives commands to the loading thread.
#[derive(Debug)]
pub struct Control {
    /// None: clients may not.
    commands: Option<SyncSender<(Command, Booked)>>,
    held: Arc<AtomicUsize>,
    repository: PathBuf,
}

/// The other end: what the loading thread hears. It ends when nobody can give commands any more.
#[derive(Debug)]
pub struct Commands(Receiver<(Command, Booked)>);

impl Control {
    /// Lets nobody load or unload anything.
    pub fn none() -> Self {
        Self {
            commands: None,
            held: Arc::default(),
            repository: PathBuf::new(),
        }
    }

    pub fn new(repository: PathBuf) -> (Self, Commands) {
        let (commands, heard) = sync_channel(MAX_COMMANDS);
        let control = Self {
            commands: Some(commands),
            held: Arc::default(),
            repository,
        };
        (control, Commands(heard))
    }

    /// # Errors
    /// Clients may neither load nor unload.
    pub fn allowed(&self) -> Result<(), ControlError> {
        let commands = self.commands.as_ref();
        commands.map(|_| ()).ok_or(ControlError::NotAllowed)
    }

    /// The models that could be loaded; none where clients may not load any.
    pub async fn names(&self) -> BTreeSet<String> {
        if self.commands.is_none() {
            return BTreeSet::new();
        }
        let repository = self.repository.clone();
        let names = tokio::task::spawn_blocking(move || disk::names(&repository));
        // What cannot be listed was told by whoever tried to load from it.
        names.await.ok().and_then(Result::ok).unwrap_or_default()
    }

    /// Loads a model, or loads it anew. Returns when it is ready or failed.
    ///
    /// # Errors
    /// As `ControlError` says.
    pub async fn load(&self, name: &str, given: Given) -> Result<(), ControlError> {
        let (done, hear) = oneshot::channel();
        let name = name.to_owned();
        self.give(Command::Load { name, given, done })?;
        Ok(hear.await.map_err(|_| ControlError::Closed)??)
    }

    /// Unloads a model, `with_models` those of an ensemble that no other uses; returns when new requests are
    /// refused.
    ///
    /// # Errors
    /// As `ControlError` says; a model that is not loaded is none.
    pub async fn unload(&self, name: &str, with_models: bool) -> Result<(), ControlError> {
        let (done, hear) = oneshot::channel();
        let name = name.to_owned();
        self.give(Command::Unload {
            name,
            with_models,
            done,
        })?;
        hear.await.map_err(|_| ControlError::Closed)
    }

    fn give(&self, command: Command) -> Result<(), ControlError> {
        let commands = self.commands.as_ref().ok_or(ControlError::NotAllowed)?;
        let booked = Booked::new(command.bytes(), &self.held)?;
        commands
            .try_send((command, booked))
            .map_err(|error| match error {
                TrySendError::Full(_) => ControlError::Busy,
                TrySendError::Disconnected(_) => ControlError::Closed,
            })
    }
}

/// Without commands an hour passes as well as a minute.
const NO_HURRY: Duration = Duration::from_secs(3600);

impl Commands {
    /// Carries commands out until nobody can give any, and looks at the repository as often as is configured.
    pub fn carry_out(self, loader: &mut Loader) {
        let interval = match loader.config.model_control {
            ModelControl::Poll { interval } => Some(interval),
            ModelControl::None | ModelControl::Explicit { .. } => None,
        };
        let mut next_look = interval.map(|interval| Instant::now() + interval);
        loop {
            let wait = next_look.map_or(NO_HURRY, |next| {
                next.saturating_duration_since(Instant::now())
            });
            match self.0.recv_timeout(wait) {
                Ok((command, booked)) => {
                    command.carry_out(loader);
                    drop(booked);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if let (Some(next), Some(interval)) = (next_look, interval)
                && Instant::now() >= next
            {
                loader.look();
                next_look = Some(Instant::now() + interval);
            }
        }
    }
}

impl Command {
    /// Who gave it may have left; then nobody minds.
    fn carry_out(self, loader: &mut Loader) {
        match self {
            Self::Load { name, given, done } => _ = done.send(loader.load(&name, given)),
            Self::Unload {
                name,
                with_models,
                done,
            } => {
                match with_models {
                    true => loader.unload_with_models(&name),
                    false => loader.unload(&name),
                }
                _ = done.send(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    /// A load with a file of so many bytes, which all share one memory.
    fn load(bytes: usize) -> (Command, oneshot::Receiver<Result<(), LoadError>>) {
        let (done, hear) = oneshot::channel();
        let part = Bytes::from_static(&[0; 1 << 20]);
        let files = (0..bytes >> 20).map(|number| (format!("1/{number}"), part.clone()));
        let given = Given {
            config: None,
            files: files.collect(),
        };
        let name = "m".to_owned();
        (Command::Load { name, given, done }, hear)
    }

    #[test]
    fn files_that_wait_are_bounded_in_bytes_and_one_load_always_goes() {
        let (control, commands) = Control::new(PathBuf::new());
        let give = |bytes| control.give(load(bytes).0);
        assert_eq!(give(MAX_BYTES + (1 << 20)), Ok(()), "nobody else has files");
        let refused = give(1 << 20).unwrap_err();
        assert!(
            matches!(refused, ControlError::TooMuch { more, .. } if more == 1 << 20),
            "{refused}"
        );
        assert_eq!(give(0), Ok(()), "without files");
        drop(commands.0.recv().unwrap());
        assert_eq!(give(MAX_BYTES / 2), Ok(()));
        assert_eq!(give(MAX_BYTES / 2), Ok(()));
        assert!(give(1 << 20).is_err());
        drop(commands);
        assert_eq!(control.held.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn commands_that_wait_are_bounded_in_number() {
        let (control, commands) = Control::new(PathBuf::new());
        for _ in 0..MAX_COMMANDS {
            assert_eq!(control.give(load(1 << 20).0), Ok(()));
        }
        assert_eq!(control.give(load(1 << 20).0), Err(ControlError::Busy));
        assert_eq!(control.held.load(Ordering::Relaxed), MAX_COMMANDS << 20);
        drop(commands);
        assert_eq!(control.held.load(Ordering::Relaxed), 0);
    }
}
