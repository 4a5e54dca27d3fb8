//! The running gateway's side: where the next one asks, and what it is given.
//!
//! The place is a file, so it is made beside its name and renamed over it: at no time does the name lead nowhere
//! while one of the two processes waits, and one that a crash left behind is simply replaced.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustix::fs::{Mode, fchmod};
use socket2::{SockAddr, Socket};
use tokio::sync::oneshot;

use super::link::{Link, Message, VERSION, is_timeout};
use crate::sockets::Sockets;

/// How long a successor that has the sockets may take until it serves.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the next gateway will ask: built, but not open yet.
pub struct Door {
    socket: Socket,
    path: PathBuf,
    /// Where it stands until it is opened.
    beside: PathBuf,
}

impl Door {
    pub fn build(path: &Path) -> anyhow::Result<Self> {
        let mut beside = OsString::from(path);
        beside.push(format!(".{}", std::process::id()));
        let beside = PathBuf::from(beside);
        let build = || {
            if path
                .symlink_metadata()
                .is_ok_and(|there| !there.file_type().is_socket())
            {
                return Err(io::Error::other("something else than a socket is there"));
            }
            let socket = Link::socket()?;
            // Before it has a name, so that there is no moment at which others could ask.
            fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
            socket.bind(&SockAddr::unix(&beside)?)?;
            socket.listen(1)?;
            Ok(socket)
        };
        let socket =
            build().with_context(|| format!("upgrade_socket cannot be '{}'", path.display()))?;
        Ok(Self {
            socket,
            path: path.to_owned(),
            beside,
        })
    }

    /// Lets the next gateway ask for `sockets`; `taken_over` hears when it serves. The path that this process holds
    /// from now on, None if there is none.
    pub fn open(self, sockets: Arc<Sockets>, taken_over: oneshot::Sender<()>) -> Option<PathBuf> {
        let path = self.path.clone();
        if let Err(error) = std::fs::rename(&self.beside, &path) {
            log::error!(
                "no upgrade of this gateway at '{}': {error}",
                path.display()
            );
            return None;
        }
        let waiting = std::thread::Builder::new()
            .name("handover".to_owned())
            .spawn(move || {
                self.wait(&sockets);
                let _ = taken_over.send(());
            });
        if let Err(error) = waiting {
            log::error!(
                "no upgrade of this gateway at '{}': {error}",
                path.display()
            );
        }
        Some(path)
    }

    /// Until a successor serves; then nobody waits here any more.
    fn wait(self, sockets: &Sockets) {
        loop {
            let link = match self.socket.accept() {
                Ok((socket, _)) => Link::new(socket),
                Err(error) => {
                    log::warn!("a successor cannot ask: {error}");
                    std::thread::sleep(Duration::from_secs(1));
                    continue;
                }
            };
            match give(&link, sockets) {
                Ok(true) => return,
                // It only looked whether somebody is here.
                Ok(false) => {}
                Err(reason) => {
                    log::warn!("an upgrade came to nothing, this gateway goes on: {reason}");
                    // It may be gone, and then nobody hears why.
                    let _ = link.send(&Message::Refused { reason }, None);
                }
            }
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // Of a gateway that never came to serve.
        let _ = std::fs::remove_file(&self.beside);
    }
}

/// Whether the successor serves now.
fn give(link: &Link, sockets: &Sockets) -> Result<bool, String> {
    let failed = |error: io::Error| match is_timeout(&error) {
        true => format!("the new gateway did not serve within {PATIENCE:?}"),
        false => error.to_string(),
    };
    link.set_patience(PATIENCE).map_err(failed)?;
    match link.receive().map_err(failed)? {
        None => return Ok(false),
        Some((Message::Ask { version: VERSION }, _)) => {}
        Some((other, _)) => return Err(format!("the new gateway asks {other:?}")),
    }
    let sent = sockets.with(|open| {
        for listening in open {
            let message = Message::Socket(listening.label.clone());
            link.send(&message, Some(listening.as_fd()))?;
        }
        link.send(&Message::End, None)
    });
    match sent {
        None => return Err("this gateway drains and has closed its ports".to_owned()),
        Some(sent) => sent.map_err(failed)?,
    }
    log::info!("a new gateway has the sockets");
    match link.receive().map_err(failed)? {
        Some((Message::Serving, _)) => {}
        Some((other, _)) => return Err(format!("the new gateway says {other:?}")),
        None => return Err("the new gateway has gone".to_owned()),
    }
    // It serves, whether or not it hears this.
    let _ = link.send(&Message::Draining, None);
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use forebay_config::gateway as config;

    use super::*;
    use crate::handover::Predecessor;

    fn sockets() -> Arc<Sockets> {
        let text = "[[listeners]]\naddress = '127.0.0.1:0'\n[[clusters]]\nname = 'c'\nendpoints = ['127.0.0.1:1']\n";
        let config = config::Gateway::parse(text).expect("a right configuration");
        Arc::new(Sockets::open(&config, Vec::new()).expect("a free port"))
    }

    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let unique = format!("forebay-{name}-{}", std::process::id());
            Self(std::env::temp_dir().join(unique))
        }

        fn open(&self, sockets: &Arc<Sockets>) -> oneshot::Receiver<()> {
            let (sender, receiver) = oneshot::channel();
            let door = Door::build(&self.0).expect("a door");
            assert_eq!(door.open(sockets.clone(), sender), Some(self.0.clone()));
            receiver
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn only_a_successor_that_serves_relieves() {
        let place = Place::new("relieves");
        let sockets = sockets();
        let mut taken_over = place.open(&sockets);
        assert!(Predecessor::is_there(&place.0));
        // One that dies, one that talks nonsense, one that was made for another version.
        let (dying, given) = Predecessor::ask(&place.0).expect("sockets");
        assert_eq!(given.len(), 1);
        drop((dying, given));
        for message in [
            Message::Serving,
            Message::Ask {
                version: VERSION + 1,
            },
        ] {
            let link = Link::connect(&place.0).expect("connected");
            link.send(&message, None).expect("sent");
            let (answer, _) = link.receive().expect("received").expect("an answer");
            assert!(matches!(answer, Message::Refused { .. }), "{answer:?}");
        }
        let (right, given) = Predecessor::ask(&place.0).expect("sockets");
        let address = sockets.listener("listener-1").expect("it listens").0;
        assert_eq!(given[0].address(), address);
        assert!(taken_over.try_recv().is_err());
        right.relieve().expect("relieved");
        taken_over.blocking_recv().expect("taken over");
        assert!(!Predecessor::is_there(&place.0));
    }

    #[test]
    fn a_gateway_that_drains_gives_nothing() {
        let place = Place::new("drains");
        let sockets = sockets();
        let _taken_over = place.open(&sockets);
        sockets.close();
        let error = Predecessor::ask(&place.0).err().expect("an error");
        assert!(format!("{error:#}").contains("drains"), "{error:#}");
    }

    #[test]
    fn a_door_that_is_not_opened_leaves_nothing_behind() {
        let place = Place::new("unopened");
        let door = Door::build(&place.0).expect("a door");
        let beside = door.beside.clone();
        let mode = beside.metadata().expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "nobody else may ask");
        assert!(!place.0.exists());
        drop(door);
        assert!(!beside.exists());
        std::fs::write(&place.0, "precious").expect("written");
        for path in [&place.0, Path::new("/nonexistent/forebay/upgrade")] {
            let error = Door::build(path).err().expect("an error");
            assert!(error.to_string().contains("upgrade_socket"), "{error}");
        }
        assert_eq!(std::fs::read(&place.0).expect("still there"), b"precious");
    }
}
