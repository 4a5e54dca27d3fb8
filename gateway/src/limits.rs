//! How much a route takes: over time, by whom, and at a time.
//!
//! Asked where a request's route becomes known, on every data path. Rates are asked before the body is read, so that
//! a flood is not even taken in; a place among the concurrent ones is taken after it, since a slow client must not
//! hold one.
//!
//! Of a limit that gateways share (`shared`) every gateway has a bucket of its own as well, which it keeps as empty as
//! Redis last said the shared one is. So a flood is refused without asking Redis again, and while Redis is away each
//! gateway grants the rate for itself.

mod shared;

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use forebay_cache::Digest;
use forebay_config::gateway as config;
use http::HeaderMap;
use parking_lot::Mutex;
use pingora::protocols::http::ServerSession;

use self::shared::{Taken, Wanted};
use crate::gateway::Route;
use crate::redis::{Redis, Unanswered};
use crate::refusal::Refusal;
use crate::traffic::gradient::{Gradient, Timing};
use crate::traffic::rate::{Bucket, Rate, Table, later, nanos_since};

/// What is suggested where nothing tells how long a request will take.
const PAUSE: Duration = Duration::from_secs(1);

/// The limits of one route over time.
pub struct RateLimits {
    /// Of the route: what gateways share is known by it.
    name: String,
    limits: Vec<Limiter>,
    start: Instant,
    keys: RandomState,
    /// Requests for which Redis was asked in vain.
    alone: AtomicU64,
    /// It was said that Redis refuses to be asked.
    refusal_told: AtomicBool,
}

struct Limiter {
    config: config::RateLimit,
    rate: Rate,
    buckets: Buckets,
    refused: AtomicU64,
}

enum Buckets {
    One(Bucket),
    ByKey(Table),
}

/// Whose request it is.
#[derive(Clone, Copy)]
pub struct Caller<'a> {
    pub headers: &'a HeaderMap,
    pub client: Option<&'a SocketAddr>,
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
pub async fn take(route: &Route, session: &ServerSession) -> Result<(), Refusal> {
    let Some(rates) = &route.rates else {
        return Ok(());
    };
    let caller = Caller {
        headers: &session.req_header().headers,
        client: session.client_addr().and_then(|client| client.as_inet()),
    };
    let now = Instant::now();
    rates.take(caller, now)?;
    match &route.rates_redis {
        Some(redis) => rates.take_shared(redis, caller, now).await,
        None => Ok(()),
    }
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
    pub fn new(route: &str, limits: &[config::RateLimit], now: Instant) -> Option<Self> {
        let limiter = |limit: &config::RateLimit| Limiter {
            rate: Rate::new(limit),
            buckets: match limit.by {
                config::RateKey::Route => Buckets::One(Bucket::default()),
                config::RateKey::Client | config::RateKey::Header(_) => {
                    Buckets::ByKey(Table::default())
                }
            },
            config: limit.clone(),
            refused: AtomicU64::new(0),
        };
        (!limits.is_empty()).then(|| Self {
            name: route.to_owned(),
            limits: limits.iter().map(limiter).collect(),
            start: now,
            keys: RandomState::new(),
            alone: AtomicU64::new(0),
            refusal_told: AtomicBool::new(false),
        })
    }

    /// Takes a token of each limit, or of none.
    ///
    /// # Errors
    /// One of them has none left.
    pub fn take(&self, caller: Caller<'_>, now: Instant) -> Result<(), Refusal> {
        let nanos = nanos_since(self.start, now);
        for (number, limiter) in self.limits.iter().enumerate() {
            let key = self.key(limiter, caller);
            if let Err(retry_after) = limiter.take(key, nanos) {
                self.give_back(&self.limits[..number], caller);
                return Err(limiter.refusal(retry_after));
            }
        }
        Ok(())
    }

    /// Some limit is shared.
    fn are_shared(&self) -> bool {
        self.limits.iter().any(|limiter| limiter.config.shared)
    }

    /// The same of what gateways share, once there was a token of each here.
    async fn take_shared(
        &self,
        redis: &Redis,
        caller: Caller<'_>,
        now: Instant,
    ) -> Result<(), Refusal> {
        let shared = || self.limits.iter().filter(|limiter| limiter.config.shared);
        let wanted = shared().map(|limiter| Wanted {
            digest: limiter.digest(&self.name, caller),
            rate: limiter.rate,
        });
        let taken = shared::take(redis, wanted.collect()).await;
        let nanos = nanos_since(self.start, now);
        match taken {
            Ok(Taken::Yes(left)) => {
                for (limiter, left) in shared().zip(left) {
                    limiter.drain(self.key(limiter, caller), later(nanos, left));
                }
                Ok(())
            }
            Ok(Taken::No { place, lacks }) => {
                self.give_back(&self.limits, caller);
                let Some(limiter) = shared().nth(place) else {
                    return Ok(());
                };
                let full = limiter.rate.full_after(nanos, lacks);
                limiter.drain(self.key(limiter, caller), full);
                Err(limiter.refusal(lacks))
            }
            Err(unanswered) => {
                self.alone.fetch_add(1, Ordering::Relaxed);
                let refused = matches!(unanswered, Unanswered::Refused(_) | Unanswered::Unreadable);
                if refused && !self.refusal_told.swap(true, Ordering::Relaxed) {
                    let route = &self.name;
                    log::warn!(
                        "rate limits of route '{route}' are not shared: redis says: {unanswered}"
                    );
                }
                Ok(())
            }
        }
    }

    fn give_back(&self, limits: &[Limiter], caller: Caller<'_>) {
        for limiter in limits {
            let key = self.key(limiter, caller);
            match &limiter.buckets {
                Buckets::One(bucket) => bucket.give_back(&limiter.rate),
                Buckets::ByKey(table) => table.give_back(key, &limiter.rate),
            }
        }
    }

    /// Requests of shared limits that Redis was asked for in vain; None: no limit is shared.
    pub fn alone(&self) -> Option<u64> {
        self.are_shared()
            .then(|| self.alone.load(Ordering::Relaxed))
    }

    /// Each limit, with how many requests it refused.
    pub fn refusals(&self) -> impl Iterator<Item = (&config::RateLimit, u64)> {
        self.limits
            .iter()
            .map(|limiter| (&limiter.config, limiter.refused.load(Ordering::Relaxed)))
    }

    fn key(&self, limiter: &Limiter, caller: Caller<'_>) -> u64 {
        match &limiter.config.by {
            config::RateKey::Route => 0,
            config::RateKey::Client => self.keys.hash_one(caller.client.map(network)),
            config::RateKey::Header(name) => {
                let value = caller.headers.get(name).map(|value| value.as_bytes());
                self.keys.hash_one(value)
            }
        }
    }
}

impl Limiter {
    fn take(&self, key: u64, now: u64) -> Result<(), Duration> {
        match &self.buckets {
            Buckets::One(bucket) => bucket.take(&self.rate, now),
            Buckets::ByKey(table) => table.take(key, &self.rate, now),
        }
    }

    fn drain(&self, key: u64, full: u64) {
        match &self.buckets {
            Buckets::One(bucket) => bucket.drain(full),
            Buckets::ByKey(table) => table.drain(key, full),
        }
    }

    fn refusal(&self, retry_after: Duration) -> Refusal {
        self.refused.fetch_add(1, Ordering::Relaxed);
        Refusal::RateLimited {
            requests: self.config.requests,
            per: self.config.per,
            by: describe(&self.config.by),
            retry_after,
        }
    }

    /// Of the bucket that `caller` takes from: another limit has other ones.
    fn digest(&self, route: &str, caller: Caller<'_>) -> Digest {
        let mut digest = Digest::new();
        digest.field(route.as_bytes());
        for number in [self.rate.interval(), self.rate.depth()] {
            digest.bytes(&number.to_le_bytes());
        }
        match &self.config.by {
            config::RateKey::Route => digest.field(b"route"),
            config::RateKey::Client => {
                digest.field(b"client");
                digest.bytes(&caller.client.map_or(0, network).to_le_bytes());
            }
            config::RateKey::Header(name) => {
                digest.field(b"header");
                digest.field(name.as_bytes());
                if let Some(value) = caller.headers.get(name) {
                    digest.field(value.as_bytes());
                }
            }
        }
        digest
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
            shared: false,
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
        let limits = RateLimits::new("r", &limits, now).unwrap();
        let mut headers = HeaderMap::new();
        let mut take = |key: &'static str| {
            headers.insert("x-key", key.parse().unwrap());
            let caller = Caller {
                headers: &headers,
                client: None,
            };
            limits.take(caller, now).is_ok()
        };
        assert!(take("a"));
        for _ in 0..10 {
            assert!(!take("a"));
        }
        assert!(take("b") && take("c"));
        assert!(!take("d"), "the route has had three");
        let refused: Vec<u64> = limits.refusals().map(|(_, count)| count).collect();
        assert_eq!(refused, [1, 10]);
        assert!(RateLimits::new("r", &[], now).is_none());
    }

    #[test]
    fn a_client_is_an_address_or_a_network() {
        let now = Instant::now();
        let limits = RateLimits::new("r", &[limit(1, config::RateKey::Client)], now).unwrap();
        let take = |client: &str| {
            let client = address(client);
            let caller = Caller {
                headers: &HeaderMap::new(),
                client: Some(&client),
            };
            limits.take(caller, now).is_ok()
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
