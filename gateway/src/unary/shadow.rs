//! Shadow traffic: after an inference call was answered, a copy of it goes to another cluster, and the two answers are
//! compared.
//!
//! The client is answered first and never learns of it. A copy has room of its own, or is not made; it is tried once, and
//! nothing that it meets counts for the route or its clusters. Decoding and comparing happen off the serving threads.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use forebay_config::gateway as config;
use forebay_proto::framing;
use forebay_proto::inference::ModelInferResponse;
use forebay_proto::status::Code;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use prost::Message as _;

use super::attempts::{self, Answered, Call};
use super::headers;
use super::inflate::inflate;
use crate::fleet::{Ask, Cluster};
use crate::memory::Held;
use crate::protocol::compare::{self, Finding};
use crate::protocol::method::Method;
use crate::protocol::mirror;
use crate::telemetry::shadow::{End, ShadowMetrics};
use crate::telemetry::trace::TRACEPARENT;
use crate::traffic::retry::{Failure, Outcome};
use crate::traffic::room::Room;
use crate::upstream::{Answer, Message, exchange};

/// Tells the worker that nobody waits for the answer.
const SHADOW: HeaderName = HeaderName::from_static("x-forebay-shadow");
/// An answer may be so much larger than the real one, and twice as large on top.
const SLACK: usize = 64 << 10;

/// A route's shadow, in its running form.
pub struct Shadow {
    pub config: config::Shadow,
    pub room: Arc<Room>,
    pub metrics: Arc<ShadowMetrics>,
    cluster: Arc<Cluster>,
}

/// A call that was answered.
struct Original {
    path: PathAndQuery,
    headers: HeaderMap,
    body: Message,
    status: u16,
    encoding: Option<HeaderValue>,
    answer: Message,
    /// What the copy takes of the process's memory.
    held: Held,
}

impl Shadow {
    /// `former`: that of the route before a reload, which hands on what it counted.
    pub fn new(config: config::Shadow, cluster: Arc<Cluster>, former: Option<&Self>) -> Self {
        Self {
            room: former.map(|former| former.room.clone()).unwrap_or_default(),
            metrics: former
                .map(|former| former.metrics.clone())
                .unwrap_or_default(),
            config,
            cluster,
        }
    }

    /// Sends a copy of the call, if this is one to be copied; returns at once. `random`: uniform from 0 to 1.
    pub fn follow(self: &Arc<Self>, call: &Call, answered: &Answered, random: f64) {
        let is_inference = Method::of(call.path.path()) == Method::Infer;
        if random >= self.config.share || !is_inference {
            return;
        }
        let overloaded = matches!(
            Code::from_i32(i32::from(answered.status)),
            Code::ResourceExhausted | Code::Unavailable
        );
        if overloaded {
            // A worker that has no room for clients gets no copies.
            return self.metrics.ended(End::Dropped);
        }
        if answered.answer.rest.is_some() {
            // It was too large to be held back.
            return self.metrics.ended(End::Unsuitable);
        }
        let (request, answer) = (call.body.len(), answered.answer.body.len());
        // Both, each once more, and as much again for an answer that turns out to be larger.
        let bytes = 2 * request + 2 * answer + largest(answer);
        let limits = (u64::from(self.config.max_requests), self.config.max_bytes);
        let place = self.room.enter(bytes as u64, limits.0, limits.1);
        let mut held = call.held.another();
        let Some(place) = place.filter(|_| held.try_grow(request + answer)) else {
            return self.metrics.ended(End::Dropped);
        };
        let original = Original {
            path: call.path.clone(),
            headers: call.headers.clone(),
            body: call.body.clone(),
            status: answered.status,
            encoding: answered.answer.head.headers.get("grpc-encoding").cloned(),
            answer: answered.answer.body.clone(),
            held,
        };
        let shadow = self.clone();
        tokio::spawn(async move {
            let _place = place;
            let end = shadow.copy(original).await;
            shadow.metrics.ended(end);
        });
    }

    async fn copy(self: &Arc<Self>, mut original: Original) -> End {
        let most = largest(original.answer.len());
        let (shadow, framed) = (self.clone(), original.body.make_contiguous().clone());
        let encoding = original.headers.get("grpc-encoding").cloned();
        let copied = tokio::task::spawn_blocking(move || {
            let message = unframed(&framed, encoding.as_ref(), shadow.inflatable())?;
            let config = &shadow.config;
            let message =
                mirror::copy(message, config.model.as_deref(), config.version.as_deref())?;
            framing::frame_bytes(&message).ok()
        });
        let Ok(Some(framed)) = copied.await else {
            return End::Unsuitable;
        };
        let started = Instant::now();
        let answer = self.exchange(&original, framed.into(), most).await;
        let Ok(mut answer) = answer else {
            return End::NoAnswer;
        };
        self.metrics.answered(started.elapsed());
        match (original.status, attempts::status_of(&answer)) {
            (0, 0) => {}
            (0, _) => return End::OnlyShadowFailed,
            (_, 0) => return End::OnlyOriginalFailed,
            _ => return End::BothFailed,
        }
        if answer.rest.is_some() {
            return End::Unreadable;
        }
        let encoding = answer.head.headers.get("grpc-encoding").cloned();
        let first = (original.answer.make_contiguous().clone(), original.encoding);
        let second = (answer.body.make_contiguous().clone(), encoding);
        let shadow = self.clone();
        let compared = tokio::task::spawn_blocking(move || {
            let decode = |(framed, encoding): (Bytes, Option<HeaderValue>)| {
                let message = unframed(&framed, encoding.as_ref(), shadow.inflatable())?;
                ModelInferResponse::decode(message).ok()
            };
            let (first, second) = (decode(first)?, decode(second)?);
            let findings: Vec<(&str, Finding)> = compare::compare(&first, &second);
            shadow.metrics.found(&findings);
            Some(())
        });
        match compared.await {
            Ok(Some(())) => End::Compared,
            _ => End::Unreadable,
        }
    }

    /// What a compressed message may become: a copy's share of the memory for all.
    fn inflatable(&self) -> u64 {
        self.config.max_bytes / u64::from(self.config.max_requests.max(1))
    }

    /// One attempt, with a lease on the shadow's own cluster.
    async fn exchange(
        &self,
        original: &Original,
        body: Message,
        most: usize,
    ) -> Result<Answer, Failure> {
        let lease = self.cluster.lease(&Ask::new(&[], Instant::now()));
        let lease = lease.map_err(|_| Failure::Connect)?;
        let mut sent = original.headers.clone();
        for name in [TRACEPARENT, HeaderName::from_static("grpc-encoding")] {
            sent.remove(name);
        }
        sent.remove("grpc-accept-encoding");
        sent.insert(SHADOW, HeaderValue::from_static("true"));
        headers::set_timeout(&mut sent, self.config.timeout);
        let endpoint = lease.endpoint().clone();
        let request = attempts::request(&original.path, sent, &endpoint);
        let exchanging = exchange(
            &endpoint.channels,
            request,
            body,
            most,
            original.held.another(),
        );
        let result = tokio::time::timeout(self.config.timeout, exchanging).await;
        let result = result.unwrap_or(Err(Failure::TimedOut));
        let failure = match &result {
            Err(failure) => Some(*failure),
            Ok(answer) => attempts::failure_of(answer, attempts::status_of(answer)),
        };
        let outcome = failure.map_or(Outcome::Success, |failure| failure.outcome());
        lease.finish(outcome, Instant::now());
        result
    }
}

/// How large the answer to a copy may be.
fn largest(answer: usize) -> usize {
    2 * answer + SLACK
}

/// The message of a frame, inflated to at most `limit` bytes; None: it is none, or larger.
fn unframed(framed: &Bytes, encoding: Option<&HeaderValue>, limit: u64) -> Option<Bytes> {
    if framed.first() != Some(&1) {
        return framing::unary_message(framed).ok();
    }
    let encoding = encoding.map_or(&b"identity"[..], |value| value.as_bytes());
    inflate(encoding, framed.get(framing::HEADER_LENGTH..)?, limit).ok()
}
