//! The loading thread, and how clients reach it.
//!
//! Commands are carried out one after the other, in the order they came. Whoever gave one is told when it is
//! done; that he waits no longer does not take it back.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use forebay_config::worker::ModelControl;
use tokio::sync::oneshot;

use crate::repository::disk;
use crate::repository::loader::{LoadError, Loader};
use crate::repository::source::Given;

/// Commands that may wait.
const MAX_COMMANDS: usize = 256;

/// Why a command was not carried out as given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// The words begin as Triton's, which clients look for.
    #[error("explicit model load / unload is not allowed: model_control is \"none\"")]
    NotAllowed,
    #[error("too many loads and unloads are waiting ({MAX_COMMANDS})")]
    Busy,
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

/// Gives commands to the loading thread.
#[derive(Debug)]
pub struct Control {
    /// None: clients may not.
    commands: Option<SyncSender<Command>>,
    repository: PathBuf,
}

/// The other end: what the loading thread hears. It ends when nobody can give commands any more.
#[derive(Debug)]
pub struct Commands(Receiver<Command>);

impl Control {
    /// Lets nobody load or unload anything.
    pub fn none() -> Self {
        Self {
            commands: None,
            repository: PathBuf::new(),
        }
    }

    pub fn new(repository: PathBuf) -> (Self, Commands) {
        let (commands, heard) = sync_channel(MAX_COMMANDS);
        let control = Self {
            commands: Some(commands),
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
        commands.try_send(command).map_err(|error| match error {
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
                Ok(command) => command.carry_out(loader),
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
