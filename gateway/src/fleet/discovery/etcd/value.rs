//! What the value of a key says about an endpoint: an address as it is, an object in JSON, or what etcd's own Go
//! client writes for gRPC (`{"Op":0,"Addr":"10.0.0.7:8001","Metadata":null}`).

use std::collections::BTreeMap;

use forebay_config::gateway::Endpoint;
use serde::Deserialize;
use serde_json::Value;

/// Keys that nobody knows are wrong: a weight that is misspelt would silently not count.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    address: String,
    weight: Option<u64>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// Format of `go.etcd.io/etcd/client/v3/naming/endpoints`; what it says of an update and beside the address is for gRPC.
#[derive(Deserialize)]
struct GoNaming {
    #[serde(rename = "Addr")]
    address: String,
}

/// The error says what is wrong.
pub fn endpoint(value: &[u8]) -> Result<Endpoint, String> {
    let text = std::str::from_utf8(value).map_err(|_| "the value is no text")?;
    let text = text.trim();
    let written = if text.starts_with('{') {
        object(text).map_err(|error| format!("'{text}': {error}"))?
    } else {
        Written {
            address: text.to_owned(),
            weight: None,
            labels: BTreeMap::new(),
        }
    };
    Endpoint::named(&written.address, written.weight)
        .and_then(|endpoint| endpoint.with_labels(written.labels))
        .map_err(|expected| format!("found '{text}', expected {expected}"))
}

fn object(text: &str) -> serde_json::Result<Written> {
    let value: Value = serde_json::from_str(text)?;
    if value.get("Addr").is_none() {
        return serde_json::from_value(value);
    }
    let GoNaming { address } = serde_json::from_value(value)?;
    Ok(Written {
        address,
        weight: None,
        labels: BTreeMap::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Result<(String, u32), String> {
        endpoint(value.as_bytes()).map(|endpoint| (endpoint.address, endpoint.weight))
    }

    #[test]
    fn three_forms_are_read() {
        let plain = Ok(("10.0.0.7:8001".to_owned(), 1));
        assert_eq!(read("10.0.0.7:8001"), plain);
        assert_eq!(read("10.0.0.7:8001\n"), plain);
        assert_eq!(read(r#"{"address": "10.0.0.7:8001"}"#), plain);
        assert_eq!(
            read(r#"{"Op":0,"Addr":"10.0.0.7:8001","Metadata":{"a":1}}"#),
            plain
        );
        assert_eq!(
            read(r#"{"address": "[::1]:8001", "weight": 3}"#),
            Ok(("[::1]:8001".to_owned(), 3))
        );
    }

    #[test]
    fn an_object_may_have_labels() {
        let value = br#"{"address": "a:1", "labels": {"zone": "b"}}"#;
        let labels = endpoint(value).unwrap().labels;
        assert_eq!(labels.get("zone").map(String::as_str), Some("b"));
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (value, told) in [
            ("", "a port as well"),
            ("worker-1", "a port as well"),
            ("http://worker-1:80", "without a scheme"),
            (r#"{"address": "worker-1:80""#, "EOF"),
            (r#"{"adress": "worker-1:80"}"#, "unknown field `adress`"),
            (r#"{"weight": 2}"#, "missing field `address`"),
            (
                r#"{"address": "worker-1:80", "weight": 0}"#,
                "a weight from 1 to 1000",
            ),
            (
                r#"{"address": "worker-1:80", "weight": 1001}"#,
                "a weight from 1 to 1000",
            ),
            (
                r#"{"address": "worker-1:80", "weight": "2"}"#,
                "expected u64",
            ),
            (r#"{"Op":0,"Addr":"worker-1"}"#, "a port as well"),
            (
                r#"{"address": "worker-1:80", "labels": {"a zone": "b"}}"#,
                "not 'a zone'",
            ),
        ] {
            let wrong = read(value).unwrap_err();
            assert!(wrong.contains(told), "{value}: {wrong}");
        }
        assert!(endpoint(b"\xff").is_err());
    }
}
