//! Replacing the program without closing a port: a gateway that starts takes the listening sockets over from the one
//! that runs.
//!
//! The one that runs waits at a Unix socket (`upgrade_socket`). A new one that was started with `--upgrade` first reads
//! and checks its whole configuration, looks at its endpoints, and only then asks there:
//!
//! ```text
//! new  Ask ──────────────▶  old
//! new  ◀────── Socket …, End  old    each with the socket itself (SCM_RIGHTS)
//! new  accepts connections
//! new  Serving ──────────▶  old
//! new  ◀────────── Draining  old    accepts no more, finishes what it has, ends
//! ```
//!
//! Both hold the same sockets, so a connection that waits is accepted by whichever comes first, and there is no moment
//! without one. Up to `Serving` the old one goes on as if nothing had happened: a new one that fails, dies or takes
//! too long changes nothing. pingora's own hand-over works the other way round (the old one sends to a socket of the
//! new one on SIGQUIT, and ends five seconds later whatever became of it), which is why it is not used.
//!
//! Only who may write to the Unix socket can ask: the same user and root.

mod link;
mod predecessor;
mod successor;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use tokio::sync::oneshot;

use self::predecessor::Predecessor;
use self::successor::Door;
use crate::sockets::{Listening, Sockets};

/// The place of this process in the line of gateways.
pub struct Succession {
    /// Where the next one asks; None: there is no `upgrade_socket`.
    door: Option<Door>,
    predecessor: Option<Predecessor>,
}

/// The other side of a succession that has begun.
pub struct Successors {
    /// Resolves when a successor serves.
    pub taken_over: oneshot::Receiver<()>,
    path: Option<PathBuf>,
}

impl Succession {
    /// Takes part in the line at `path`. `upgrade`: by taking over from the one that is there.
    ///
    /// # Errors
    /// Nobody to take over from, or somebody there who was not to be taken over from; a path that cannot be used.
    pub fn join(path: Option<&Path>, upgrade: bool) -> anyhow::Result<(Self, Vec<Listening>)> {
        let Some(path) = path else {
            anyhow::ensure!(
                !upgrade,
                "--upgrade needs 'upgrade_socket' in the configuration, and the running gateway needs the same one"
            );
            let alone = Self {
                door: None,
                predecessor: None,
            };
            return Ok((alone, Vec::new()));
        };
        // Whatever is wrong with the path shows before anybody is asked for anything.
        let door = Door::build(path)?;
        let (predecessor, sockets) = match upgrade {
            true => {
                let (predecessor, sockets) = Predecessor::ask(path)?;
                (Some(predecessor), sockets)
            }
            false => {
                anyhow::ensure!(
                    !Predecessor::is_there(path),
                    "another gateway runs at '{}': start with --upgrade to take over from it",
                    path.display()
                );
                (None, Vec::new())
            }
        };
        let door = Some(door);
        Ok((Self { door, predecessor }, sockets))
    }

    /// This process serves: the one before may go, and the next one may ask. Blocks until the one before has answered.
    ///
    /// # Errors
    /// The one before wants to go on, so this one must end.
    pub fn begin(self, sockets: Arc<Sockets>) -> anyhow::Result<Successors> {
        if let Some(predecessor) = self.predecessor {
            predecessor.relieve().context("not taken over")?;
        }
        let (hand_over, taken_over) = oneshot::channel();
        let path = self.door.and_then(|door| door.open(sockets, hand_over));
        Ok(Successors { taken_over, path })
    }
}

impl Successors {
    /// Nobody is to ask any more: this process goes without a successor.
    pub fn end(&self) {
        if let Some(path) = &self.path
            && let Err(error) = std::fs::remove_file(path)
        {
            log::debug!("'{}' stays behind: {error}", path.display());
        }
    }
}
