//! Which endpoints a service has, as its EndpointSlices say.
//!
//! New requests go to endpoints that are ready; what is terminating gets none and ends what it has. Only when nothing
//! is ready, as while the only pod of a service is replaced, endpoints that still serve while they terminate are used, as
//! kube-proxy does it (KEP-1669). A service with addresses of both families has each pod twice: that of one family
//! is used, IPv4 first, since most workers listen there only.
//!
//! The zone of an endpoint is its label `zone`, and its node its label `node`.

use std::collections::BTreeMap;

use forebay_config::gateway::Endpoint;
use k8s_openapi::api::discovery::v1::{self as api, EndpointConditions, EndpointSlice};

#[derive(Debug, Default)]
pub struct Slices(BTreeMap<String, EndpointSlice>);

/// In the order in which they are preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    IpV4,
    IpV6,
    Name,
}

impl Slices {
    pub fn of(slices: Vec<EndpointSlice>) -> Self {
        let mut all = Self::default();
        for slice in slices {
            all.put(slice);
        }
        all
    }

    pub fn put(&mut self, slice: EndpointSlice) {
        self.0.insert(name(&slice), slice);
    }

    pub fn remove(&mut self, slice: &EndpointSlice) {
        self.0.remove(&name(slice));
    }

    /// Sorted by address, none twice. `port`: its name; None: the only one.
    ///
    /// # Errors
    /// The service has not that port, or several.
    pub fn endpoints(&self, port: Option<&str>) -> Result<Vec<Endpoint>, String> {
        let mut ready = BTreeMap::new();
        let mut serving = BTreeMap::new();
        for slice in self.0.values() {
            let family = family(slice);
            if slice.endpoints.is_empty() {
                continue;
            }
            let port = number(slice, port)?;
            for member in &slice.endpoints {
                let conditions = member.conditions.clone().unwrap_or_default();
                // Of several addresses only the first has a meaning.
                let Some(host) = member.addresses.first() else {
                    continue;
                };
                let address = match family {
                    Family::IpV6 => format!("[{host}]:{port}"),
                    Family::IpV4 | Family::Name => format!("{host}:{port}"),
                };
                if is_ready(&conditions) {
                    ready.insert((family, address), labels(member));
                } else if still_serves(&conditions) {
                    serving.insert((family, address), labels(member));
                }
            }
        }
        let usable = if ready.is_empty() { serving } else { ready };
        let preferred = usable.keys().next().map(|(family, _)| *family);
        let of_one_family = usable
            .into_iter()
            .filter(|((family, _), _)| Some(*family) == preferred);
        of_one_family
            .map(|((_, address), labels)| {
                Endpoint::named(&address, None)
                    .and_then(|endpoint| endpoint.with_labels(labels))
                    .map_err(|expected| format!("found '{address}', expected {expected}"))
            })
            .collect()
    }
}

fn labels(member: &api::Endpoint) -> BTreeMap<String, String> {
    let said = [("zone", &member.zone), ("node", &member.node_name)];
    let said = said.into_iter();
    said.filter_map(|(name, value)| {
        let value = value.as_ref().filter(|value| !value.is_empty())?;
        Some((name.to_owned(), value.clone()))
    })
    .collect()
}

fn name(slice: &EndpointSlice) -> String {
    slice.metadata.name.clone().unwrap_or_default()
}

fn family(slice: &EndpointSlice) -> Family {
    match slice.address_type.as_str() {
        "IPv4" => Family::IpV4,
        "IPv6" => Family::IpV6,
        _ => Family::Name,
    }
}

/// Unknown counts as ready, as the API says.
fn is_ready(conditions: &EndpointConditions) -> bool {
    conditions.ready != Some(false)
}

fn still_serves(conditions: &EndpointConditions) -> bool {
    conditions.serving == Some(true) && conditions.terminating == Some(true)
}

fn number(slice: &EndpointSlice, wanted: Option<&str>) -> Result<i32, String> {
    let ports = slice.ports.as_deref().unwrap_or_default();
    let named = |name: &str| {
        ports
            .iter()
            .find(|port| port.name.as_deref().unwrap_or_default() == name)
    };
    let found = match (wanted, ports) {
        (Some(name), _) => named(name),
        (None, [only]) => Some(only),
        (None, _) => None,
    };
    if let Some(number) = found.and_then(|port| port.port) {
        return Ok(number);
    }
    let names = ports.iter().filter_map(|port| port.name.as_deref());
    let names = names.collect::<Vec<_>>().join(", ");
    Err(match wanted {
        Some(name) => format!("the service has no port '{name}', but has {names}"),
        None => format!("the service has the ports {names}: 'port' has to name one"),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// `state`: ready, serving, terminating.
    fn member(address: &str, state: [bool; 3]) -> Value {
        let [ready, serving, terminating] = state;
        json!({
            "addresses": [address],
            "conditions": { "ready": ready, "serving": serving, "terminating": terminating },
        })
    }

    const READY: [bool; 3] = [true, true, false];
    const NOT_READY: [bool; 3] = [false, false, false];
    const LEAVING: [bool; 3] = [false, true, true];

    fn slice(name: &str, family: &str, members: &[Value]) -> EndpointSlice {
        let slice = json!({
            "metadata": { "name": name },
            "addressType": family,
            "ports": [{ "name": "grpc", "port": 8001 }, { "name": "http", "port": 8000 }],
            "endpoints": members,
        });
        serde_json::from_value(slice).unwrap()
    }

    fn addresses(slices: &Slices) -> Vec<String> {
        let endpoints = slices.endpoints(Some("grpc")).unwrap();
        endpoints
            .into_iter()
            .map(|endpoint| endpoint.address)
            .collect()
    }

    #[test]
    fn ready_ones_of_all_slices_take_requests() {
        let mut slices = Slices::of(vec![
            slice(
                "a",
                "IPv4",
                &[member("10.0.0.2", READY), member("10.0.0.3", NOT_READY)],
            ),
            slice(
                "b",
                "IPv4",
                &[member("10.0.0.1", READY), member("10.0.0.4", LEAVING)],
            ),
            slice("c", "IPv4", &[]),
        ]);
        assert_eq!(addresses(&slices), ["10.0.0.1:8001", "10.0.0.2:8001"]);
        slices.put(slice("a", "IPv4", &[member("10.0.0.9", READY)]));
        assert_eq!(addresses(&slices), ["10.0.0.1:8001", "10.0.0.9:8001"]);
        slices.remove(&slice("b", "IPv4", &[]));
        assert_eq!(addresses(&slices), ["10.0.0.9:8001"]);
    }

    #[test]
    fn zone_and_node_are_labels() {
        let here = json!({ "addresses": ["10.0.0.1"], "zone": "eu-1a", "nodeName": "n7" });
        let somewhere = member("10.0.0.2", READY);
        let slices = Slices::of(vec![slice("a", "IPv4", &[here, somewhere])]);
        let found = slices.endpoints(Some("grpc")).unwrap();
        let labels = [("zone", "eu-1a"), ("node", "n7")];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(found[0].labels, labels.into());
        assert!(found[1].labels.is_empty());
    }

    #[test]
    fn what_is_unknown_counts_as_ready() {
        let unknown = json!({ "addresses": ["10.0.0.1"] });
        let no_conditions = json!({ "addresses": ["10.0.0.2"], "conditions": {} });
        let slices = Slices::of(vec![slice("a", "IPv4", &[unknown, no_conditions])]);
        assert_eq!(addresses(&slices), ["10.0.0.1:8001", "10.0.0.2:8001"]);
    }

    #[test]
    fn without_ready_ones_those_that_leave_and_still_serve_do() {
        let gone = [false, false, true];
        let members = [
            member("10.0.0.1", LEAVING),
            member("10.0.0.2", gone),
            member("10.0.0.3", NOT_READY),
        ];
        let slices = Slices::of(vec![slice("a", "IPv4", &members)]);
        assert_eq!(addresses(&slices), ["10.0.0.1:8001"]);
    }

    #[test]
    fn one_family_is_used() {
        let four = slice("four", "IPv4", &[member("10.0.0.1", READY)]);
        let six = slice("six", "IPv6", &[member("fd00::1", READY)]);
        let slices = Slices::of(vec![six.clone(), four]);
        assert_eq!(addresses(&slices), ["10.0.0.1:8001"]);
        let unready = slice("four", "IPv4", &[member("10.0.0.1", NOT_READY)]);
        let slices = Slices::of(vec![six, unready]);
        assert_eq!(addresses(&slices), ["[fd00::1]:8001"]);
    }

    #[test]
    fn a_port_is_named_where_there_are_several() {
        let slices = Slices::of(vec![slice("a", "IPv4", &[member("10.0.0.1", READY)])]);
        let wrong = slices.endpoints(None).unwrap_err();
        assert!(
            wrong.contains("grpc") && wrong.contains("'port'"),
            "{wrong}"
        );
        let wrong = slices.endpoints(Some("metrics")).unwrap_err();
        assert!(wrong.contains("no port 'metrics'"), "{wrong}");
        let mut only = slice("a", "IPv4", &[member("10.0.0.1", READY)]);
        only.ports.as_mut().unwrap().truncate(1);
        let found = Slices::of(vec![only]).endpoints(None).unwrap();
        assert_eq!(found[0].address, "10.0.0.1:8001");
        assert_eq!(Slices::default().endpoints(None), Ok(Vec::new()));
    }
}
