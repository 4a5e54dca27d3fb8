//! `[clusters.discovery.etcd]`.

use super::server::{self, SERVER};
use super::{Keys, Read, Table, Value, all, names};
use crate::gateway::{DiscoverySource, Etcd, Login};

const KEYS: Keys = &["servers", "prefix", "user", "password_file", "tls"];

const SERVERS: &str = r#"members of an etcd cluster, such as ["etcd-1:2379", "etcd-2:2379"]"#;
const PREFIX: &str = r#"what the keys of the endpoints begin with, such as "/forebay/workers/""#;
const USER: &str = "the name of a user of etcd";
const PASSWORD_FILE: &str = "the path of a file with the user's password";

pub(super) fn etcd(value: &Value<'_>) -> Read<DiscoverySource> {
    let table = value.table(KEYS)?;
    let expected = format!("an array of {SERVERS}");
    let servers = table.required("servers", &expected, |value| servers(&value));
    let prefix = table.required("prefix", PREFIX, |value| {
        value.string_that(PREFIX, |text| !text.is_empty())
    });
    let login = login(&table);
    let tls = table.optional("tls", |value| server::tls(&value));
    Ok(DiscoverySource::Etcd(Etcd {
        servers: servers?,
        prefix: prefix?.to_owned(),
        login: login?,
        tls: tls?,
    }))
}

fn servers(value: &Value<'_>) -> Read<Vec<String>> {
    let items = value.array(SERVERS)?;
    if items.is_empty() {
        return value.wrong(format!("an array of {SERVERS}"));
    }
    let read = all(items.iter().map(|item| server::address(item, SERVER)));
    let written = items
        .iter()
        .filter_map(|item| Some((item.clone(), item.as_str()?.to_ascii_lowercase())));
    names::unique("an address", written).and(read)
}

/// Both keys or neither.
fn login(table: &Table<'_>) -> Read<Option<Login>> {
    let user = table.optional("user", |value| {
        value.string_that(USER, |text| !text.is_empty())
    });
    let password_file = table.optional("password_file", |value| value.file());
    match (user?, password_file?) {
        (None, None) => Ok(None),
        (Some(user), Some(password_file)) => Ok(Some(Login {
            user: user.to_owned(),
            password_file,
        })),
        (Some(_), None) => Err(table.missing("password_file", PASSWORD_FILE)),
        (None, Some(_)) => Err(table.missing("user", USER)),
    }
}
