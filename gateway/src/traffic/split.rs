//! Which side of a split takes a request: weighted rendezvous hashing.
//!
//! Each side draws a time from the request's key and its own name, exponentially distributed with its weight as the rate,
//! and the earliest takes the request. The earliest of such times belongs to each side with the probability
//! `weight / sum of weights`, and so does the next one among the rest: a side that is down leaves its share to the others by
//! their weights. The same key gives the same times everywhere, so a user stays on one side, and a change of weights moves
//! only as many users as the shares demand. (C. Schindelhauer, G. Schomaker: "Weighted Distributed Hash Tables", 2005,
//! the logarithmic method; D. Thaler, C. Ravishankar: "Using Name-Based Mappings to Increase Hit Rates", 1998.)

use std::net::IpAddr;

use forebay_config::gateway as config;
use forebay_config::gateway::Sticky;
use http::HeaderMap;
use smallvec::SmallVec;

use crate::traffic::cookie::cookie;
use crate::traffic::hash;

#[derive(Debug, Clone)]
pub struct Split {
    sides: SmallVec<[Side; 4]>,
    sticky: Option<Sticky>,
}

#[derive(Debug, Clone, Copy)]
struct Side {
    weight: f64,
    /// What makes its times its own: the hash of its cluster's name, so that the order of the sides does not matter.
    salt: u64,
}

/// Positions of sides, the preferred one first.
pub type Order = SmallVec<[usize; 4]>;

impl Split {
    pub fn new(config: &config::Split) -> Self {
        let side = |side: &config::Side| Side {
            weight: f64::from(side.weight),
            salt: hash::of(side.cluster.as_bytes()),
        };
        Self {
            sides: config.sides.iter().map(side).collect(),
            sticky: config.sticky.clone(),
        }
    }

    /// The client's address decides.
    pub fn looks_at_source(&self) -> bool {
        self.sticky == Some(Sticky::Source)
    }

    /// What all requests of the same user have in common; None: it says nothing about that.
    pub fn key(&self, headers: &HeaderMap, source: Option<IpAddr>) -> Option<u64> {
        match self.sticky.as_ref()? {
            Sticky::Header(name) => {
                let value = headers.get(name.as_str())?.as_bytes();
                (!value.is_empty()).then(|| hash::of(value))
            }
            Sticky::Cookie(name) => cookie(headers, name).map(hash::of),
            Sticky::Source => Some(hash::of_address(source?)),
        }
    }

    /// The sides that may take a request with this key, those without weight left out. `key` is a user's, or uniform
    /// over all of `u64` and fresh.
    pub fn order(&self, key: u64) -> Order {
        let mut times: SmallVec<[(f64, usize); 4]> = self
            .sides
            .iter()
            .enumerate()
            .filter(|(_, side)| side.weight > 0.0)
            .map(|(position, side)| (side.time(key), position))
            .collect();
        times.sort_unstable_by(|(a, _), (b, _)| a.total_cmp(b));
        times.into_iter().map(|(_, position)| position).collect()
    }
}

impl Side {
    fn time(&self, key: u64) -> f64 {
        // The upper 53 bits, in the middle of their interval: never 0, never 1.
        let uniform = ((hash::mix(key ^ self.salt) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        -uniform.ln() / self.weight
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn split(weights: &[u32], sticky: Option<Sticky>) -> Split {
        let side = |(number, weight): (usize, &u32)| config::Side {
            cluster: format!("side-{number}"),
            weight: *weight,
        };
        Split::new(&config::Split {
            sides: weights.iter().enumerate().map(side).collect(),
            sticky,
        })
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    /// How often each side came first, and how often each came second after the first one.
    fn counts(split: &Split, keys: impl Iterator<Item = u64>) -> (Vec<u32>, Vec<Vec<u32>>) {
        let sides = split.sides.len();
        let (mut first, mut second) = (vec![0; sides], vec![vec![0; sides]; sides]);
        for key in keys {
            let order = split.order(key);
            first[order[0]] += 1;
            if let Some(next) = order.get(1) {
                second[order[0]][*next] += 1;
            }
        }
        (first, second)
    }

    /// Within six standard deviations of the binomial distribution.
    fn is_share(count: u32, of: u32, share: f64) -> bool {
        let (of, count) = (f64::from(of), f64::from(count));
        (count - of * share).abs() <= 6.0 * (of * share * (1.0 - share)).sqrt() + 1.0
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn shares_are_those_of_the_weights_and_so_are_those_of_what_is_left(
            weights in prop::collection::vec(0_u32..1_000, 1..5),
            seed: u64,
        ) {
            prop_assume!(weights.iter().any(|weight| *weight > 0));
            const DRAWS: u32 = 20_000;
            let split = split(&weights, None);
            let mut random = fastrand::Rng::with_seed(seed);
            let (first, second) = counts(&split, (0..DRAWS).map(|_| random.u64(..)));
            let sum: u32 = weights.iter().sum();
            for (side, weight) in weights.iter().enumerate() {
                let share = f64::from(*weight) / f64::from(sum);
                prop_assert!(is_share(first[side], DRAWS, share), "{weights:?}: {first:?}");
                if *weight == sum {
                    continue;
                }
                for (other, weight_of_other) in weights.iter().enumerate().filter(|(other, _)| *other != side) {
                    let share = f64::from(*weight_of_other) / f64::from(sum - weight);
                    prop_assert!(
                        is_share(second[side][other], first[side], share),
                        "{weights:?}: {first:?}, then {second:?}"
                    );
                }
            }
        }

        #[test]
        fn more_weight_takes_users_from_others_and_loses_none(
            weights in prop::collection::vec(1_u32..100, 2..5),
            more in 1_u32..100,
            keys in prop::collection::vec(any::<u64>(), 100),
        ) {
            let mut heavier = weights.clone();
            heavier[1] += more;
            let (before, after) = (split(&weights, None), split(&heavier, None));
            for key in keys {
                let (before, after) = (before.order(key)[0], after.order(key)[0]);
                prop_assert!(before == after || after == 1, "{before} → {after}");
            }
        }
    }

    #[test]
    fn users_with_similar_names_are_spread_by_the_weights() {
        let split = split(&[3, 1], Some(Sticky::Header("x-user".into())));
        let mut keys = Vec::new();
        for user in 0..20_000 {
            let mut headers = HeaderMap::new();
            headers.insert("x-user", HeaderValue::from(user));
            keys.push(split.key(&headers, None).unwrap());
        }
        let (first, _) = counts(&split, keys.into_iter());
        assert!(is_share(first[0], 20_000, 0.75), "{first:?}");
    }

    #[test]
    fn the_order_in_the_file_does_not_matter() {
        let mut config = config::Split {
            sides: vec![
                config::Side {
                    cluster: "a".into(),
                    weight: 2,
                },
                config::Side {
                    cluster: "b".into(),
                    weight: 5,
                },
            ],
            sticky: None,
        };
        let forth = Split::new(&config);
        config.sides.reverse();
        let back = Split::new(&config);
        for key in 0..1_000 {
            assert_ne!(forth.order(key)[0], back.order(key)[0]);
        }
    }

    #[test]
    fn a_user_is_known_by_header_cookie_or_address() {
        let by_header = split(&[1, 1], Some(Sticky::Header("x-user".into())));
        let ada = by_header.key(&headers(&[("x-user", "ada")]), None);
        assert!(ada.is_some());
        assert_eq!(
            ada,
            by_header.key(&headers(&[("x-user", "ada"), ("cookie", "a=b")]), None)
        );
        assert_ne!(ada, by_header.key(&headers(&[("x-user", "bob")]), None));
        for nobody in [&[][..], &[("x-user", "")]] {
            assert_eq!(by_header.key(&headers(nobody), None), None);
        }

        let by_cookie = split(&[1, 1], Some(Sticky::Cookie("sid".into())));
        let sid = by_cookie.key(&headers(&[("cookie", "sid=7")]), None);
        assert!(sid.is_some());
        for same in [
            &[("cookie", "a=b; sid=7; c=d")][..],
            &[("cookie", "a=b"), ("cookie", "sid=7")],
        ] {
            assert_eq!(by_cookie.key(&headers(same), None), sid);
        }
        for none in [
            &[("cookie", "xsid=7; sid; sid=")][..],
            &[("cookie", "SID=7")],
        ] {
            assert_eq!(by_cookie.key(&headers(none), None), None);
        }

        let by_source = split(&[1, 1], Some(Sticky::Source));
        assert!(by_source.looks_at_source() && !by_cookie.looks_at_source());
        let at = |address: &str| by_source.key(&HeaderMap::new(), Some(address.parse().unwrap()));
        assert_eq!(at("10.0.0.1"), at("::ffff:10.0.0.1"));
        assert_ne!(at("10.0.0.1"), at("10.0.0.2"));
        assert_ne!(at("fd00::1"), at("fd00::2"));
        assert_eq!(by_source.key(&HeaderMap::new(), None), None);

        assert_eq!(
            split(&[1], None).key(&headers(&[("x-user", "ada")]), None),
            None
        );
    }
}
