//! `[clusters.discovery.kubernetes]`.

use super::{Keys, Read, Value};
use crate::gateway::{DiscoverySource, Kubernetes};

const KEYS: Keys = &["service", "namespace", "port", "kubeconfig"];

const SERVICE: &str = r#"the name of a service, such as "workers""#;
const NAMESPACE: &str = r#"the name of a namespace, such as "inference""#;
const PORT: &str = r#"the name of a port of the service, such as "grpc""#;

pub(super) fn kubernetes(value: &Value<'_>) -> Read<DiscoverySource> {
    let table = value.table(KEYS)?;
    let service = table.required("service", SERVICE, |value| label(&value, SERVICE));
    let namespace = table.optional("namespace", |value| label(&value, NAMESPACE));
    let port = table.optional("port", |value| label(&value, PORT));
    let kubeconfig = table.optional("kubeconfig", |value| value.file());
    Ok(DiscoverySource::Kubernetes(Kubernetes {
        service: service?,
        namespace: namespace?,
        port: port?,
        kubeconfig: kubeconfig?,
    }))
}

/// What Kubernetes lets such names be (RFC 1123, in small letters).
fn label(value: &Value<'_>, expected: &str) -> Read<String> {
    let is_label = |text: &str| {
        (1..=63).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !text.starts_with('-')
            && !text.ends_with('-')
    };
    value.string_that(expected, is_label).map(str::to_owned)
}
