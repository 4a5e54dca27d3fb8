//! What is asked of Consul's health endpoint, and what its answer says. (Source: Consul's HTTP API, "Health", and "Blocking
//! queries".)

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use forebay_config::gateway::{Consul, Endpoint};
use serde::Deserialize;

/// Consul's weights reach further than those of endpoints.
const HEAVIEST: u64 = 1000;

#[derive(Debug, PartialEq, Eq)]
pub struct Catalog {
    /// Sorted by address, none twice.
    pub endpoints: Vec<Endpoint>,
    /// Instances that are left out, and why.
    pub wrong: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Instance {
    node: Node,
    service: Service,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    address: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Service {
    #[serde(rename = "ID")]
    id: String,
    /// Empty: that of the node.
    address: String,
    port: u16,
    weights: Option<Weights>,
    /// Null in old versions where there is none.
    #[serde(default)]
    meta: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Weights {
    passing: u64,
}

/// Path and query; `index` 0: for an answer at once.
pub fn query(settings: &Consul, index: u64, wait: Duration) -> String {
    let mut query = format!(
        "/v1/health/service/{}?passing=true",
        encoded(&settings.service)
    );
    if let Some(datacenter) = &settings.datacenter {
        query.push_str(&format!("&dc={}", encoded(datacenter)));
    }
    for tag in &settings.tags {
        query.push_str(&format!("&tag={}", encoded(tag)));
    }
    if index > 0 {
        query.push_str(&format!("&index={index}&wait={}s", wait.as_secs()));
    }
    query
}

/// The index of the next query. One that went back means that the store was set back: whatever there is is news. One
/// that is missing would make every query blocking or none.
pub fn next_index(before: u64, told: Option<&str>) -> u64 {
    match told.and_then(|told| told.parse().ok()) {
        Some(index) if index < before => 0,
        Some(index) => index,
        None => 0,
    }
}

/// The body of an answer.
pub fn read(body: &[u8]) -> Result<Catalog, String> {
    let instances: Vec<Instance> = serde_json::from_slice(body)
        .map_err(|error| format!("its answer is no list of instances: {error}"))?;
    let mut by_address: BTreeMap<String, Endpoint> = BTreeMap::new();
    let mut wrong = Vec::new();
    for Instance { node, service } in instances {
        let host = match service.address.as_str() {
            "" => node.address,
            _ => service.address,
        };
        let weight = service.weights.map(|weights| weights.passing);
        let weight = weight.filter(|weight| (1..=HEAVIEST).contains(weight));
        // What does not fit a label has another purpose.
        let mut labels = service.meta.unwrap_or_default();
        labels.retain(|name, value| Endpoint::check_label(name, value).is_ok());
        let endpoint = Endpoint::named(&with_port(&host, service.port), weight);
        match endpoint.and_then(|endpoint| endpoint.with_labels(labels)) {
            Ok(endpoint) => {
                by_address.insert(endpoint.address.clone(), endpoint);
            }
            Err(expected) => wrong.push(format!(
                "instance '{}' is left out: '{host}' with port {} is no {expected}",
                service.id, service.port
            )),
        }
    }
    Ok(Catalog {
        endpoints: by_address.into_values().collect(),
        wrong,
    })
}

fn with_port(host: &str, port: u16) -> String {
    match host.parse() {
        Ok(IpAddr::V6(address)) => format!("[{address}]:{port}"),
        _ => format!("{host}:{port}"),
    }
}

/// As part of a path or a query (RFC 3986, section 2.3: only unreserved characters stand for themselves).
fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Consul {
        Consul {
            server: "127.0.0.1:8500".to_owned(),
            service: "workers".to_owned(),
            tags: Vec::new(),
            datacenter: None,
            token_file: None,
            tls: None,
        }
    }

    #[test]
    fn queries_are_encoded_and_block_once_there_is_an_index() {
        let wait = Duration::from_secs(30);
        assert_eq!(
            query(&settings(), 0, wait),
            "/v1/health/service/workers?passing=true"
        );
        let more = Consul {
            service: "a b/c".to_owned(),
            tags: vec!["v2".to_owned(), "x&y".to_owned()],
            datacenter: Some("dc1".to_owned()),
            ..settings()
        };
        assert_eq!(
            query(&more, 7, wait),
            "/v1/health/service/a%20b%2Fc?passing=true&dc=dc1&tag=v2&tag=x%26y&index=7&wait=30s"
        );
    }

    #[test]
    fn an_index_that_goes_back_or_lacks_starts_anew() {
        assert_eq!(next_index(0, Some("7")), 7);
        assert_eq!(next_index(7, Some("7")), 7);
        assert_eq!(next_index(7, Some("6")), 0);
        assert_eq!(next_index(7, Some("many")), 0);
        assert_eq!(next_index(7, None), 0);
    }

    fn instance(id: &str, node: &str, address: &str, port: u16, weight: u64) -> String {
        format!(
            r#"{{"Node": {{"Node": "n", "Address": "{node}"}}, "Checks": [],
                "Service": {{"ID": "{id}", "Service": "workers", "Tags": [], "Address": "{address}",
                             "Port": {port}, "Weights": {{"Passing": {weight}, "Warning": 1}}}}}}"#
        )
    }

    #[test]
    fn addresses_and_weights_of_instances() {
        let body = [
            instance("a", "10.0.0.1", "", 8001, 1),
            instance("b", "10.0.0.1", "worker-2.internal", 8001, 3),
            instance("c", "10.0.0.1", "fd00::7", 8001, 5000),
            instance("d", "10.0.0.1", "", 0, 1),
        ];
        let body = format!("[{}]", body.join(","));
        let catalog = read(body.as_bytes()).unwrap();
        let named: Vec<_> = catalog
            .endpoints
            .iter()
            .map(|endpoint| (endpoint.address.as_str(), endpoint.weight))
            .collect();
        assert_eq!(
            named,
            [
                ("10.0.0.1:8001", 1),
                ("[fd00::7]:8001", 1),
                ("worker-2.internal:8001", 3)
            ]
        );
        assert_eq!(catalog.wrong.len(), 1, "{catalog:?}");
        assert!(catalog.wrong[0].contains("instance 'd'"), "{catalog:?}");
    }

    #[test]
    fn metadata_are_labels() {
        let body = |meta: &str| {
            format!(
                r#"[{{"Node": {{"Address": "10.0.0.1"}},
                      "Service": {{"ID": "a", "Address": "", "Port": 1, "Meta": {meta}}}}}]"#
            )
        };
        let labels = |meta| {
            read(body(meta).as_bytes())
                .unwrap()
                .endpoints
                .remove(0)
                .labels
        };
        let found = labels(r#"{"gpu": "h100", "empty": "", "a b": "c"}"#);
        assert_eq!(found, [("gpu".to_owned(), "h100".to_owned())].into());
        assert_eq!(labels("null"), BTreeMap::new());
    }

    #[test]
    fn an_answer_may_be_empty_but_not_something_else() {
        let none = Catalog {
            endpoints: Vec::new(),
            wrong: Vec::new(),
        };
        assert_eq!(read(b"[]"), Ok(none));
        assert!(read(b"{}").is_err());
        assert!(read(b"[{}]").is_err());
    }
}
