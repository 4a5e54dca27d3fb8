//! What the worker tells about itself: log, spans, metrics.

pub mod logs;
pub mod metrics;
pub mod prometheus;
pub mod sampling;
pub mod spans;

use std::sync::Arc;

use self::metrics::Metrics;
use self::spans::{Clock, Tracing};
use crate::batch::report::{BatchObserver, BatchReport};

/// Hears of every batch, for the spans when one of its requests is traced. Pages of metrics are written here.
#[derive(Debug, Clone, Default)]
pub struct Observer {
    pub tracing: Tracing,
    pub metrics: Arc<Metrics>,
}

impl BatchObserver for Observer {
    fn batch_done(&self, report: BatchReport<'_>) {
        if report.any_traced {
            self.tracing.batch(&report, Clock::read());
        }
    }
}
