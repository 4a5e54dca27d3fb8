//! Which subset of a cluster's endpoints a request asks for, by the endpoints' labels.
//!
//! What a request asks for is a list of labels and their values, and is told from others by a digest alone, so that it can
//! be handed around and kept with a request that waits. It is the same in every gateway, and nobody can write a header
//! that meets the list of others. Each list that can be asked for has its members prepared, so that a request only looks one
//! up: a member is in the list of every combination of those of its labels that headers may ask for (at most 2^4).

use std::collections::{BTreeMap, HashMap};

use forebay_cache::Digest;
use forebay_config::gateway as config;
use http::HeaderMap;
use http::header::HeaderName;

/// What a request asks of the endpoint that is to take it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Wish {
    #[default]
    Nothing,
    /// Only those with these labels.
    Only(u64),
    /// Those with these labels, and others when none of them can take it.
    First(u64),
}

impl Wish {
    /// Into what tells one request from another.
    pub fn write(self, digest: &mut Digest) {
        let (kind, list) = match self {
            Self::Nothing => (0, 0),
            Self::Only(list) => (1, list),
            Self::First(list) => (2, list),
        };
        digest.number(kind);
        digest.bytes(&list.to_le_bytes());
    }
}

/// What a route's requests ask for.
#[derive(PartialEq)]
pub struct Selector {
    /// By name.
    labels: Vec<(String, Source)>,
    fallback: config::SubsetFallback,
}

#[derive(PartialEq)]
enum Source {
    Exact(String),
    /// None: no header can have this name.
    Header(Option<HeaderName>),
}

impl Selector {
    pub fn new(config: &config::Subset) -> Self {
        let source = |value: &config::LabelValue| match value {
            config::LabelValue::Exact(value) => Source::Exact(value.clone()),
            config::LabelValue::Header(name) => {
                Source::Header(HeaderName::try_from(name.as_str()).ok())
            }
        };
        let labels = config.labels.iter();
        Self {
            labels: labels
                .map(|(name, value)| (name.clone(), source(value)))
                .collect(),
            fallback: config.fallback,
        }
    }

    pub fn wish(&self, headers: &HeaderMap) -> Wish {
        let pairs = self.labels.iter().filter_map(|(name, source)| {
            let value = match source {
                Source::Exact(value) => value.as_bytes(),
                Source::Header(header) => headers.get(header.as_ref()?)?.as_bytes(),
            };
            Some((name.as_str(), value))
        });
        match (list(pairs), self.fallback) {
            (None, _) => Wish::Nothing,
            (Some(list), config::SubsetFallback::None) => Wish::Only(list),
            (Some(list), config::SubsetFallback::Any) => Wish::First(list),
        }
    }

    /// Positions of `members` in ascending order, by the list that they are asked for with.
    pub fn lists<'m>(
        &self,
        members: impl Iterator<Item = &'m BTreeMap<String, String>>,
    ) -> HashMap<u64, Vec<usize>> {
        let by_header = |(_, source): &&(String, Source)| matches!(source, Source::Header(_));
        let headers = self.labels.iter().filter(by_header).count();
        let mut lists: HashMap<u64, Vec<usize>> = HashMap::new();
        for (position, labels) in members.enumerate() {
            for asked in 0..1_u32 << headers {
                if let Some(list) = self.list_of(labels, asked) {
                    lists.entry(list).or_default().push(position);
                }
            }
        }
        lists
    }

    /// The list that a member is in when those labels are asked for that are written, and of those that headers give
    /// the ones with a bit in `asked`; None: it has them not, or nothing is asked for.
    fn list_of(&self, labels: &BTreeMap<String, String>, mut asked: u32) -> Option<u64> {
        let mut pairs: Vec<(&str, &[u8])> = Vec::with_capacity(self.labels.len());
        for (name, source) in &self.labels {
            let own = labels.get(name);
            match source {
                Source::Exact(value) => {
                    pairs.push((name, own.filter(|own| *own == value)?.as_bytes()));
                }
                Source::Header(_) => {
                    if asked & 1 == 1 {
                        pairs.push((name, own?.as_bytes()));
                    }
                    asked >>= 1;
                }
            }
        }
        list(pairs.into_iter())
    }
}

/// None of no pairs.
fn list<'p>(pairs: impl Iterator<Item = (&'p str, &'p [u8])>) -> Option<u64> {
    let mut digest = Digest::new();
    let mut any = false;
    for (name, value) in pairs {
        any = true;
        digest.field(name.as_bytes());
        digest.field(value);
    }
    let key = any.then(|| digest.key())?;
    key.as_bytes()
        .first_chunk()
        .copied()
        .map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let pairs = pairs.iter();
        pairs
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn members_are_found_by_what_is_written_and_what_headers_say() {
        let selector = Selector::new(&config::Subset {
            labels: [
                ("gpu".into(), config::LabelValue::Exact("h100".into())),
                ("zone".into(), config::LabelValue::Header("x-zone".into())),
                ("tier".into(), config::LabelValue::Header("x-tier".into())),
            ]
            .into(),
            fallback: config::SubsetFallback::None,
        });
        let members = [
            labels(&[("gpu", "h100"), ("zone", "a"), ("tier", "gold")]),
            labels(&[("gpu", "h100"), ("zone", "b")]),
            labels(&[("gpu", "a10"), ("zone", "a")]),
            labels(&[("gpu", "h100"), ("zone", "a")]),
            labels(&[]),
        ];
        let lists = selector.lists(members.iter());
        let found = |headers: &HeaderMap| match selector.wish(headers) {
            Wish::Only(list) => lists.get(&list),
            wish => panic!("{wish:?}"),
        };
        for (zone, tier, expected) in [
            (None, None, Some(vec![0, 1, 3])),
            (Some("a"), None, Some(vec![0, 3])),
            (Some("b"), None, Some(vec![1])),
            (None, Some("gold"), Some(vec![0])),
            (Some("a"), Some("gold"), Some(vec![0])),
            (Some("b"), Some("gold"), None),
            (Some("c"), None, None),
            (Some(""), None, None),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in [("x-zone", zone), ("x-tier", tier)] {
                if let Some(value) = value {
                    headers.insert(name, HeaderValue::from_static(value));
                }
            }
            assert_eq!(found(&headers), expected.as_ref(), "{zone:?} {tier:?}");
        }
        let mut headers = HeaderMap::new();
        headers.insert("x-zone", HeaderValue::from_bytes(b"\xff").unwrap());
        assert_eq!(found(&headers), None);
    }

    #[test]
    fn who_asks_for_nothing_may_go_anywhere() {
        let zone = |fallback| {
            Selector::new(&config::Subset {
                labels: [("zone".into(), config::LabelValue::Header("x-zone".into()))].into(),
                fallback,
            })
        };
        let (strict, lenient) = (
            zone(config::SubsetFallback::None),
            zone(config::SubsetFallback::Any),
        );
        let mut headers = HeaderMap::new();
        assert_eq!(strict.wish(&headers), Wish::Nothing);
        headers.insert("x-zone", HeaderValue::from_static("a"));
        let lists = strict.lists([labels(&[("zone", "a")])].iter());
        let list = *lists.keys().next().unwrap();
        assert_eq!(lists.len(), 1, "without the header there is no list");
        assert_eq!(strict.wish(&headers), Wish::Only(list));
        assert_eq!(lenient.wish(&headers), Wish::First(list));
    }
}
