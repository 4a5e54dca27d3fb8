//! The new gateway's side: asking the one that runs for its sockets, and relieving it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};

use super::link::{Link, Message, VERSION, is_timeout};
use crate::sockets::Listening;

/// The one that runs answers from a thread of its own; only a stopped process takes this long.
const PATIENCE: Duration = Duration::from_secs(10);

/// The gateway that runs, and waits for this one to serve.
pub struct Predecessor(Link);

impl Predecessor {
    /// Whether somebody waits at `path`.
    pub fn is_there(path: &Path) -> bool {
        Link::connect(path).is_ok()
    }

    /// Asks for the sockets.
    pub fn ask(path: &Path) -> anyhow::Result<(Self, Vec<Listening>)> {
        let link = Link::connect(path).with_context(|| {
            let path = path.display();
            format!(
                "no gateway to take over from at '{path}': start without --upgrade if none runs"
            )
        })?;
        let sockets = receive(&link)
            .with_context(|| format!("no sockets from the gateway at '{}'", path.display()))?;
        log::info!("taking {} sockets over", sockets.len());
        Ok((Self(link), sockets))
    }

    /// Says that this process serves, and waits until the other accepts no more.
    ///
    /// # Errors
    /// The other has given this one up and goes on. One that is silent or gone leaves the field.
    pub fn relieve(self) -> anyhow::Result<()> {
        let answer = self
            .0
            .send(&Message::Serving, None)
            .and_then(|()| self.0.receive());
        match answer {
            Ok(Some((Message::Draining, _))) => {
                log::info!("the gateway before has stopped accepting")
            }
            Ok(Some((Message::Refused { reason }, _))) => bail!("{reason}"),
            Ok(other) => log::warn!("the gateway before has gone: {other:?}"),
            Err(error) => log::warn!("the gateway before does not answer: {error}"),
        }
        Ok(())
    }
}

fn receive(link: &Link) -> anyhow::Result<Vec<Listening>> {
    link.set_patience(PATIENCE)?;
    link.send(&Message::Ask { version: VERSION }, None)?;
    let mut sockets = Vec::new();
    loop {
        let received = link.receive();
        match received {
            Ok(Some((Message::Socket(label), Some(socket)))) => {
                sockets.push(Listening::new(label, socket))
            }
            Ok(Some((Message::End, _))) => return Ok(sockets),
            Ok(Some((Message::Refused { reason }, _))) => bail!("{reason}"),
            Ok(Some((other, _))) => bail!("it answers {other:?}"),
            Ok(None) => bail!("it has gone"),
            Err(error) if is_timeout(&error) => bail!("no answer within {PATIENCE:?}"),
            Err(error) => return Err(error.into()),
        }
    }
}
