//! Hosts, `host:port`, socket addresses and URLs.
//!
//! Only the form is looked at: whether a name resolves is the shell's to find out. Host names follow
//! RFC 1123 (letters, digits, hyphens, 63 octets a label, 253 in all) and may also hold underscores, which
//! container networks use.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::{Read, Value};

const SOCKET_ADDRESS: &str = r#"an IP address and a port, such as "0.0.0.0:8080" or "[::]:8080" (port 0: the kernel chooses one)"#;

/// Where to listen: never a name, and port 0 is allowed.
pub(super) fn socket_address(value: &Value<'_>) -> Read<SocketAddr> {
    socket_address_of(value, SOCKET_ADDRESS)
}

/// An IP address and a port, called `expected` when it is none.
pub(super) fn socket_address_of(value: &Value<'_>, expected: &str) -> Read<SocketAddr> {
    let text = value.string(expected)?;
    text.parse().or_else(|_| value.wrong(expected))
}

/// Both cannot be listened on by one process. `[::]` and `0.0.0.0` may well share a port: whether an IPv6
/// socket takes IPv4 too is up to the system.
pub(super) fn overlap(left: SocketAddr, right: SocketAddr) -> bool {
    let same_family = left.is_ipv4() == right.is_ipv4();
    let same_host =
        left.ip() == right.ip() || left.ip().is_unspecified() || right.ip().is_unspecified();
    left.port() != 0 && left.port() == right.port() && same_family && same_host
}

/// `host:port` to connect to; the error is what would be right.
pub(super) fn host_and_port(text: &str) -> Result<(&str, u16), &'static str> {
    if text.contains("://") {
        return Err(r#"host:port without a scheme, such as "10.0.0.7:8001""#);
    }
    let (host, port) = text
        .rsplit_once(':')
        .ok_or(r#"a port as well, such as "10.0.0.7:8001""#)?;
    if host.contains(':') && !host.starts_with('[') {
        return Err(r#"an IPv6 address in brackets and a port, such as "[::1]:8001""#);
    }
    if !is_host(host) {
        return Err(
            r#"host:port, the host being a name or an IP address, such as "worker-1:8001""#,
        );
    }
    match port.parse() {
        Ok(number) if number > 0 && port.bytes().all(|byte| byte.is_ascii_digit()) => {
            Ok((host, number))
        }
        _ => Err("host:port with a port from 1 to 65535"),
    }
}

/// A name, an IPv4 address, or an IPv6 address in brackets.
pub(super) fn is_host(text: &str) -> bool {
    match text.strip_prefix('[') {
        Some(rest) => rest
            .strip_suffix(']')
            .is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()),
        None => {
            is_name(text)
                || text
                    .parse::<IpAddr>()
                    .is_ok_and(|address| address.is_ipv4())
        }
    }
}

pub(super) fn is_name(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // A last label of digits alone makes it a (malformed) IPv4 address and no name.
    let last_is_numeric = text
        .rsplit('.')
        .next()
        .is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    text.len() <= 253 && text.split('.').all(is_label) && !last_is_numeric
}

/// `http://host:port` with or without a path; yields port and path (`""` or `/…`).
pub(super) fn plain_url(text: &str) -> Option<(u16, &str)> {
    let rest = text.strip_prefix("http://")?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (_, port) = host_and_port(authority).ok()?;
    path.bytes()
        .all(|byte| byte.is_ascii_graphic())
        .then_some((port, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        for (text, host, port) in [
            ("127.0.0.1:8001", "127.0.0.1", 8001),
            ("worker-1:80", "worker-1", 80),
            (
                "my_worker.default.svc:65535",
                "my_worker.default.svc",
                65535,
            ),
            ("[::1]:1", "[::1]", 1),
        ] {
            assert_eq!(host_and_port(text), Ok((host, port)), "{text}");
        }
        for text in [
            "",
            ":",
            ":80",
            "host",
            "host:",
            "host:0",
            "host:+80",
            "host:65536",
            "host:8a",
            "::1:80",
            "[::1]",
            "[::1:80",
            "[worker]:80",
            "http://host:80",
            "a b:80",
            "-a:80",
            "a..b:80",
            "1.2.3:80",
            "256.1.1.1:80",
            "hôte:80",
        ] {
            assert!(host_and_port(text).is_err(), "{text}");
        }
    }

    #[test]
    fn overlapping_listeners() {
        let overlap = |left: &str, right: &str| {
            super::overlap(
                left.parse().expect("an address"),
                right.parse().expect("an address"),
            )
        };
        assert!(overlap("127.0.0.1:80", "127.0.0.1:80"));
        assert!(overlap("0.0.0.0:80", "127.0.0.1:80"));
        assert!(overlap("[::1]:80", "[::]:80"));
        assert!(!overlap("[::]:80", "0.0.0.0:80"));
        assert!(!overlap("127.0.0.1:80", "127.0.0.2:80"));
        assert!(!overlap("0.0.0.0:80", "0.0.0.0:81"));
        assert!(!overlap("0.0.0.0:0", "0.0.0.0:0"));
    }

    #[test]
    fn urls() {
        assert_eq!(plain_url("http://jaeger:4318"), Some((4318, "")));
        assert_eq!(
            plain_url("http://[::1]:4318/v1/traces"),
            Some((4318, "/v1/traces"))
        );
        for text in [
            "jaeger:4318",
            "https://jaeger:4318",
            "http://jaeger",
            "http://jaeger:4318/a b",
            "http://:4318",
        ] {
            assert_eq!(plain_url(text), None, "{text}");
        }
    }
}
