//! Load reports of an endpoint, as they come with its answers or in a stream.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Endpoint;
use crate::protocol::load_report;

impl Endpoint {
    /// A load report came with an answer whose request is still counted. Workers make one and send it with many
    /// answers: what came before is no news.
    pub fn reported(&self, header: &[u8], now: Instant) {
        let mut hasher = DefaultHasher::new();
        header.hash(&mut hasher);
        let hash = hasher.finish();
        if self.last_report.swap(hash, Ordering::Relaxed) == hash {
            return;
        }
        if let Some(rows) = load_report::rows_in_header(header) {
            self.has_rows(rows, now);
        }
    }

    /// It says that so many rows are there.
    pub(in crate::fleet) fn has_rows(&self, rows: f64, now: Instant) {
        let own = self.rows() as f64;
        self.vital.lock().others.reported(now, rows, own);
    }
}
