//! `[redis]`, and what relies on it.

use std::time::Duration;

use super::{Keys, Read, Table, Value, address, cluster};
use crate::defaults;
use crate::gateway::{Redis, RedisTls};

const KEYS: Keys = &[
    "address",
    "username",
    "password_file",
    "database",
    "prefix",
    "timeout",
    "tls",
];
const TLS_KEYS: Keys = &["ca", "certificate", "key"];

const ADDRESS: &str = r#"host:port of the Redis server, such as "redis:6379""#;
const PREFIX: &str = "1 to 64 letters, digits, dots, hyphens or underscores";

const SHORTEST_TIMEOUT: Duration = Duration::from_millis(1);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(1);
const HIGHEST_DATABASE: u32 = 65_535;

pub(super) fn redis(root: &Table<'_>) -> Read<Option<Redis>> {
    root.optional("redis", |value| {
        let table = value.table(KEYS)?;
        let address = table.required("address", ADDRESS, |value| {
            let text = value.string(ADDRESS)?;
            match address::host_and_port(text) {
                Ok((host, port)) => Ok((host.trim_matches(['[', ']']).to_owned(), port)),
                Err(expected) => value.wrong(expected),
            }
        });
        let password_file = table.optional("password_file", |value| value.file());
        let username = table.optional("username", |value| {
            let name = value.string_that("the name of a user", |name| !name.is_empty())?;
            match password_file {
                Ok(None) => value.wrong("a password_file beside it, or no username"),
                _ => Ok(name.to_owned()),
            }
        });
        let database = table.or("database", 0, |value| value.integer(0..=HIGHEST_DATABASE));
        let prefix = table.or("prefix", defaults::REDIS_PREFIX.to_owned(), |value| {
            let is_prefix = |text: &str| {
                (1..=64).contains(&text.len())
                    && text
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
            };
            value.string_that(PREFIX, is_prefix).map(str::to_owned)
        });
        let timeout = table.or("timeout", defaults::REDIS_TIMEOUT, |value| {
            value.duration(SHORTEST_TIMEOUT..=LONGEST_TIMEOUT)
        });
        let tls = tls(&table);
        let (host, port) = address?;
        Ok(Redis {
            host,
            port,
            username: username?,
            password_file: password_file?,
            database: database?,
            prefix: prefix?,
            timeout: timeout?,
            tls: tls?,
        })
    })
}

fn tls(redis: &Table<'_>) -> Read<Option<RedisTls>> {
    if redis.get("tls").is_none() {
        return Ok(None);
    }
    let Some(table) = redis.switch("tls", TLS_KEYS)? else {
        return Ok(None);
    };
    let ca = table.optional("ca", |value| value.file());
    let identity = cluster::identity(&table);
    Ok(Some(RedisTls {
        ca: ca?,
        identity: identity?,
    }))
}

/// Nothing can be shared without a place to share it in.
pub(super) fn is_there_for(root: &Table<'_>, shared: &Value<'_>) -> Read<()> {
    match root.get("redis") {
        Some(_) => Ok(()),
        None => shared.wrong("a [redis] table that says where, or false"),
    }
}
