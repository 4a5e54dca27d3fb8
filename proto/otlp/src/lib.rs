//! Spans out of the process: an OTLP exporter behind a bounded queue and a thread of its own.
//!
//! A request only ever puts a finished span into the queue; when the collector is slow or gone, spans
//! are dropped and the log says so once a minute at most. Knows nothing of what the spans describe.

use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use forebay_config::telemetry::{Otlp, OtlpProtocol, Telemetry};
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider, SpanData, SpanExporter,
};

/// Spans that wait for export at most; more are dropped.
const MAX_QUEUED_SPANS: usize = 16_384;
const MAX_SPANS_PER_EXPORT: usize = 1_024;
const EXPORT_INTERVAL: Duration = Duration::from_secs(1);
/// A batch span links every request of its batch, which the SDK's default of 128 would cut short.
const MAX_LINKS_PER_SPAN: u32 = 1_024;
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// Why no exporter could be made. A collector that does not answer is not among the reasons.
#[derive(Debug, thiserror::Error)]
pub enum OtlpError {
    #[error("telemetry.otlp.endpoint '{0}' must be an http:// URL with a host")]
    Endpoint(String),
    #[error("the OTLP exporter cannot be built: {0}")]
    Build(#[from] opentelemetry_otlp::ExporterBuildError),
}

/// The provider whose spans go to the configured collector; `None` when no collector is configured.
///
/// A request with a parent keeps its parent's decision; of the others `sampling_ratio` are traced.
/// Call inside a tokio runtime that outlives the provider: the gRPC exporter sends on it. Shut the
/// provider down from a thread that may block.
pub fn exporter(config: &Telemetry) -> Result<Option<SdkTracerProvider>, OtlpError> {
    let Some(otlp) = &config.otlp else {
        return Ok(None);
    };
    let processor = BatchSpanProcessor::builder(Reporting::new(transport(otlp)?, otlp))
        .with_batch_config(
            BatchConfigBuilder::default()
                .with_max_queue_size(MAX_QUEUED_SPANS)
                .with_max_export_batch_size(MAX_SPANS_PER_EXPORT)
                .with_scheduled_delay(EXPORT_INTERVAL)
                .build(),
        )
        .build();
    let root = Sampler::TraceIdRatioBased(config.sampling_ratio);
    Ok(Some(
        SdkTracerProvider::builder()
            .with_span_processor(processor)
            .with_sampler(Sampler::ParentBased(Box::new(root)))
            .with_max_links_per_span(MAX_LINKS_PER_SPAN)
            .with_resource(
                Resource::builder()
                    .with_service_name(config.service_name.clone())
                    .build(),
            )
            .build(),
    ))
}

fn transport(otlp: &Otlp) -> Result<opentelemetry_otlp::SpanExporter, OtlpError> {
    let endpoint = endpoint(otlp)?;
    let builder = opentelemetry_otlp::SpanExporter::builder();
    Ok(match otlp.protocol {
        OtlpProtocol::Http => builder
            .with_http()
            .with_endpoint(endpoint)
            .with_timeout(otlp.timeout)
            .build()?,
        OtlpProtocol::Grpc => builder
            .with_tonic()
            .with_endpoint(endpoint)
            .with_timeout(otlp.timeout)
            .build()?,
    })
}

/// The URL that spans are sent to: for HTTP a bare host gets the path that OTLP prescribes.
fn endpoint(otlp: &Otlp) -> Result<String, OtlpError> {
    let refuse = || OtlpError::Endpoint(otlp.endpoint.clone());
    let uri: http::Uri = otlp.endpoint.parse().map_err(|_| refuse())?;
    if uri.scheme_str() != Some("http") || uri.host().is_none_or(str::is_empty) {
        return Err(refuse());
    }
    let bare = uri.path() == "/" && uri.query().is_none();
    Ok(match otlp.protocol {
        OtlpProtocol::Http if bare => {
            format!("{}/v1/traces", otlp.endpoint.trim_end_matches('/'))
        }
        OtlpProtocol::Http | OtlpProtocol::Grpc => otlp.endpoint.clone(),
    })
}

/// Logs failed exports, seldom.
struct Reporting<E> {
    inner: E,
    endpoint: String,
    failures: Mutex<Failures>,
}

impl<E> Reporting<E> {
    fn new(inner: E, otlp: &Otlp) -> Reporting<E> {
        Reporting {
            inner,
            endpoint: otlp.endpoint.clone(),
            failures: Mutex::new(Failures::default()),
        }
    }
}

impl<E> fmt::Debug for Reporting<E> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Reporting({})", self.endpoint)
    }
}

impl<E: SpanExporter> SpanExporter for Reporting<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let result = self.inner.export(batch).await;
        if let Err(error) = &result {
            let lost = self
                .failures
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .record(spans, Instant::now());
            if let Some(lost) = lost {
                tracing::warn!(
                    endpoint = %self.endpoint,
                    lost_spans = lost,
                    "spans could not be exported, requests are not affected: {error}"
                );
            }
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// Spans lost since the last warning, and when that was.
#[derive(Debug, Default)]
struct Failures {
    lost: usize,
    warned: Option<Instant>,
}

impl Failures {
    /// Counts a failed export; the number of spans lost since the last warning when it is time for one.
    fn record(&mut self, spans: usize, now: Instant) -> Option<usize> {
        self.lost += spans;
        let due = self
            .warned
            .is_none_or(|warned| now.saturating_duration_since(warned) >= WARNING_INTERVAL);
        due.then(|| {
            self.warned = Some(now);
            std::mem::take(&mut self.lost)
        })
    }
}

#[cfg(test)]
mod tests;
