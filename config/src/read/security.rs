//! `[tls]` of the worker.

use super::{Keys, Read, Table};
use crate::worker::WorkerTls;

const KEYS: Keys = &["certificate", "key", "client_ca"];

pub(super) fn tls(root: &Table<'_>) -> Read<Option<WorkerTls>> {
    root.optional("tls", |value| {
        let table = value.table(KEYS)?;
        let certificate = table.required(
            "certificate",
            "the path of a PEM file, leaf certificate first",
            |value| value.file(),
        );
        let key = table.required(
            "key",
            "the path of a PEM file with the private key",
            |value| value.file(),
        );
        let client_ca = table.optional("client_ca", |value| value.file());
        Ok(WorkerTls {
            certificate: certificate?,
            key: key?,
            client_ca: client_ca?,
        })
    })
}
