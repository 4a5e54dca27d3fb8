//! The loading thread, and how clients reach it.
//!
//! Commands are carried out one after the other, in the order they came. Whoever gave one is told when it is
//! done; that he waits no longer does not take it back.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use tokio::sync::oneshot;

use crate::repository::loader::{LoadError, Loader};

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
        done: oneshot::Sender<Result<(), LoadError>>,
    },
    Unload {
        name: String,
        done: oneshot::Sender<()>,
    },
}

/// Gives commands to the loading thread.
#[derive(Debug)]
pub struct Control {
    /// None: clients may not.
    commands: Option<SyncSender<Command>>,
}

/// The other end: what the loading thread hears. It ends when nobody can give commands any more.
#[derive(Debug)]
pub struct Commands(Receiver<Command>);

impl Control {
    /// Lets nobody load or unload anything.
    pub fn none() -> Self {
        Self { commands: None }
    }

    pub fn new() -> (Self, Commands) {
        let (commands, heard) = sync_channel(MAX_COMMANDS);
        let control = Self {
            commands: Some(commands),
        };
        (control, Commands(heard))
    }

    /// # Errors
    /// Clients may neither load nor unload.
    pub fn allowed(&self) -> Result<(), ControlError> {
        let commands = self.commands.as_ref();
        commands.map(|_| ()).ok_or(ControlError::NotAllowed)
    }

    /// Loads a model, or loads it anew. Returns when it is ready or failed.
    ///
    /// # Errors
    /// As `ControlError` says.
    pub async fn load(&self, name: &str) -> Result<(), ControlError> {
        let (done, hear) = oneshot::channel();
        let name = name.to_owned();
        self.give(Command::Load { name, done })?;
        Ok(hear.await.map_err(|_| ControlError::Closed)??)
    }

    /// Unloads a model; returns when new requests are refused.
    ///
    /// # Errors
    /// As `ControlError` says; a model that is not loaded is none.
    pub async fn unload(&self, name: &str) -> Result<(), ControlError> {
        let (done, hear) = oneshot::channel();
        let name = name.to_owned();
        self.give(Command::Unload { name, done })?;
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

impl Commands {
    /// Carries commands out until nobody can give any.
    pub fn carry_out(self, loader: &Loader) {
        // Who gave a command may have left; then nobody minds.
        for command in self.0 {
            match command {
                Command::Load { name, done } => _ = done.send(loader.load(&name)),
                Command::Unload { name, done } => {
                    loader.unload(&name);
                    _ = done.send(());
                }
            }
        }
    }
}
