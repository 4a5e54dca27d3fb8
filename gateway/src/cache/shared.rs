//! The answers that several gateways keep together in Redis.
//!
//! Whoever leads looks there before it asks a worker, and leaves its answer there without waiting. What is found is
//! kept in the process as well, and no longer than where it was found. Keys name the route and, as digests, model and
//! request; gateways share the answers of routes that have the same name and lead to a cluster of the same name.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use forebay_cache::{Digest, Key};
use forebay_config::gateway as config;
use redis::cmd;

use crate::protocol::cache_control::Wish;
use crate::protocol::shared_answer::{OVERHEAD, SharedAnswer};
use crate::redis::{Lookup, Redis, Unanswered};
use crate::traffic::cache::Kept;

/// Keys that one round of a purge looks at.
const ROUND: usize = 1000;
/// How long a purge may take.
const PURGE: Duration = Duration::from_secs(10);

/// Where the answer to a request is.
pub struct Place<'a> {
    pub route: &'a config::Route,
    pub cache: &'a config::Cache,
    pub model: &'a str,
    pub key: Key,
}

impl Place<'_> {
    fn name(&self, redis: &Redis) -> String {
        let request = hex(self.key.as_bytes());
        let models = models(redis, self.route, Some(self.model));
        format!("{models}{request}")
    }
}

/// What the keys of all answers of a model begin with, or of all models.
fn models(redis: &Redis, route: &config::Route, model: Option<&str>) -> String {
    let digest = |name: &str| {
        let mut digest = Digest::new();
        digest.bytes(name.as_bytes());
        hex(&digest.key().as_bytes()[..8])
    };
    let model = model.map_or_else(String::new, |model| format!("{}:", digest(model)));
    let prefix = redis.prefix();
    format!("{prefix}:answer:{}:{}:{model}", route.name, route.cluster)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The answer that another gateway left, if it is to this client's wish.
pub async fn look(redis: &Redis, place: &Place<'_>, wish: Wish) -> Option<Kept> {
    let most = place.cache.max_entry_bytes + OVERHEAD as u64;
    // Of a value that is none of ours, however long, no more than this is sent.
    let command = cmd("GETRANGE")
        .arg(place.name(redis))
        .arg(0)
        .arg(most)
        .take();
    let found = redis.ask::<Bytes>(&command).await;
    let (found, lookup) = match found {
        Err(Unanswered::Away) => (None, Lookup::Failed),
        Err(error) => {
            log::debug!("redis: nothing read: {error}");
            (None, Lookup::Failed)
        }
        Ok(value) if value.is_empty() => (None, Lookup::Miss),
        Ok(value) => match SharedAnswer::decode(&value, &place.key) {
            None => (None, Lookup::Unreadable),
            Some(answer) => match kept(answer, place, wish) {
                None => (None, Lookup::Miss),
                found => (found, Lookup::Hit),
            },
        },
    };
    redis.counts().looked(lookup);
    found
}

/// By this process' clocks; None: too old.
fn kept(answer: SharedAnswer, place: &Place<'_>, wish: Wish) -> Option<Kept> {
    let (now, time) = (Instant::now(), since_1970());
    let age = time.saturating_sub(answer.made);
    let left = answer.until.saturating_sub(time).min(place.cache.ttl);
    if left.is_zero() || !wish.takes(age) {
        return None;
    }
    Some(Kept {
        message: answer.message,
        model: place.model.into(),
        endpoint: answer.endpoint,
        made: now.checked_sub(age)?,
        until: now + left,
    })
}

/// Leaves an answer for others, without waiting.
pub fn leave(redis: &Redis, place: &Place<'_>, kept: &Kept) {
    let name = place.name(redis);
    let (now, time) = (Instant::now(), since_1970());
    let left = kept.until.saturating_duration_since(now);
    let answer = SharedAnswer {
        message: kept.message.clone(),
        endpoint: kept.endpoint.clone(),
        made: time.saturating_sub(kept.age(now)),
        until: time + left,
    };
    let key = place.key;
    redis.write(move || {
        let value = answer.encode(&key)?;
        let milliseconds = u64::try_from(left.as_millis()).ok()?.max(1);
        let mut command = cmd("SET");
        command
            .arg(name)
            .arg(&value[..])
            .arg("PX")
            .arg(milliseconds);
        Some(command)
    });
}

/// Removes what is kept of a route, of one model or of all; how many answers that were.
pub async fn purge(
    redis: &Redis,
    route: &config::Route,
    model: Option<&str>,
) -> Result<usize, Unanswered> {
    let pattern = format!("{}*", models(redis, route, model));
    let work = async {
        let (mut cursor, mut removed) = (0_u64, 0);
        loop {
            let mut scan = cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(&pattern);
            let scan = scan.arg("COUNT").arg(ROUND);
            let (next, keys): (u64, Vec<String>) = redis.ask(scan).await?;
            if !keys.is_empty() {
                removed += redis.ask::<usize>(cmd("UNLINK").arg(keys)).await?;
            }
            cursor = next;
            if cursor == 0 {
                return Ok::<usize, Unanswered>(removed);
            }
        }
    };
    tokio::time::timeout(PURGE, work)
        .await
        .unwrap_or(Err(Unanswered::Late))
}

fn since_1970() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}
