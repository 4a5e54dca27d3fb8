//! The trace of one request: a server span here, a client span per attempt, and the W3C context on both sides.
//!
//! A request that is not sampled costs one header at most: no span object is made for it. A parent's decision
//! is kept; without a parent the configured ratio decides, and the decision travels on, so that gateway and
//! worker never disagree about a trace.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use forebay_config::telemetry::Telemetry;
use forebay_otlp::OtlpError;
use forebay_proto::trace_context::TraceParent;
use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::trace::{
    Span as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId,
    TraceState, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, Span};
use tokio::runtime::Handle;

use crate::unary::headers::CACHE;

pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// How long the last spans may take to leave.
const FLUSH: Duration = Duration::from_secs(2);

/// What traces are made with, for as long as a request uses it.
pub struct Tracing {
    export: Option<Export>,
    ratio: f64,
}

struct Export {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

/// What is known about the trace of one request.
pub enum RequestTrace {
    /// Nothing to add: what the client sent, if anything, goes on as it is.
    Untouched,
    /// A new trace that is not recorded; the worker is told so.
    Unsampled(HeaderValue),
    Sampled(Box<Recorded>),
}

pub struct Recorded {
    server: Span,
    /// Its exporter stays until the request is over.
    tracing: Arc<Tracing>,
}

/// The client span of one attempt.
pub struct AttemptSpan(Span);

impl Tracing {
    /// `runtime` outlives the exporter, which sends on it.
    pub fn start(config: &Telemetry, runtime: &Handle) -> Result<Self, OtlpError> {
        let _inside = runtime.enter();
        // Only requests that were chosen here ever get spans, so the SDK itself samples them all.
        let provider = forebay_otlp::exporter(&Telemetry {
            sampling_ratio: 1.0,
            ..config.clone()
        })?;
        Ok(Self {
            export: provider.map(|provider| Export {
                tracer: provider.tracer("forebay-gateway"),
                provider,
            }),
            ratio: config.sampling_ratio,
        })
    }

    /// Sends the spans that are still held, and takes no more. Blocks, for two seconds at most.
    pub fn flush(&self) {
        if let Some(Export { provider, .. }) = &self.export
            && let Err(error) = provider.shutdown_with_timeout(FLUSH)
        {
            log::debug!("last spans not exported: {error}");
        }
    }

    /// Decides on a request by its headers; `name` is the server span's.
    pub fn begin(self: &Arc<Self>, headers: &HeaderMap, name: &str) -> RequestTrace {
        let Some(Export { tracer, .. }) = &self.export else {
            return RequestTrace::Untouched;
        };
        let parent = headers
            .get(TRACEPARENT)
            .and_then(|value| TraceParent::parse(value.as_bytes()));
        let context = match parent {
            Some(parent) if !parent.sampled => return RequestTrace::Untouched,
            Some(parent) => Context::new().with_remote_span_context(span_context(&parent)),
            None if fastrand::f64() < self.ratio => Context::new(),
            None => {
                let fresh = TraceParent {
                    trace_id: random_id(),
                    span_id: random_id(),
                    sampled: false,
                };
                return RequestTrace::Unsampled(header(&fresh));
            }
        };
        let builder = tracer
            .span_builder(name.to_owned())
            .with_kind(SpanKind::Server)
            .with_start_time(SystemTime::now());
        let server = tracer.build_with_context(builder, &context);
        RequestTrace::Sampled(Box::new(Recorded {
            server,
            tracing: self.clone(),
        }))
    }
}

impl RequestTrace {
    /// Puts the context of one attempt into its headers; a span when the request is sampled.
    pub fn attempt(
        &self,
        headers: &mut HeaderMap,
        describe: impl FnOnce() -> Vec<KeyValue>,
    ) -> Option<AttemptSpan> {
        match self {
            Self::Untouched => None,
            Self::Unsampled(value) => {
                headers.insert(TRACEPARENT, value.clone());
                None
            }
            Self::Sampled(recorded) => {
                let Export { tracer, .. } = recorded.tracing.export.as_ref()?;
                let parent =
                    Context::new().with_remote_span_context(recorded.server.span_context().clone());
                let builder = tracer
                    .span_builder("attempt")
                    .with_kind(SpanKind::Client)
                    .with_attributes(describe());
                let span = tracer.build_with_context(builder, &parent);
                let context = span.span_context();
                let sent = TraceParent {
                    trace_id: context.trace_id().to_bytes(),
                    span_id: context.span_id().to_bytes(),
                    sampled: true,
                };
                headers.insert(TRACEPARENT, header(&sent));
                Some(AttemptSpan(span))
            }
        }
    }

    /// Adds to the server span, if there is one.
    pub fn describe(&mut self, attributes: impl FnOnce() -> Vec<KeyValue>) {
        if let Self::Sampled(recorded) = self {
            recorded.server.set_attributes(attributes());
        }
    }

    /// How the route's cache served the call, as its answer says; nothing on a route without one.
    pub fn describe_cache(&mut self, has_cache: bool, answer: &HeaderMap) {
        let served = answer.get(CACHE).filter(|_| has_cache);
        if let Some(served) = served.and_then(|served| served.to_str().ok()) {
            self.describe(|| vec![KeyValue::new("forebay.cache", served.to_owned())]);
        }
    }

    /// Ends the server span; `error` is set for calls that failed.
    pub fn end(&mut self, error: Option<&str>) {
        if let Self::Sampled(recorded) = self {
            if let Some(error) = error {
                recorded.server.set_status(Status::error(error.to_owned()));
            }
            recorded.server.end();
        }
    }
}

impl AttemptSpan {
    pub fn end(mut self, outcome: Result<u16, &str>) {
        match outcome {
            Ok(0) => {}
            Ok(code) => {
                self.0
                    .set_attribute(KeyValue::new("rpc.grpc.status_code", i64::from(code)));
                self.0
                    .set_status(Status::error(format!("grpc-status {code}")));
            }
            Err(failure) => self.0.set_status(Status::error(failure.to_owned())),
        }
        self.0.end();
    }
}

fn span_context(parent: &TraceParent) -> SpanContext {
    SpanContext::new(
        TraceId::from_bytes(parent.trace_id),
        SpanId::from_bytes(parent.span_id),
        TraceFlags::SAMPLED,
        true,
        TraceState::default(),
    )
}

fn header(parent: &TraceParent) -> HeaderValue {
    let mut value =
        HeaderValue::from_bytes(&parent.write()).expect("a traceparent is visible ASCII");
    // Different in every request: keep it out of HPACK's dynamic table.
    value.set_sensitive(true);
    value
}

fn random_id<const N: usize>() -> [u8; N] {
    let mut id = [0; N];
    fastrand::fill(&mut id);
    if id.iter().all(|byte| *byte == 0) {
        id[N - 1] = 1;
    }
    id
}
