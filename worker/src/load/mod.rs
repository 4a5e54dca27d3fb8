//! How loaded this process is, for those who balance over several: ORCA load reports (xDS `OrcaLoadReport`, gRFC
//! A51), as a trailer of every answer and as a stream.
//!
//! What takes system calls or looks at every model is sampled once a second. A trailer is made at most every 5
//! ms for each model and shared by all answers of that time; it is about the model that was asked, since naming
//! all of them in every answer would cost more than it tells. Usage of GPUs is not reported.

mod host;
mod procfs;
mod report;
mod sampler;
mod window;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use forebay_proto::orca::OrcaLoadReport;
use http::header::{HeaderName, HeaderValue};
use parking_lot::RwLock;
use prost::Message;
use tonic::metadata::{Binary, MetadataValue};

use self::report::{Detail, ModelLoad, Recent, Whole, report};
pub use self::sampler::sample;
use crate::repository::Registry;
use crate::served::Served;

/// Trailer or header with a report: base64 of the message.
pub const TRAILER: HeaderName = HeaderName::from_static("endpoint-load-metrics-bin");
/// A trailer is shared for so long.
const FRESH: Duration = Duration::from_millis(5);

/// What is known of the load.
#[derive(Debug)]
pub struct Load {
    start: Instant,
    answered: AtomicU64,
    failed: AtomicU64,
    /// Of the requests that are here.
    rows: AtomicU64,
    sampled: RwLock<Sampled>,
    trailers: RwLock<ByModel<Arc<Trailer>>>,
    /// Of answers that no model gave.
    bare: Trailer,
}

type ByModel<T> = HashMap<String, BTreeMap<u64, T>>;

#[derive(Debug, Default)]
struct Sampled {
    whole: Whole,
    models: ByModel<Recent>,
}

/// A request that is here, until it is dropped: from then on its rows do not count any more.
#[derive(Debug)]
pub struct Presence {
    load: Arc<Load>,
    rows: u32,
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.load
            .rows
            .fetch_sub(u64::from(self.rows), Ordering::Relaxed);
    }
}

/// A report, encoded.
#[derive(Debug)]
struct Trailer {
    /// When it is to be made anew: microseconds since the start.
    due: AtomicU64,
    value: ArcSwap<HeaderValue>,
}

impl Default for Load {
    fn default() -> Load {
        Load {
            start: Instant::now(),
            answered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            rows: AtomicU64::new(0),
            sampled: RwLock::default(),
            trailers: RwLock::default(),
            // Due at once, so that the first who asks makes it.
            bare: Trailer {
                due: AtomicU64::new(0),
                value: ArcSwap::from_pointee(encode(&OrcaLoadReport::default())),
            },
        }
    }
}

impl Load {
    /// An inference was answered; `failed`: with an error that is not the caller's own mistake.
    pub fn count(&self, failed: bool) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        if failed {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A request of so many rows came. It is to be held until its answer is made, report included: so a report tells
    /// of all rows whose answers its reader has not had yet.
    pub fn enter(self: &Arc<Self>, rows: u32) -> Presence {
        self.rows.fetch_add(u64::from(rows), Ordering::Relaxed);
        Presence {
            load: Arc::clone(self),
            rows,
        }
    }

    /// The trailer of an answer about `model`; `None`: about none.
    pub fn trailer(&self, model: Option<&Served>, now: Instant) -> HeaderValue {
        let now = now.saturating_duration_since(self.start);
        let Some(model) = model else {
            return self.bare.get(now, || encode(&self.brief(&[])));
        };
        let make = || encode(&self.brief(&[model]));
        let trailer = self.trailer_of(model);
        let trailer = trailer.unwrap_or_else(|| self.begin_trailer_of(model, now, make()));
        trailer.get(now, make)
    }

    /// Everything about every model of the registry.
    pub fn full(&self, registry: &Registry) -> OrcaLoadReport {
        let models = registry.models();
        let models: Vec<&Served> = models.iter().map(|model| &**model).collect();
        self.report(&models, Detail::Full)
    }

    fn brief(&self, models: &[&Served]) -> OrcaLoadReport {
        self.report(models, Detail::Brief)
    }

    fn report(&self, models: &[&Served], detail: Detail) -> OrcaLoadReport {
        let statistics: Vec<_> = models.iter().map(|model| model.statistics()).collect();
        let sampled = self.sampled.read();
        let models: Vec<ModelLoad<'_>> = models
            .iter()
            .zip(&statistics)
            .map(|(model, statistics)| ModelLoad {
                name: model.name(),
                version: model.version(),
                instances: model.instances(),
                recent: sampled.recent(model),
                statistics,
            })
            .collect();
        let rows = self.rows.load(Ordering::Relaxed);
        report(sampled.whole, rows, &models, detail)
    }

    fn trailer_of(&self, model: &Served) -> Option<Arc<Trailer>> {
        let known = self.trailers.read();
        known.get(model.name())?.get(&model.version()).cloned()
    }

    fn begin_trailer_of(&self, model: &Served, now: Duration, value: HeaderValue) -> Arc<Trailer> {
        let mut trailers = self.trailers.write();
        let versions = trailers.entry(model.name().to_owned()).or_default();
        let trailer = versions
            .entry(model.version())
            .or_insert_with(|| Arc::new(Trailer::new(value, now)));
        Arc::clone(trailer)
    }
}

impl Sampled {
    fn recent(&self, model: &Served) -> Recent {
        let versions = self.models.get(model.name());
        let recent = versions.and_then(|versions| versions.get(&model.version()));
        recent.copied().unwrap_or_default()
    }
}

impl Trailer {
    /// With what was made at `now`.
    fn new(value: HeaderValue, now: Duration) -> Trailer {
        Trailer {
            due: AtomicU64::new(microseconds(now + FRESH)),
            value: ArcSwap::from_pointee(value),
        }
    }

    /// One caller makes it anew when it is due; the others take what is there meanwhile.
    fn get(&self, now: Duration, make: impl FnOnce() -> HeaderValue) -> HeaderValue {
        let now = microseconds(now);
        let due = self.due.load(Ordering::Relaxed);
        let mine = now >= due && {
            let next = now + microseconds(FRESH);
            let taken = self
                .due
                .compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed);
            taken.is_ok()
        };
        if mine {
            let value = make();
            self.value.store(Arc::new(value.clone()));
            return value;
        }
        HeaderValue::clone(&self.value.load())
    }
}

fn encode(report: &OrcaLoadReport) -> HeaderValue {
    let value = MetadataValue::<Binary>::from_bytes(&report.encode_to_vec());
    HeaderValue::from_bytes(value.as_encoded_bytes()).expect("base64 is a header's value")
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_count_while_their_request_is_here() {
        let load = Arc::new(Load::default());
        let rows = || load.brief(&[]).named_metrics["forebay.rows"];
        assert_eq!(rows(), 0.0);
        let one = load.enter(1);
        let eight = load.enter(8);
        assert_eq!(rows(), 9.0);
        drop(one);
        assert_eq!(rows(), 8.0);
        drop(eight);
        assert_eq!(rows(), 0.0);
    }

    #[test]
    fn a_trailer_is_made_once_in_its_time() {
        let trailer = Trailer::new(HeaderValue::from_static("a"), Duration::ZERO);
        let made = |at, value| {
            let value = HeaderValue::from_static(value);
            trailer.get(Duration::from_millis(at), || value)
        };
        assert_eq!(made(0, "x"), "a");
        assert_eq!(made(4, "b"), "a");
        assert_eq!(made(5, "c"), "c");
        assert_eq!(made(6, "d"), "c");
    }
}
