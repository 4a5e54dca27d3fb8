//! Telling a service manager how things stand: one datagram to the socket that `NOTIFY_SOCKET` names (sd_notify(3)).
//!
//! After an upgrade another process is the service. Who manages it has to be told, or it takes the end of the former
//! one for the end of the service.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// This process serves, and is the service from now on.
pub fn ready() {
    tell(&format!("READY=1\nMAINPID={}", std::process::id()));
}

/// The service ends, on purpose.
pub fn stopping() {
    tell("STOPPING=1");
}

/// Nothing where nobody asked to be told.
fn tell(state: &str) {
    if let Some(socket) = std::env::var_os("NOTIFY_SOCKET")
        && let Err(error) = send(&socket, state)
    {
        log::warn!("the service manager at {socket:?} cannot be told: {error}");
    }
}

fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    // A name that begins with @ is one of Linux's abstract ones.
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_names_are_reached() {
        let name = format!("forebay-notify-{}", std::process::id());
        let path = std::env::temp_dir().join(&name);
        let by_path = UnixDatagram::bind(&path).expect("a free path");
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let by_name = UnixDatagram::bind_addr(&address).expect("a free name");
        send(path.as_os_str(), "A=1").expect("sent");
        send(OsStr::new(&format!("@{name}")), "B=2").expect("sent");
        let mut received = [0; 16];
        for (socket, state) in [(by_path, b"A=1"), (by_name, b"B=2")] {
            let length = socket.recv(&mut received).expect("received");
            assert_eq!(&received[..length], state);
        }
        std::fs::remove_file(&path).expect("removed");
        assert!(send(path.as_os_str(), "C=3").is_err());
    }
}
