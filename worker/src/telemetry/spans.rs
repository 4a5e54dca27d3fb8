//! The worker's spans: one for each traced request, and those of the batches that traced requests were in.
//!
//! ```text
//! server span of a request (child of the caller's span, if it sent one)
//! ├── a step             only for ensembles: one for each, and below it what follows here
//! ├── queue              from submission until an instance took the request
//! ├── execute            from then until its answer, linked to the batch
//! └── batch              only below the batch's first traced request; linked to every traced one
//!     └── execution      the engine's run
//! ```
//!
//! A caller's decision to trace or not is kept; without a caller the sampling ratio decides (`sampling`). What is
//! not traced costs a look at one header.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use forebay_proto::trace_context::TraceParent;
use opentelemetry::trace::{
    Link, Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt,
    TraceFlags, TraceId, TraceState, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, Span};

use super::sampling::Sampling;
use crate::batch::report::BatchReport;

/// Starts spans, or does nothing when there is nowhere to send them.
#[derive(Debug, Clone, Default)]
pub struct Tracing {
    tracer: Option<(SdkTracer, Arc<Sampling>)>,
}

impl Tracing {
    /// `ratio` of the requests without a parent are traced. It is decided here, so the provider's own sampler must
    /// let every request without a parent pass.
    pub fn new(provider: Option<&SdkTracerProvider>, ratio: f64) -> Tracing {
        let tracer = |provider: &SdkTracerProvider| {
            let tracer = provider.tracer("forebay-worker");
            (tracer, Arc::new(Sampling::new(ratio)))
        };
        Tracing {
            tracer: provider.map(tracer),
        }
    }

    /// What decides; None when nothing is ever traced.
    pub fn sampling(&self) -> Option<&Sampling> {
        self.tracer.as_ref().map(|(_, sampling)| &**sampling)
    }

    /// The span of a request that has just arrived, if it is to be traced.
    pub fn server(&self, name: &'static str, traceparent: Option<&[u8]>) -> Option<ServerSpan> {
        let (tracer, sampling) = self.tracer.as_ref()?;
        let parent = traceparent.and_then(TraceParent::parse);
        if !sampling.wants(parent.as_ref().map(|parent| parent.sampled), fastrand::f64) {
            return None;
        }
        let context = match parent {
            Some(parent) => Context::new().with_remote_span_context(remote(&parent)),
            None => Context::new(),
        };
        let builder = SpanBuilder::from_name(name).with_kind(SpanKind::Server);
        let span = tracer.build_with_context(builder, &context);
        span.is_recording()
            .then_some(ServerSpan { span, ended: false })
    }

    /// The span of a step of an ensemble, which begins now. Its request is traced.
    pub fn step(&self, name: &str, request: &SpanContext) -> Option<ServerSpan> {
        let (tracer, _) = self.tracer.as_ref()?;
        let builder = SpanBuilder::from_name(name.to_owned());
        let span = tracer.build_with_context(builder, &below(request));
        Some(ServerSpan { span, ended: false })
    }

    /// The spans of a batch. `clock` was read after the batch.
    pub fn batch(&self, report: &BatchReport<'_>, clock: Clock) {
        let Some((tracer, _)) = &self.tracer else {
            return;
        };
        let links: Vec<Link> = report
            .requests
            .iter()
            .filter_map(|request| request.trace.clone())
            .map(|context| Link::new(context, Vec::new(), 0))
            .collect();
        let Some(first) = links.first() else { return };

        let rows = KeyValue::new("forebay.batch.rows", signed(report.rows));
        let mut batch = tracer.build_with_context(
            SpanBuilder::from_name("batch")
                .with_start_time(clock.at(report.gather.start))
                .with_links(links.clone())
                .with_attributes([
                    KeyValue::new("forebay.model.name", report.model.to_owned()),
                    KeyValue::new("forebay.model.version", report.version.to_string()),
                    KeyValue::new("forebay.instance", signed(report.instance)),
                    KeyValue::new("forebay.batch.requests", signed(report.requests.len())),
                    rows.clone(),
                ]),
            &below(&first.span_context),
        );
        if let Some(error) = report.error {
            batch.set_status(Status::error(error.to_owned()));
        }
        let batch_context = batch.span_context().clone();
        tracer
            .build_with_context(
                SpanBuilder::from_name("execution").with_start_time(clock.at(report.run.start)),
                &below(&batch_context),
            )
            .end_with_timestamp(clock.at(report.run.end));
        batch.end_with_timestamp(clock.at(report.scatter.end));

        for request in report.requests {
            let Some(parent) = request.trace.as_ref().map(below) else {
                continue;
            };
            let started = clock.at(request.started);
            tracer
                .build_with_context(
                    SpanBuilder::from_name("queue").with_start_time(clock.at(request.enqueued)),
                    &parent,
                )
                .end_with_timestamp(started);
            let execute = SpanBuilder::from_name("execute")
                .with_start_time(started)
                .with_links(vec![Link::new(batch_context.clone(), Vec::new(), 0)])
                .with_attributes([
                    rows.clone(),
                    KeyValue::new("forebay.batch.span_id", batch_context.span_id().to_string()),
                ]);
            tracer
                .build_with_context(execute, &parent)
                .end_with_timestamp(clock.at(report.scatter.end));
        }
    }
}

/// The span of one request, or of one step of an ensemble on its behalf; ends as cancelled when dropped before `end`.
#[derive(Debug)]
pub struct ServerSpan {
    span: Span,
    ended: bool,
}

impl ServerSpan {
    /// What the spans of this request's queueing and batch hang below.
    pub fn context(&self) -> SpanContext {
        self.span.span_context().clone()
    }

    pub fn set(&mut self, key: &'static str, value: impl Into<opentelemetry::Value>) {
        self.span.set_attribute(KeyValue::new(key, value));
    }

    /// `error`: why the request failed.
    pub fn end(mut self, error: Option<String>) {
        if let Some(error) = error {
            self.span.set_status(Status::error(error));
        }
        self.ended = true;
        self.span.end();
    }
}

impl Drop for ServerSpan {
    fn drop(&mut self) {
        if !self.ended {
            self.span
                .set_status(Status::error("cancelled by the caller"));
        }
    }
}

/// Both clocks, read at one moment: turns instants into the times that spans carry.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    instant: Instant,
    system: SystemTime,
}

impl Clock {
    pub fn read() -> Clock {
        Clock {
            instant: Instant::now(),
            system: SystemTime::now(),
        }
    }

    fn at(&self, instant: Instant) -> SystemTime {
        let time = match self.instant.checked_duration_since(instant) {
            Some(before) => self.system.checked_sub(before),
            None => self
                .system
                .checked_add(instant.duration_since(self.instant)),
        };
        time.unwrap_or(self.system)
    }
}

fn below(parent: &SpanContext) -> Context {
    Context::new().with_remote_span_context(parent.clone())
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn remote(parent: &TraceParent) -> SpanContext {
    SpanContext::new(
        TraceId::from_bytes(parent.trace_id),
        SpanId::from_bytes(parent.span_id),
        TraceFlags::SAMPLED,
        true,
        TraceState::NONE,
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use opentelemetry_sdk::trace::SpanData;

    use super::*;
    use crate::batch::report::{self, RequestReport};
    use crate::testbed::Spans;

    const SAMPLED: &[u8] = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const NOT_SAMPLED: &[u8] = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

    fn named<'a>(spans: &'a [SpanData], name: &str) -> Vec<&'a SpanData> {
        spans.iter().filter(|span| span.name == name).collect()
    }

    #[test]
    fn the_parent_decides_and_without_one_the_ratio() {
        for (ratio, parent, traced) in [
            (0.0, Some(SAMPLED), true),
            (1.0, Some(NOT_SAMPLED), false),
            (1.0, None, true),
            (0.0, None, false),
            (1.0, Some(&b"00-nonsense"[..]), true),
        ] {
            let tracing = Tracing::new(Some(&Spans::default().provider()), ratio);
            assert_eq!(
                tracing.server("call", parent).is_some(),
                traced,
                "{ratio} {parent:?}"
            );
        }
        assert!(Tracing::default().server("call", Some(SAMPLED)).is_none());
    }

    #[test]
    fn a_span_dropped_early_is_an_error() {
        let spans = Spans::default();
        let tracing = Tracing::new(Some(&spans.provider()), 1.0);
        drop(tracing.server("call", None));
        tracing.server("call", None).unwrap().end(None);
        tracing
            .server("call", None)
            .unwrap()
            .end(Some("broke".to_owned()));
        let statuses: Vec<Status> = spans
            .finished()
            .into_iter()
            .map(|span| span.status)
            .collect();
        let want = [
            Status::error("cancelled by the caller"),
            Status::Unset,
            Status::error("broke"),
        ];
        assert_eq!(statuses, want);
    }

    #[test]
    fn a_batch_hangs_below_its_first_traced_request_and_links_all_of_them() {
        let spans = Spans::default();
        let provider = spans.provider();
        let tracing = Tracing::new(Some(&provider), 1.0);
        let servers = [
            tracing.server("a", Some(SAMPLED)).unwrap(),
            tracing.server("b", None).unwrap(),
        ];
        let contexts = servers.each_ref().map(ServerSpan::context);
        let clock = Clock::read();
        let start = clock.instant;
        let at = |millis| start + Duration::from_millis(millis);
        let request = |trace| RequestReport {
            trace,
            rows: 1,
            enqueued: start,
            started: at(2),
        };
        let [first, second] = contexts.clone().map(Some);
        let requests = [request(None), request(first), request(second)];
        tracing.batch(
            &BatchReport {
                model: "mlp",
                version: 1,
                instance: 0,
                rows: 3,
                gather: report::Span {
                    start: at(2),
                    end: at(3),
                },
                run: report::Span {
                    start: at(3),
                    end: at(7),
                },
                scatter: report::Span {
                    start: at(7),
                    end: at(8),
                },
                error: None,
                requests: &requests,
                any_traced: true,
            },
            clock,
        );
        let finished = spans.finished();
        let [batch] = named(&finished, "batch")[..] else {
            panic!("one batch span")
        };
        let id = batch.span_context.span_id();
        assert_eq!(batch.parent_span_id, contexts[0].span_id());
        assert_eq!(batch.span_context.trace_id(), contexts[0].trace_id());
        let linked: Vec<SpanId> = batch
            .links
            .links
            .iter()
            .map(|link| link.span_context.span_id())
            .collect();
        assert_eq!(linked, contexts.each_ref().map(SpanContext::span_id));
        assert!(
            batch
                .attributes
                .contains(&KeyValue::new("forebay.batch.rows", 3))
        );
        assert!(
            batch
                .attributes
                .contains(&KeyValue::new("forebay.batch.requests", 3))
        );

        let [execution] = named(&finished, "execution")[..] else {
            panic!("one execution span")
        };
        assert_eq!(execution.parent_span_id, id);
        let took = execution
            .end_time
            .duration_since(execution.start_time)
            .unwrap();
        assert_eq!(took, Duration::from_millis(4));

        let parents = |name| {
            named(&finished, name)
                .iter()
                .map(|span| span.parent_span_id)
                .collect::<Vec<_>>()
        };
        let both = contexts.each_ref().map(SpanContext::span_id);
        assert_eq!(
            (parents("queue"), parents("execute")),
            (both.to_vec(), both.to_vec())
        );
        for execute in named(&finished, "execute") {
            assert_eq!(execute.links.links[0].span_context.span_id(), id);
            assert_eq!(execute.start_time, named(&finished, "queue")[0].end_time);
        }
    }
}
