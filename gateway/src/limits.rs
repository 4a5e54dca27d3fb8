//! How much a route takes: over time, by whom, and at a time.
//!
//! Asked where a request's route becomes known, on every data path. Rates are asked before the body is read, so that
//! a flood is not even taken in; a place among the concurrent ones is taken after it, since a slow client must not
//! hold one. `RateLimits::take` is where a bucket that gateways share would be asked.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use forebay_config::gateway as config;
use http::HeaderMap;
use parking_lot::Mutex;
use pingora::protocols::http::ServerSession;

use crate::gateway::Route;
use crate::refusal::Refusal;
use crate::traffic::gradient::{Gradient, Timing};
use crate::traffic::rate::{Bucket, Rate, Table, nanos_since};

/// What is suggested where nothing tells how long a request will take.
const PAUSE: Duration = Duration::from_secs(1);

/// The limits of one route over time.
pub struct RateLimits {
    limits: Vec<Limiter>,
    start: Instant,
    keys: RandomState,
}

struct Limiter {
    config: config::RateLimit,
    rate: Rate,
    buckets: Buckets,
    refused: AtomicU64,
}

enum Buckets {
    Shared(Bucket),
    ByKey(Table),
}

/// How many requests of a route are served at a time.
pub struct Concurrency {
    most: AtomicUsize,
    /// None: it is fixed.
    learning: Option<Mutex<Gradient>>,
    served: Arc<AtomicUsize>,
    refused: AtomicU64,
}

/// A place among them; gives itself back when dropped.
pub struct Permit(Arc<AtomicUsize>);

/// A token for a request on its route.
///
/// # Errors
/// There is none.
pub fn take(route: &Route, session: &ServerSession) -> Result<(), Refusal> {
    let Some(rates) = &route.rates else {
        return Ok(());
    };
    let client = session.client_addr().and_then(|client| client.as_inet());
    rates.take(&session.req_header().headers, client, Instant::now())
}

/// A place among those that are served; None: there is no limit.
///
/// # Errors
/// All are taken.
pub fn enter(route: &Route) -> Result<Option<Permit>, Refusal> {
    let concurrency = route.concurrency.as_ref();
    concurrency
        .map(|concurrency| concurrency.enter())
        .transpose()
}

impl RateLimits {
    /// None: there are no limits.
    pub fn new(limits: &[config::RateLimit], now: Instant) -> Option<Self> {
        let limiter = |limit: &config::RateLimit| Limiter {
            rate: Rate::new(limit),
            buckets: match limit.by {
                config::RateKey::Route => Buckets::Shared(Bucket::default()),
                config::RateKey::Client | config::RateKey::Header(_) => {
                    Buckets::ByKey(Table::default())
                }
            },
            config: limit.clone(),
            refused: AtomicU64::new(0),
        };
        (!limits.is_empty()).then(|| Self {
            limits: limits.iter().map(limiter).collect(),
            start: now,
            keys: RandomState::new(),
        })
    }

    /// Takes a token of each limit, or of none.
    ///
    /// # Errors
    /// One of them has none left.
    pub fn take(
        &self,
        headers: &HeaderMap,
        client: Option<&SocketAddr>,
        now: Instant,
    ) -> Result<(), Refusal> {
        let nanos = nanos_since(self.start, now);
        for (number, limiter) in self.limits.iter().enumerate() {
            let key = self.key(limiter, headers, client);
            let taken = match &limiter.buckets {
                Buckets::Shared(bucket) => bucket.take(&limiter.rate, nanos),
                Buckets::ByKey(table) => table.take(key, &limiter.rate, nanos),
            };
            let Err(retry_after) = taken else { continue };
            limiter.refused.fetch_add(1, Ordering::Relaxed);
            for earlier in &self.limits[..number] {
                let key = self.key(earlier, headers, client);
                match &earlier.buckets {
                    Buckets::Shared(bucket) => bucket.give_back(&earlier.rate),
                    Buckets::ByKey(table) => table.give_back(key, &earlier.rate),
                }
            }
            return Err(Refusal::RateLimited {
                requests: limiter.config.requests,
                per: limiter.config.per,
                by: describe(&limiter.config.by),
                retry_after,
            });
        }
        Ok(())
    }

    /// Each limit, with how many requests it refused.
    pub fn refusals(&self) -> impl Iterator<Item = (&config::RateLimit, u64)> {
        self.limits
            .iter()
            .map(|limiter| (&limiter.config, limiter.refused.load(Ordering::Relaxed)))
    }

    fn key(&self, limiter: &Limiter, headers: &HeaderMap, client: Option<&SocketAddr>) -> u64 {
        match &limiter.config.by {
            config::RateKey::Route => 0,
            config::RateKey::Client => self.keys.hash_one(client.map(network)),
            config::RateKey::Header(name) => {
                let value = headers.get(name).map(|value| value.as_bytes());
                self.keys.hash_one(value)
            }
        }
    }
}

/// What one client has to itself: an address, or a /64 network of IPv6.
fn network(client: &SocketAddr) -> u64 {
    let of_version_4 = |address: std::net::Ipv4Addr| u64::from(u32::from(address));
    match client.ip() {
        IpAddr::V4(address) => of_version_4(address),
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(address) => of_version_4(address),
            None => (u128::from(address) >> 64) as u64,
        },
    }
}

fn describe(by: &config::RateKey) -> &'static str {
    match by {
        config::RateKey::Route => "on this route",
        config::RateKey::Client => "from one client",
        config::RateKey::Header(_) => "with one value of a header",
    }
}

impl Concurrency {
    /// None: there is no limit. Those whom `former` lets be served count here too.
    pub fn new(
        most: u32,
        adaptive: Option<config::AdaptiveLimit>,
        former: Option<&Self>,
        now: Instant,
    ) -> Option<Self> {
        let learning = adaptive.map(|bounds| Gradient::new(bounds, now));
        let most = learning.as_ref().map_or(most, Gradient::limit);
        (most > 0).then(|| Self {
            most: AtomicUsize::new(usize::try_from(most).unwrap_or(usize::MAX)),
            learning: learning.map(Mutex::new),
            served: former
                .map(|former| former.served.clone())
                .unwrap_or_default(),
            refused: AtomicU64::new(former.map_or(0, Self::refused)),
        })
    }

    /// A place for one request.
    ///
    /// # Errors
    /// All are taken.
    pub fn enter(&self) -> Result<Permit, Refusal> {
        let most = self.most();
        let entered = self
            .served
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |served| {
                (served < most).then_some(served + 1)
            });
        match entered {
            Ok(_) => Ok(Permit(self.served.clone())),
            Err(_) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                Err(Refusal::TooManyAtATime {
                    most,
                    retry_after: PAUSE,
                })
            }
        }
    }

    /// A call was answered after `took`.
    pub fn answered(&self, took: Duration, timing: Option<Timing>, now: Instant) {
        self.learn(|gradient, served| gradient.answered(now, took, timing, served));
    }

    /// A call found no room where it was sent, or was not answered in time.
    pub fn overloaded(&self, now: Instant) {
        self.learn(|gradient, served| gradient.overloaded(now, served));
    }

    fn learn(&self, learn: impl FnOnce(&mut Gradient, u32)) {
        let Some(learning) = &self.learning else {
            return;
        };
        let served = u32::try_from(self.served()).unwrap_or(u32::MAX);
        let mut gradient = learning.lock();
        learn(&mut gradient, served);
        let most = usize::try_from(gradient.limit()).unwrap_or(usize::MAX);
        self.most.store(most, Ordering::Relaxed);
    }

    pub fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    pub fn served(&self) -> usize {
        self.served.load(Ordering::Relaxed)
    }

    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(requests: u32, by: config::RateKey) -> config::RateLimit {
        config::RateLimit {
            requests,
            per: Duration::from_secs(1),
            burst: requests,
            by,
        }
    }

    fn address(text: &str) -> SocketAddr {
        SocketAddr::new(text.parse().unwrap(), 1)
    }

    #[test]
    fn what_one_limit_refuses_costs_the_others_nothing() {
        let now = Instant::now();
        let limits = [
            limit(3, config::RateKey::Route),
            limit(1, config::RateKey::Header("x-key".into())),
        ];
        let limits = RateLimits::new(&limits, now).unwrap();
        let mut headers = HeaderMap::new();
        let mut take = |key: &'static str| {
            headers.insert("x-key", key.parse().unwrap());
            limits.take(&headers, None, now).is_ok()
        };
        assert!(take("a"));
        for _ in 0..10 {
            assert!(!take("a"));
        }
        assert!(take("b") && take("c"));
        assert!(!take("d"), "the route has had three");
        let refused: Vec<u64> = limits.refusals().map(|(_, count)| count).collect();
        assert_eq!(refused, [1, 10]);
        assert!(RateLimits::new(&[], now).is_none());
    }

    #[test]
    fn a_client_is_an_address_or_a_network() {
        let now = Instant::now();
        let limits = RateLimits::new(&[limit(1, config::RateKey::Client)], now).unwrap();
        let take = |client: &str| {
            let client = address(client);
            limits.take(&HeaderMap::new(), Some(&client), now).is_ok()
        };
        assert!(take("10.0.0.1") && take("10.0.0.2"));
        assert!(!take("10.0.0.1"));
        assert!(
            !take("::ffff:10.0.0.1"),
            "the same client over a dual stack"
        );
        assert!(take("fd00::1") && take("fd00:0:0:1::1"));
        assert!(!take("fd00::2"), "of the same network");
    }

    #[test]
    fn what_is_learned_holds_at_once() {
        let now = Instant::now();
        let bounds = config::AdaptiveLimit { min: 1, max: 100 };
        let concurrency = Concurrency::new(0, Some(bounds), None, now).unwrap();
        let before = concurrency.most();
        for number in 1..=20 {
            concurrency.overloaded(now + Duration::from_millis(10 * number));
        }
        assert!(concurrency.most() < before);
        let held: Vec<_> = std::iter::from_fn(|| concurrency.enter().ok()).collect();
        assert_eq!(held.len(), concurrency.most());
    }

    #[test]
    fn places_are_given_back() {
        let now = Instant::now();
        let fixed = |most, former| Concurrency::new(most, None, former, now);
        let concurrency = fixed(2, None).unwrap();
        let held = [concurrency.enter(), concurrency.enter()];
        assert!(held.iter().all(Result::is_ok));
        assert!(concurrency.enter().is_err());
        drop(held);
        assert_eq!((concurrency.served(), concurrency.refused()), (0, 1));
        let _held = concurrency.enter();
        let narrower = fixed(1, Some(&concurrency)).unwrap();
        assert!(narrower.enter().is_err(), "who is served counts on");
        assert!(fixed(0, None).is_none());
    }
}
