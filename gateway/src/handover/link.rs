//! What the two processes say to each other, and how it is carried: a message of JSON each, a socket beside it at most.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::sockets::Label;

/// Of the messages below. A process that hears another number refuses.
pub const VERSION: u32 = 1;
/// Longer than any message.
const LONGEST: usize = 4096;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// The new one: let me have the sockets.
    Ask { version: u32 },
    /// The old one: here is one of them.
    Socket(Label),
    /// The old one: that was all.
    End,
    /// The new one: I accept connections.
    Serving,
    /// The old one: then I do no more.
    Draining,
    /// The old one: I go on, and you may not.
    Refused { reason: String },
}

/// One conversation. Messages keep their bounds, and each its own socket.
pub struct Link(Socket);

impl Link {
    pub fn socket() -> io::Result<Socket> {
        Socket::new(Domain::UNIX, Type::SEQPACKET, None)
    }

    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket = Self::socket()?;
        socket.connect(&SockAddr::unix(path)?)?;
        Ok(Self(socket))
    }

    pub fn new(socket: Socket) -> Self {
        Self(socket)
    }

    /// How long each further message may take.
    pub fn set_patience(&self, patience: Duration) -> io::Result<()> {
        self.0.set_read_timeout(Some(patience))?;
        self.0.set_write_timeout(Some(patience))
    }

    pub fn send(&self, message: &Message, socket: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let sockets = socket.as_slice();
        if !sockets.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(sockets));
        }
        // Without NOSIGNAL a peer that is gone would end this process.
        sendmsg(
            &self.0,
            &[IoSlice::new(&text)],
            &mut control,
            SendFlags::NOSIGNAL,
        )?;
        Ok(())
    }

    /// The next message; None: the other side is gone.
    pub fn receive(&self) -> io::Result<Option<(Message, Option<OwnedFd>)>> {
        let mut text = [0; LONGEST];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            &self.0,
            &mut [IoSliceMut::new(&mut text)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        let socket = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
            _ => None,
        });
        if received.bytes == 0 {
            return Ok(None);
        }
        if received
            .flags
            .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
        {
            return Err(io::Error::other("a message is longer than any should be"));
        }
        let message = serde_json::from_slice(&text[..received.bytes])
            .map_err(|_| io::Error::other("it says what this version does not understand"))?;
        Ok(Some((message, socket)))
    }
}

/// Nothing came in time.
pub fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener};
    use std::os::fd::AsFd;

    use super::*;
    use crate::sockets::Role;

    fn pair() -> (Link, Link) {
        let (left, right) =
            Socket::pair(Domain::UNIX, Type::SEQPACKET, None).expect("a pair of sockets");
        (Link(left), Link(right))
    }

    #[test]
    fn each_message_brings_its_own_socket() {
        let (left, right) = pair();
        let listeners = [0, 0].map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let label = |name: &str| Label {
            role: Role::Listener,
            name: name.to_owned(),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        for (name, listener) in ["a", "b"].iter().zip(&listeners) {
            left.send(&Message::Socket(label(name)), Some(listener.as_fd()))
                .expect("sent");
        }
        left.send(&Message::End, None).expect("sent");
        drop(left);
        for (name, listener) in ["a", "b"].iter().zip(&listeners) {
            let (message, socket) = right.receive().expect("received").expect("a message");
            assert_eq!(message, Message::Socket(label(name)));
            let received = TcpListener::from(socket.expect("a socket"));
            assert_eq!(
                received.local_addr().expect("an address"),
                listener.local_addr().expect("an address")
            );
        }
        let (message, socket) = right.receive().expect("received").expect("a message");
        assert!(message == Message::End && socket.is_none());
        assert!(right.receive().expect("received").is_none());
    }

    #[test]
    fn silence_is_told_from_nonsense() {
        let (left, right) = pair();
        right.set_patience(Duration::from_millis(1)).expect("set");
        assert!(is_timeout(&right.receive().expect_err("nothing was said")));
        left.0.send(b"{\"dance\":{}}").expect("sent");
        let error = right.receive().expect_err("not understood");
        assert!(error.to_string().contains("does not understand"), "{error}");
        left.0.send(&vec![b' '; 2 * LONGEST]).expect("sent");
        let error = right.receive().expect_err("too long");
        assert!(error.to_string().contains("longer"), "{error}");
        drop(right);
        assert!(left.send(&Message::End, None).is_err());
    }
}
