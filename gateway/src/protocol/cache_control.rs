//! `Cache-Control` on inference calls (RFC 9111, section 5.2), which gRPC clients send as metadata.
//!
//! A client may say `no-store` (this call has nothing to do with any cache), `no-cache` (run it anew; the answer may
//! be kept), and `max-age=SECONDS` (an older answer will not do). A worker may say `no-store`, `no-cache` or `private`
//! (do not keep this answer), and how long it is good with `s-maxage` or `max-age`. All else is not for a cache that
//! answers nothing but what it may, or asks for more than is done here, and says nothing.

use std::time::Duration;

use http::HeaderMap;
use http::header::CACHE_CONTROL;

/// What a client allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Neither look nor keep.
    Bypass,
    /// An answer that is kept or on its way will do if it is no older.
    Younger(Duration),
    Any,
}

impl Wish {
    pub fn of(headers: &HeaderMap) -> Self {
        let mut wish = Self::Any;
        for (name, value) in directives(headers) {
            let younger = match name {
                "no-store" => return Self::Bypass,
                "no-cache" => Duration::ZERO,
                "max-age" => seconds(value),
                _ => continue,
            };
            wish = match wish {
                Self::Younger(than) => Self::Younger(than.min(younger)),
                _ => Self::Younger(younger),
            };
        }
        wish
    }

    /// Whether an answer of this age will do.
    pub fn takes(self, age: Duration) -> bool {
        match self {
            Self::Bypass => false,
            Self::Younger(than) => age < than,
            Self::Any => true,
        }
    }
}

/// How long an answer with these headers may be given to others, at most `ttl`; None: not at all.
pub fn good_for(headers: &HeaderMap, ttl: Duration) -> Option<Duration> {
    let (mut own, mut shared) = (None, None);
    for (name, value) in directives(headers) {
        match name {
            "no-store" | "no-cache" | "private" => return None,
            "max-age" => own = Some(seconds(value)),
            "s-maxage" => shared = Some(seconds(value)),
            _ => {}
        }
    }
    let good = shared.or(own).map_or(ttl, |good| good.min(ttl));
    (!good.is_zero()).then_some(good)
}

/// Those that are looked at.
const KNOWN: [&str; 5] = ["no-store", "no-cache", "private", "max-age", "s-maxage"];

fn directives(headers: &HeaderMap) -> impl Iterator<Item = (&'static str, &str)> {
    let values = headers.get_all(CACHE_CONTROL).into_iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    texts
        .flat_map(|text| text.split(','))
        .filter_map(|directive| {
            let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
            let known = |known: &&str| known.eq_ignore_ascii_case(name.trim());
            Some((KNOWN.into_iter().find(known)?, value.trim()))
        })
}

/// What is no number of seconds is stale already (RFC 9111, section 4.2.1).
fn seconds(value: &str) -> Duration {
    let digits = value.trim_matches('"');
    let number = match digits.bytes().all(|byte| byte.is_ascii_digit()) {
        true if digits.is_empty() => 0,
        true => digits.parse().unwrap_or(u64::from(u32::MAX)),
        false => 0,
    };
    Duration::from_secs(number)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(values: &[&'static str]) -> HeaderMap {
        values
            .iter()
            .map(|value| (CACHE_CONTROL, HeaderValue::from_static(value)))
            .collect()
    }

    const fn secs(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    #[test]
    fn clients_say_what_they_take() {
        let cases: [(&[&str], Wish); 9] = [
            (&[], Wish::Any),
            (&["no-store"], Wish::Bypass),
            (&["No-Cache"], Wish::Younger(secs(0))),
            (&["max-age=5"], Wish::Younger(secs(5))),
            (&["max-age = \"5\" , max-stale"], Wish::Younger(secs(5))),
            (&["max-age=5", "no-cache"], Wish::Younger(secs(0))),
            (&["max-age=5", "no-transform, no-store"], Wish::Bypass),
            (&["max-age=soon"], Wish::Younger(secs(0))),
            (&["only-if-cached, min-fresh=3"], Wish::Any),
        ];
        for (values, wish) in cases {
            let values: Vec<&'static str> = values
                .iter()
                .map(|value| -> &'static str { value.to_string().leak() })
                .collect();
            assert_eq!(Wish::of(&headers(&values)), wish, "{values:?}");
        }
        assert!(Wish::Any.takes(secs(9)) && !Wish::Bypass.takes(secs(0)));
        assert!(Wish::Younger(secs(5)).takes(secs(4)) && !Wish::Younger(secs(5)).takes(secs(5)));
        assert!(!Wish::Younger(secs(0)).takes(secs(0)));
    }

    #[test]
    fn workers_say_how_long_it_is_good() {
        let ttl = secs(60);
        let cases: [(&[&'static str], Option<u64>); 8] = [
            (&[], Some(60)),
            (&["public"], Some(60)),
            (&["max-age=5"], Some(5)),
            (&["max-age=99999999999999999999"], Some(60)),
            (&["max-age=5, s-maxage=7"], Some(7)),
            (&["max-age=0"], None),
            (&["private"], None),
            (&["max-age=5", "no-store"], None),
        ];
        for (values, good) in cases {
            assert_eq!(
                good_for(&headers(values), ttl),
                good.map(secs),
                "{values:?}"
            );
        }
    }
}
