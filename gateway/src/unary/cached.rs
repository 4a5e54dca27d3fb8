//! The course of a call on a route that keeps answers: a kept one, an identical call's, or a run of its own.
//!
//! Whoever waits for an identical call has its own deadline and does not share that call's failure: when a run fails
//! or its caller leaves, one of those who wait leads on. After two failed runs a call waits for nobody any more, so
//! that an error does not reach its callers one after the other.
//!
//! Answers of ModelInfer alone are kept, and of those only whole messages with status OK that are not compressed: a
//! run asks its worker for no compression, as the next one to get the answer may not understand it.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use forebay_cache::{Digest, Key};
use forebay_proto::framing::{self, FramingError};
use http::header::{AGE, CONTENT_TYPE, HeaderMap, HeaderValue};

use super::answerer::Answerer;
use super::attempts::{Answered, Call, timed_out};
use super::inflate::inflate;
use super::{course, headers};
use crate::cache::shared::{self, Place};
use crate::cache::{Leading, Next, Outcome, ResponseCache, Served, Waiting};
use crate::gateway::Route;
use crate::protocol::cache_control::{self, Wish};
use crate::protocol::method::Method;
use crate::protocol::{identity, kept};
use crate::refusal::Refusal;
use crate::telemetry::trace::RequestTrace;
use crate::traffic::cache::Kept;
use crate::upstream::{Answer, Message};

const COMPRESSION: &str = "grpc-accept-encoding";
/// Messages of so many bytes take long to digest, longer than a thread that serves others should be held.
const WORTH_A_THREAD: usize = 1 << 20;
/// Up to so many bytes an answer is copied behind its front: one frame instead of two.
const WORTH_A_FRAME: usize = 16 << 10;
const MOST_FAILED_RUNS: u32 = 2;

/// A call that has a key.
struct Asked {
    key: Key,
    id: String,
    model: Box<str>,
    wish: Wish,
}

/// How waiting for somebody else's run ended.
enum Waited {
    Answered(Arc<Kept>),
    /// Look again.
    Left,
    Failed,
    NotShared,
    OutOfTime,
}

/// Runs the call to its end. Errors are the gateway's own; a worker's error status is an answer.
pub(super) async fn run(
    cache: &Arc<ResponseCache>,
    route: &Route,
    mut call: Call,
    trace: &RequestTrace,
) -> Result<Answered, Refusal> {
    let Some(asked) = ask(cache, route, &mut call).await else {
        cache.count(Served::Bypass);
        let answered = pin!(course::direct(route, call, trace)).await?;
        return Ok(mark(answered, Served::Bypass));
    };
    let mut failed = 0;
    let leading = loop {
        let now = Instant::now();
        match cache.look(asked.key, asked.wish, now) {
            Next::Answer(kept) => {
                cache.count(Served::Hit);
                let age = Some(kept.age(now));
                return answer(route, &kept, &asked, &call, Served::Hit, age);
            }
            Next::Lead(leading) => match left_by_others(cache, route, &asked).await {
                None => break leading,
                Some(kept) => {
                    let kept = Arc::new(kept);
                    leading.answered(kept.clone());
                    cache.count(Served::Hit);
                    let age = Some(kept.age(Instant::now()));
                    return answer(route, &kept, &asked, &call, Served::Hit, age);
                }
            },
            Next::Wait(_) if failed >= MOST_FAILED_RUNS => break cache.alone(asked.key),
            Next::Wait(waiting) => match wait(cache, &call, waiting).await {
                Waited::Answered(kept) => {
                    cache.count(Served::Shared);
                    return answer(route, &kept, &asked, &call, Served::Shared, None);
                }
                Waited::Left => {}
                Waited::Failed => failed += 1,
                Waited::NotShared => break cache.alone(asked.key),
                Waited::OutOfTime => return Err(timed_out(route, &route.cluster, &call).refusal),
            },
        }
    };
    cache.count(Served::Miss);
    call.headers.remove(COMPRESSION);
    let answered = match pin!(course::direct(route, call, trace)).await {
        Ok(answered) => answered,
        Err(refusal) => {
            leading.ended(Outcome::Failed);
            return Err(refusal);
        }
    };
    Ok(mark(
        keep(leading, cache, route, asked, answered),
        Served::Miss,
    ))
}

/// What other gateways keep, for a client that takes what is kept.
async fn left_by_others(cache: &ResponseCache, route: &Route, asked: &Asked) -> Option<Kept> {
    let redis = route.redis.as_ref()?;
    if !asked.wish.takes(Duration::ZERO) {
        return None;
    }
    shared::look(
        redis,
        &place(cache, route, asked.key, &asked.model),
        asked.wish,
    )
    .await
}

fn place<'a>(cache: &'a ResponseCache, route: &'a Route, key: Key, model: &'a str) -> Place<'a> {
    Place {
        route: &route.config,
        cache: &cache.config,
        model,
        key,
    }
}

/// What is asked, as far as an answer to it may be kept.
async fn ask(cache: &ResponseCache, route: &Route, call: &mut Call) -> Option<Asked> {
    let wish = Wish::of(&call.headers);
    if wish == Wish::Bypass || Method::of(call.path.as_str()) != Method::Infer {
        return None;
    }
    let body = call.body.make_contiguous().clone();
    let encoding = call.headers.get("grpc-encoding").cloned();
    let limit = route.config.max_request_bytes;
    let mut digest = clients(&cache.config.vary, &call.headers);
    call.wish.write(&mut digest);
    let identify = move || {
        let message = plain(body, encoding.as_ref(), limit)?;
        let identity = identity::of(&message, digest).ok()?;
        Some(Asked {
            key: identity.key,
            id: identity.id.to_owned(),
            model: identity.model.into(),
            wish,
        })
    };
    if call.body.len() < WORTH_A_THREAD {
        return identify();
    }
    tokio::task::spawn_blocking(identify).await.ok().flatten()
}

/// The headers that tell clients apart.
fn clients(vary: &[String], request: &HeaderMap) -> Digest {
    let mut digest = Digest::new();
    digest.number(vary.len());
    for name in vary {
        let values = request.get_all(name.as_str());
        digest.field(name.as_bytes());
        digest.number(values.iter().count());
        for value in values {
            digest.field(value.as_bytes());
        }
    }
    digest
}

/// The one message of the body; None: there is none, and its worker will say so.
fn plain(body: Bytes, encoding: Option<&HeaderValue>, limit: u64) -> Option<Bytes> {
    match framing::unary_message(&body) {
        Ok(message) => Some(message),
        Err(FramingError::Compressed) => {
            let (header, compressed) = body.split_at_checked(framing::HEADER_LENGTH)?;
            let said = u32::from_be_bytes(header[1..].try_into().ok()?);
            if usize::try_from(said) != Ok(compressed.len()) {
                return None;
            }
            inflate(encoding?.as_bytes(), compressed, limit).ok()
        }
        Err(_) => None,
    }
}

async fn wait(cache: &ResponseCache, call: &Call, mut waiting: Waiting) -> Waited {
    let _counted = cache.enter();
    let Some(left) = call.deadline.remaining(Instant::now()) else {
        return Waited::OutOfTime;
    };
    let over = waiting.wait_for(|outcome| !matches!(outcome, Outcome::Underway));
    match tokio::time::timeout(left, over).await {
        Err(_) => Waited::OutOfTime,
        Ok(Err(_)) => Waited::Left,
        Ok(Ok(outcome)) => match &*outcome {
            Outcome::Answered(kept) => Waited::Answered(kept.clone()),
            Outcome::NotShared => Waited::NotShared,
            Outcome::Failed | Outcome::Underway => Waited::Failed,
        },
    }
}

/// Gives the answer of a run to those who wait for it, as far as it is theirs too.
fn keep(
    leading: Leading,
    cache: &ResponseCache,
    route: &Route,
    asked: Asked,
    mut answered: Answered,
) -> Answered {
    if answered.status != 0 {
        leading.ended(Outcome::Failed);
        return answered;
    }
    let key = asked.key;
    match keepable(cache, asked, &mut answered) {
        Some(kept) => {
            let kept = Arc::new(kept);
            if leading.answered(kept.clone())
                && let Some(redis) = &route.redis
            {
                shared::leave(redis, &place(cache, route, key, &kept.model), &kept);
            }
        }
        None => leading.ended(Outcome::NotShared),
    }
    answered
}

fn keepable(cache: &ResponseCache, asked: Asked, answered: &mut Answered) -> Option<Kept> {
    let answer = &mut answered.answer;
    let most = cache.config.max_entry_bytes + framing::HEADER_LENGTH as u64;
    if answer.rest.is_some() || answer.body.len() as u64 > most {
        return None;
    }
    let good_for = cache_control::good_for(&answer.head.headers, cache.config.ttl)?;
    let message = framing::unary_message(answer.body.make_contiguous()).ok()?;
    let made = Instant::now();
    Some(Kept {
        message: kept::without_id(&message).ok()?,
        model: asked.model,
        endpoint: answered.endpoint.name(),
        made,
        until: made + good_for,
    })
}

/// A kept answer, as the answer to this call.
fn answer(
    route: &Route,
    kept: &Kept,
    asked: &Asked,
    call: &Call,
    served: Served,
    age: Option<Duration>,
) -> Result<Answered, Refusal> {
    let length = kept.message.len();
    let front = kept::front(length, &asked.id).map_err(|error| Refusal::BadAnswer {
        cluster: route.config.cluster.clone(),
        reason: error.to_string(),
    })?;
    let mut body = Message::default();
    if length < WORTH_A_FRAME {
        body.push([&front[..], &kept.message].concat().into());
    } else {
        body.push(front);
        body.push(kept.message.clone());
    }
    let (mut head, ()) = http::Response::new(()).into_parts();
    head.headers
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    if let Some(age) = age {
        head.headers.insert(AGE, HeaderValue::from(age.as_secs()));
    }
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let answered = Answered {
        answer: Answer {
            head,
            body,
            trailers: Some(trailers),
            rest: None,
            held: call.held.another(),
        },
        status: 0,
        endpoint: Answerer::Kept(kept.endpoint.clone()),
        failure: None,
        tail: None,
    };
    Ok(mark(answered, served))
}

fn mark(mut answered: Answered, served: Served) -> Answered {
    let served = HeaderValue::from_static(served.name());
    answered.answer.head.headers.insert(headers::CACHE, served);
    answered
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzipped(message: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(message).unwrap();
        let compressed = encoder.finish().unwrap();
        let length = u32::try_from(compressed.len()).unwrap();
        [&[1][..], &length.to_be_bytes(), &compressed].concat()
    }

    #[test]
    fn compressed_or_not_it_is_the_same_message() {
        let gzip = HeaderValue::from_static("gzip");
        let framed = framing::frame_bytes(b"message").unwrap();
        assert_eq!(plain(framed, None, 100), Some(Bytes::from("message")));
        let body = Bytes::from(gzipped(b"message"));
        let message = plain(body.clone(), Some(&gzip), 100);
        assert_eq!(message, Some(Bytes::from("message")));
        assert_eq!(plain(body.clone(), Some(&gzip), 6), None);
        assert_eq!(plain(body.clone(), None, 100), None);
        let two = [&body[..], &body].concat();
        assert_eq!(plain(two.into(), Some(&gzip), 100), None);
        assert_eq!(plain(body.slice(..9), Some(&gzip), 100), None);
        assert_eq!(plain(Bytes::new(), Some(&gzip), 100), None);
    }

    #[test]
    fn clients_are_told_apart_by_what_the_route_names() {
        let vary = ["authorization".to_owned(), "x-tenant".to_owned()];
        let key = |headers: &[(&'static str, &'static str)]| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, HeaderValue::from_static(value));
            }
            clients(&vary, &map).key()
        };
        let keys = [
            key(&[]),
            key(&[("authorization", "a")]),
            key(&[("x-tenant", "a")]),
            key(&[("authorization", "")]),
            key(&[("authorization", "a"), ("authorization", "a")]),
            key(&[("authorization", "a"), ("x-tenant", "a")]),
        ];
        for (number, one) in keys.iter().enumerate() {
            for (other_number, other) in keys.iter().enumerate() {
                assert_eq!(
                    one == other,
                    number == other_number,
                    "{number} {other_number}"
                );
            }
        }
        assert_eq!(key(&[("x-other", "a")]), keys[0]);
    }
}
