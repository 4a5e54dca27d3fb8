//! The root of a worker configuration.

use std::net::SocketAddr;
use std::time::Duration;

use super::{
    Keys, Read, Table, Value, address, document, model, names, pipeline, repository, security,
    telemetry,
};
use crate::defaults;
use crate::problem::Problems;
use crate::worker::Worker;

const KEYS: Keys = &[
    "repository",
    "listen",
    "http_listen",
    "tls",
    "repository_token_file",
    "model_control",
    "poll_interval",
    "load_at_start",
    "memory_budget",
    "onnxruntime",
    "threads",
    "max_message_size",
    "max_body_memory",
    "drain_timeout",
    "telemetry",
    "defaults",
    "models",
];

/// Protobuf refuses messages of 2 GiB and more.
const LARGEST_MESSAGE: u64 = 2047 << 20;
const SMALLEST_BUDGET: u64 = 1 << 20;
const LARGEST_BUDGET: u64 = 1 << 50;
const LONGEST_DRAIN: Duration = Duration::from_secs(24 * 3600);

pub(crate) fn worker(text: &str) -> Result<Worker, Problems> {
    document::read(text, KEYS, root)
}

fn root(table: &Table<'_>) -> Read<Worker> {
    let repository = table.required(
        "repository",
        r#"the path of the model repository, such as "/models""#,
        |value| value.file(),
    );
    let default = defaults::worker(repository.clone().unwrap_or_default());
    let listen = table.or("listen", default.listen, |value| {
        address::socket_address(&value)
    });
    let http_listen = table.or("http_listen", default.http_listen, |value| {
        http_listen(&value)
    });
    let apart = addresses_apart(table, listen, http_listen);
    let tls = security::tls(table);
    let repository_token_file = table.optional("repository_token_file", |value| value.file());
    let model_control = repository::model_control(table);
    let memory_budget_bytes = table.optional("memory_budget", |value| {
        value.bytes(SMALLEST_BUDGET..=LARGEST_BUDGET)
    });
    let onnxruntime = table.optional("onnxruntime", |value| value.file());
    let threads = table.optional("threads", |value| value.integer(1..=1024));
    let max_message_bytes = table.or("max_message_size", default.max_message_bytes, |value| {
        value.bytes(1024..=LARGEST_MESSAGE)
    });
    let max_body_bytes = table.or("max_body_memory", default.max_body_bytes, |value| {
        value.bytes(SMALLEST_BUDGET..=LARGEST_BUDGET)
    });
    let room = room_for_a_message(table, max_body_bytes, max_message_bytes);
    let drain_timeout = table.or("drain_timeout", default.drain_timeout, |value| {
        value.duration(Duration::ZERO..=LONGEST_DRAIN)
    });
    let telemetry = telemetry::telemetry(table, defaults::WORKER_SERVICE_NAME);
    let model_defaults = model::defaults(table);
    let base = model_defaults.clone().unwrap_or_default();
    let models = model::models(table, &base);
    let ensembles = pipeline::ensembles(table, &base);
    apart?;
    room?;
    Ok(Worker {
        listen: listen?,
        http_listen: http_listen?,
        tls: tls?,
        repository_token_file: repository_token_file?,
        model_control: model_control?,
        memory_budget_bytes: memory_budget_bytes?,
        onnxruntime: onnxruntime?,
        threads: threads?,
        max_message_bytes: max_message_bytes?,
        max_body_bytes: max_body_bytes?,
        drain_timeout: drain_timeout?,
        telemetry: telemetry?,
        defaults: model_defaults?,
        models: models?,
        ensembles: ensembles?,
        repository: repository?,
    })
}

fn http_listen(value: &Value<'_>) -> Read<Option<SocketAddr>> {
    match value.as_bool() {
        Some(false) => Ok(None),
        Some(true) => value
            .wrong(r#"an IP address and a port, such as "0.0.0.0:8000", or false to turn it off"#),
        None => address::socket_address(value).map(Some),
    }
}

/// A message that is allowed must not be refused whatever else there is. The default has room for the largest.
fn room_for_a_message(root: &Table<'_>, bodies: Read<u64>, message: Read<u64>) -> Read<()> {
    match (root.get("max_body_memory"), bodies, message) {
        (Some(written), Ok(bodies), Ok(message)) if bodies < message => {
            written.wrong(format!("at least max_message_size ({message} bytes)"))
        }
        _ => Ok(()),
    }
}

/// Told where it is written; of the two, either may be a default.
fn addresses_apart(
    root: &Table<'_>,
    listen: Read<SocketAddr>,
    http_listen: Read<Option<SocketAddr>>,
) -> Read<()> {
    let (Ok(listen), Ok(Some(http_listen))) = (listen, http_listen) else {
        return Ok(());
    };
    if !address::overlap(listen, http_listen) {
        return Ok(());
    }
    let told = |written: Value<'_>, other, address| {
        written.wrong(names::taken("an address", format!("{other} ({address})")))
    };
    match (root.get("http_listen"), root.get("listen")) {
        (Some(written), _) => told(written, "listen", listen),
        (None, Some(written)) => told(written, "http_listen", http_listen),
        (None, None) => Ok(()),
    }
}
