//! Lists of endpoints, as a cluster or a discovery file has them.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::{Keys, Read, Value, address, all, names, subset};
use crate::defaults;
use crate::gateway::Endpoint;

const KEYS: Keys = &["address", "weight", "labels"];
const WEIGHTS: RangeInclusive<u32> = 1..=1000;

pub(super) const EXPECTED: &str =
    r#"addresses, such as ["10.0.0.7:8001", { address = "10.0.0.8:8001", weight = 2 }]"#;

/// Any number of them, none twice.
pub(super) fn list(value: &Value<'_>) -> Read<Vec<Endpoint>> {
    let items = value.array(EXPECTED)?;
    let read = all(items.iter().map(endpoint));
    let addresses = items.iter().filter_map(|item| {
        let written = item.peek("address").unwrap_or_else(|| item.clone());
        let address = written.as_str()?.to_ascii_lowercase();
        Some((written, address))
    });
    names::unique("an address", addresses).and(read)
}

fn endpoint(value: &Value<'_>) -> Read<Endpoint> {
    if !value.is_table() {
        return endpoint_address(value)
            .map(|address| Endpoint::new(address, defaults::ENDPOINT_WEIGHT));
    }
    let table = value.table(KEYS)?;
    let address = table.required(
        "address",
        r#"host:port, such as "10.0.0.7:8001""#,
        |value| endpoint_address(&value),
    );
    let weight = table.or("weight", defaults::ENDPOINT_WEIGHT, |value| {
        value.integer(WEIGHTS)
    });
    let labels = table.or("labels", BTreeMap::new(), |value| subset::labels(&value));
    Ok(Endpoint {
        address: address?,
        weight: weight?,
        labels: labels?,
    })
}

fn endpoint_address(value: &Value<'_>) -> Read<String> {
    let text = value.string(r#"host:port, such as "10.0.0.7:8001""#)?;
    address::host_and_port(text).or_else(|expected| value.wrong(expected))?;
    Ok(text.to_owned())
}

/// One that is named outside of a document; the error is what would be right.
pub(crate) fn named(address: &str, weight: Option<u64>) -> Result<Endpoint, String> {
    address::host_and_port(address)?;
    let weight = weight.map_or(Ok(defaults::ENDPOINT_WEIGHT), u32::try_from);
    match weight {
        Ok(weight) if WEIGHTS.contains(&weight) => Ok(Endpoint::new(address, weight)),
        _ => Err(format!(
            "a weight from {} to {}",
            WEIGHTS.start(),
            WEIGHTS.end()
        )),
    }
}
