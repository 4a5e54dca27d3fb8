//! The keys under a prefix as they are after what etcd told so far, and from where on it has to tell more.
//!
//! A value that is wrong is told and changes nothing: its key names the endpoint that it named before. So one writer's
//! mistake costs the others nothing. Two keys may name one address, as when a worker comes back before its former
//! lease has ended; that is one endpoint, with the larger weight.

use std::collections::BTreeMap;

use forebay_config::gateway::Endpoint;
use forebay_proto::etcd::event::EventType;
use forebay_proto::etcd::{KeyValue, RangeResponse, ResponseHeader, WatchResponse};

use super::value;

#[derive(Debug, Default)]
pub struct Keys {
    endpoints: BTreeMap<Vec<u8>, Endpoint>,
    /// None: a list is needed.
    heard: Option<Heard>,
    wrong: Vec<String>,
}

/// Everything up to a revision of one etcd cluster.
#[derive(Debug, Clone, Copy)]
struct Heard {
    cluster: u64,
    revision: i64,
}

#[derive(Debug, PartialEq, Eq)]
pub enum News {
    Nothing,
    Changed,
    /// This watch cannot tell what comes next; a list is needed.
    Lost,
}

impl Keys {
    /// Where a watch goes on; None: a list is needed first.
    pub fn next_revision(&self) -> Option<i64> {
        self.heard.map(|heard| heard.revision.saturating_add(1))
    }

    /// All keys as they are now.
    pub fn list(&mut self, list: RangeResponse) {
        let header = list.header.unwrap_or_default();
        self.heard = Some(Heard {
            cluster: header.cluster_id,
            revision: header.revision,
        });
        let mut former = std::mem::take(&mut self.endpoints);
        for pair in list.kvs {
            if let Some(endpoint) = former.remove(&pair.key) {
                self.endpoints.insert(pair.key.clone(), endpoint);
            }
            self.put(pair);
        }
    }

    /// What a watch says.
    ///
    /// # Errors
    /// Why the watch is over.
    pub fn take_in(&mut self, response: WatchResponse) -> Result<News, String> {
        let header = response.header.unwrap_or_default();
        if response.compact_revision != 0 || (response.created && self.is_another_past(header)) {
            self.heard = None;
            return Ok(News::Lost);
        }
        if response.canceled {
            return Err(format!("the watch was ended: {}", response.cancel_reason));
        }
        if response.created {
            return Ok(News::Nothing);
        }
        // The header's revision may be ahead of the events that it comes with.
        let last = response.events.last().and_then(|event| event.kv.as_ref());
        let revision = last.map_or(header.revision, |pair| pair.mod_revision);
        if let Some(heard) = &mut self.heard {
            heard.revision = heard.revision.max(revision);
        }
        let mut news = News::Nothing;
        for event in response.events {
            let deleted = event.r#type() == EventType::Delete;
            if let Some(pair) = event.kv {
                news = News::Changed;
                if deleted {
                    self.endpoints.remove(&pair.key);
                } else {
                    self.put(pair);
                }
            }
        }
        Ok(news)
    }

    /// Sorted by address, none twice.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        let mut by_address: BTreeMap<&str, &Endpoint> = BTreeMap::new();
        for endpoint in self.endpoints.values() {
            let known = by_address.entry(&endpoint.address).or_insert(endpoint);
            if endpoint.weight > known.weight {
                *known = endpoint;
            }
        }
        by_address.into_values().cloned().collect()
    }

    /// What was wrong since this was asked last.
    pub fn wrong(&mut self) -> Vec<String> {
        std::mem::take(&mut self.wrong)
    }

    fn put(&mut self, pair: KeyValue) {
        match value::endpoint(&pair.value) {
            Ok(endpoint) => {
                self.endpoints.insert(pair.key, endpoint);
            }
            Err(wrong) => {
                let key = String::from_utf8_lossy(&pair.key);
                self.wrong
                    .push(format!("the value of '{key}' is left out: {wrong}"));
            }
        }
    }

    /// A store that was made anew, or set back to a backup, never tells what we would wait for.
    fn is_another_past(&self, header: ResponseHeader) -> bool {
        self.heard.is_some_and(|heard| {
            heard.cluster != header.cluster_id || header.revision < heard.revision
        })
    }
}

/// The first key behind all that begin with `prefix`.
pub fn behind(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return end;
        }
    }
    // There is none: to the end of all keys.
    vec![0]
}

#[cfg(test)]
mod tests {
    use forebay_proto::etcd::Event;

    use super::*;

    const CLUSTER: u64 = 7;

    fn header(revision: i64) -> Option<ResponseHeader> {
        Some(ResponseHeader {
            cluster_id: CLUSTER,
            revision,
        })
    }

    fn pair(key: &str, value: &str, mod_revision: i64) -> KeyValue {
        KeyValue {
            key: key.into(),
            value: value.into(),
            mod_revision,
        }
    }

    fn listed(revision: i64, pairs: &[(&str, &str)]) -> RangeResponse {
        let pairs = pairs.iter().map(|(key, value)| pair(key, value, revision));
        RangeResponse {
            header: header(revision),
            kvs: pairs.collect(),
        }
    }

    /// Values that are None are deletions.
    fn told(header_revision: i64, events: &[(&str, Option<&str>, i64)]) -> WatchResponse {
        let event = |(key, value, revision): &(&str, Option<&str>, i64)| Event {
            r#type: match value {
                Some(_) => EventType::Put as i32,
                None => EventType::Delete as i32,
            },
            kv: Some(pair(key, value.unwrap_or_default(), *revision)),
        };
        WatchResponse {
            header: header(header_revision),
            events: events.iter().map(event).collect(),
            ..WatchResponse::default()
        }
    }

    fn addresses(keys: &Keys) -> Vec<String> {
        let address = |endpoint: Endpoint| format!("{} x{}", endpoint.address, endpoint.weight);
        keys.endpoints().into_iter().map(address).collect()
    }

    fn keys() -> Keys {
        let mut keys = Keys::default();
        keys.list(listed(10, &[("w/b", "b:1"), ("w/a", "a:1")]));
        keys
    }

    #[test]
    fn a_list_and_what_comes_after_it() {
        let mut keys = Keys::default();
        assert_eq!(keys.next_revision(), None);
        keys.list(listed(10, &[("w/b", "b:1"), ("w/a", "a:1")]));
        assert_eq!(addresses(&keys), ["a:1 x1", "b:1 x1"]);
        assert_eq!(keys.next_revision(), Some(11));
        let heavy = r#"{"address": "c:1", "weight": 2}"#;
        let changes = told(12, &[("w/c", Some(heavy), 11), ("w/a", None, 12)]);
        assert_eq!(keys.take_in(changes), Ok(News::Changed));
        assert_eq!(addresses(&keys), ["b:1 x1", "c:1 x2"]);
        assert_eq!(keys.next_revision(), Some(13));
        assert_eq!(keys.take_in(told(20, &[])), Ok(News::Nothing), "progress");
        assert_eq!(keys.next_revision(), Some(21));
        assert!(keys.wrong().is_empty());
    }

    #[test]
    fn a_header_ahead_of_its_events_skips_nothing() {
        let mut keys = keys();
        let first_part = told(5000, &[("w/c", Some("c:1"), 900)]);
        assert_eq!(keys.take_in(first_part), Ok(News::Changed));
        assert_eq!(keys.next_revision(), Some(901));
    }

    #[test]
    fn a_wrong_value_is_told_and_leaves_its_key_as_it_was() {
        let mut keys = keys();
        let changes = told(
            11,
            &[("w/a", Some("nonsense"), 11), ("w/c", Some("nonsense"), 11)],
        );
        assert_eq!(keys.take_in(changes), Ok(News::Changed));
        assert_eq!(addresses(&keys), ["a:1 x1", "b:1 x1"]);
        let wrong = keys.wrong();
        assert_eq!(wrong.len(), 2, "{wrong:?}");
        assert!(
            wrong[0].contains("'w/a'") && wrong[0].contains("nonsense"),
            "{wrong:?}"
        );
        assert!(keys.wrong().is_empty(), "told once");
        // A list anew says the same.
        keys.list(listed(12, &[("w/a", "nonsense"), ("w/c", "nonsense")]));
        assert_eq!(addresses(&keys), ["a:1 x1"]);
    }

    #[test]
    fn two_keys_of_one_address_are_one_endpoint() {
        let mut keys = keys();
        let again = r#"{"address": "a:1", "weight": 3}"#;
        assert_eq!(
            keys.take_in(told(11, &[("w/z", Some(again), 11)])),
            Ok(News::Changed)
        );
        assert_eq!(addresses(&keys), ["a:1 x3", "b:1 x1"]);
        assert_eq!(
            keys.take_in(told(12, &[("w/z", None, 12)])),
            Ok(News::Changed)
        );
        assert_eq!(addresses(&keys), ["a:1 x1", "b:1 x1"]);
    }

    #[test]
    fn a_list_is_needed_where_history_is_gone() {
        let compacted = WatchResponse {
            canceled: true,
            compact_revision: 40,
            ..told(50, &[])
        };
        let other_cluster = WatchResponse {
            created: true,
            header: Some(ResponseHeader {
                cluster_id: CLUSTER + 1,
                revision: 50,
            }),
            ..WatchResponse::default()
        };
        let set_back = WatchResponse {
            created: true,
            ..told(9, &[])
        };
        for lost in [compacted, other_cluster, set_back] {
            let mut keys = keys();
            assert_eq!(keys.take_in(lost), Ok(News::Lost));
            assert_eq!(keys.next_revision(), None);
            assert_eq!(addresses(&keys), ["a:1 x1", "b:1 x1"], "the last ones stay");
        }
        let resumed = WatchResponse {
            created: true,
            ..told(10, &[])
        };
        assert_eq!(keys().take_in(resumed), Ok(News::Nothing));
    }

    #[test]
    fn a_watch_that_is_ended_says_why() {
        let ended = WatchResponse {
            canceled: true,
            cancel_reason: "permission denied".to_owned(),
            ..told(10, &[])
        };
        let reason = keys().take_in(ended).unwrap_err();
        assert!(reason.contains("permission denied"), "{reason}");
    }

    #[test]
    fn the_end_of_a_prefix() {
        assert_eq!(behind(b"/a/"), b"/a0");
        assert_eq!(behind(b"a\xff\xff"), b"b");
        assert_eq!(behind(b"\xff"), b"\0");
    }
}
