//! The listening sockets of this process: opened here, or taken over from the gateway that ran before.
//!
//! Every address is bound before anything is served, so that one that is taken is an error with a name. The sockets
//! are kept besides where connections are accepted, for whichever gateway comes next (`handover`): both processes then
//! hold the same socket and the same queue of connections, and none that waits in it is lost.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};

use anyhow::Context;
use forebay_config::gateway as config;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

/// Connections that may wait to be accepted; the system's `net.core.somaxconn` lowers it.
const BACKLOG: i32 = 65_535;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Listener,
    Admin,
}

/// What a socket is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    pub role: Role,
    /// The listener's; empty for admin.
    pub name: String,
    /// As configured: with port 0 where the kernel chose one.
    pub address: SocketAddr,
}

pub struct Listening {
    pub label: Label,
    socket: TcpListener,
}

/// All of them, until they are closed.
pub struct Sockets(Mutex<Option<Vec<Listening>>>);

impl Label {
    /// Whether a socket that was opened for `former` serves for this: a fixed port is the same whatever it was called;
    /// a port that the kernel chose has nothing but its name.
    fn is_served_by(&self, former: &Self) -> bool {
        let same_name = (self.role, &self.name) == (former.role, &former.name);
        self.address == former.address && (self.address.port() != 0 || same_name)
    }
}

impl Listening {
    pub fn new(label: Label, socket: OwnedFd) -> Self {
        let socket = TcpListener::from(socket);
        Self { label, socket }
    }

    fn open(label: Label) -> anyhow::Result<Self> {
        let address = label.address;
        let bind = || -> io::Result<TcpListener> {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            socket.set_nonblocking(true)?;
            Ok(TcpListener::from(socket))
        };
        let socket = bind().with_context(|| match label.role {
            Role::Listener => format!("listener '{}' cannot listen on {address}", label.name),
            Role::Admin => format!("admin cannot listen on {address}"),
        });
        Ok(Self {
            socket: socket?,
            label,
        })
    }

    /// The address with its final port.
    pub fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap_or(self.label.address)
    }
}

impl AsFd for Listening {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Sockets {
    /// One for each listener and for admin; of `inherited`, those that still serve, and the others are closed.
    ///
    /// # Errors
    /// The first address that cannot be listened on.
    pub fn open(config: &config::Gateway, mut inherited: Vec<Listening>) -> anyhow::Result<Self> {
        let open = labels(config).map(|label| {
            let former = inherited
                .iter()
                .position(|former| label.is_served_by(&former.label));
            match former {
                Some(index) => Ok(Listening {
                    label,
                    socket: inherited.swap_remove(index).socket,
                }),
                None => Listening::open(label),
            }
        });
        Ok(Self(Mutex::new(Some(open.collect::<Result<_, _>>()?))))
    }

    /// A second handle of a listener's socket, for whoever accepts; and its address.
    pub fn listener(&self, name: &str) -> anyhow::Result<(SocketAddr, RawFd)> {
        self.find(Role::Listener, name)?
            .map(|(address, socket)| (address, socket.into_raw_fd()))
            .with_context(|| format!("listener '{name}' has no socket"))
    }

    /// The same for admin; None: there is none.
    pub fn admin(&self) -> anyhow::Result<Option<TcpListener>> {
        Ok(self.find(Role::Admin, "")?.map(|(_, socket)| socket))
    }

    fn find(&self, role: Role, name: &str) -> anyhow::Result<Option<(SocketAddr, TcpListener)>> {
        let open = self.0.lock();
        let found = open.iter().flatten().find(|listening| {
            listening.label.role == role && (role == Role::Admin || listening.label.name == name)
        });
        let Some(listening) = found else {
            return Ok(None);
        };
        let socket = listening.socket.try_clone();
        let socket = socket.context("a listening socket cannot be duplicated")?;
        Ok(Some((listening.address(), socket)))
    }

    /// What a successor gets. None: they are closed, this process does not accept any more.
    pub fn with<T>(&self, give: impl FnOnce(&[Listening]) -> T) -> Option<T> {
        self.0.lock().as_deref().map(give)
    }

    /// Gives these handles up. A port is closed with its last handle, whichever process has it.
    pub fn close(&self) {
        *self.0.lock() = None;
    }

    /// `NAME=ADDRESS` of each listener in its order, then of admin (`-` if there is none).
    pub fn describe(&self) -> String {
        let open = self.0.lock();
        let mut listeners = String::new();
        let mut admin = "-".to_owned();
        for listening in open.iter().flatten() {
            let address = listening.address();
            match listening.label.role {
                Role::Listener => {
                    listeners.push_str(&format!("{}={address} ", listening.label.name))
                }
                Role::Admin => admin = address.to_string(),
            }
        }
        format!("{listeners}admin={admin}")
    }
}

fn labels(config: &config::Gateway) -> impl Iterator<Item = Label> {
    let listeners = config.listeners.iter().map(|listener| Label {
        role: Role::Listener,
        name: listener.name.clone(),
        address: listener.address,
    });
    let admin = config.admin.map(|address| Label {
        role: Role::Admin,
        name: String::new(),
        address,
    });
    listeners.chain(admin)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> config::Gateway {
        let cluster = "[[clusters]]\nname = 'c'\nendpoints = ['127.0.0.1:1']\n";
        config::Gateway::parse(&format!("{text}{cluster}")).expect("a right configuration")
    }

    fn listener(name: &str, address: SocketAddr) -> String {
        format!("[[listeners]]\nname = '{name}'\naddress = '{address}'\n")
    }

    /// Other handles of the same sockets, as another process would have them.
    fn hand_over(sockets: &Sockets) -> Vec<Listening> {
        sockets
            .with(|open| {
                let copy = |listening: &Listening| {
                    let socket = listening.as_fd().try_clone_to_owned();
                    Listening::new(
                        listening.label.clone(),
                        socket.expect("a duplicate of a socket"),
                    )
                };
                open.iter().map(copy).collect()
            })
            .expect("open sockets")
    }

    fn any() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    #[test]
    fn a_socket_serves_the_same_address_or_the_same_name() {
        let label = |role, name: &str, port| Label {
            role,
            name: name.to_owned(),
            address: SocketAddr::from(([127, 0, 0, 1], port)),
        };
        let cases = [
            (
                label(Role::Listener, "a", 80),
                label(Role::Listener, "b", 80),
                true,
            ),
            (
                label(Role::Admin, "", 80),
                label(Role::Listener, "b", 80),
                true,
            ),
            (
                label(Role::Listener, "a", 80),
                label(Role::Listener, "a", 81),
                false,
            ),
            (
                label(Role::Listener, "a", 0),
                label(Role::Listener, "a", 0),
                true,
            ),
            (
                label(Role::Listener, "a", 0),
                label(Role::Listener, "b", 0),
                false,
            ),
            (
                label(Role::Listener, "", 0),
                label(Role::Admin, "", 0),
                false,
            ),
        ];
        for (wanted, former, served) in cases {
            assert_eq!(
                wanted.is_served_by(&former),
                served,
                "{wanted:?} {former:?}"
            );
        }
    }

    #[test]
    fn what_is_inherited_keeps_its_port_and_what_is_new_gets_one() {
        let first = listener("a", any()) + &listener("gone", any());
        let former = Sockets::open(&config(&first), Vec::new()).expect("free ports");
        let (address, _) = former.listener("a").expect("it listens");
        let (gone, _) = former.listener("gone").expect("it listens");
        let inherited = hand_over(&former);
        let second =
            listener("new", any()) + &listener("a", any()) + "[admin]\nlisten = '127.0.0.1:0'\n";
        let sockets = Sockets::open(&config(&second), inherited).expect("free ports");
        assert_eq!(sockets.listener("a").expect("it listens").0, address);
        let new = sockets.listener("new").expect("it listens").0;
        assert!(new != address && new != gone, "{new}");
        assert!(sockets.admin().expect("a duplicate").is_some());
        assert!(sockets.listener("gone").is_err());
        let described = sockets.describe();
        assert!(
            described.starts_with(&format!("new={new} a={address} admin=127.0.0.1:")),
            "{described}"
        );
        sockets.close();
        assert!(sockets.with(|_| ()).is_none());
        assert!(sockets.listener("a").is_err());
    }
}
