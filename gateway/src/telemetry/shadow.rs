//! What is counted of shadow traffic: how the copies ended, and how far their answers were from the real ones.
//!
//! Outputs are named by whoever configured the models, but a request can name any model: of each route so many names are
//! kept apart, and those beyond are counted together.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::metrics::{Histogram, Text, escape};
use crate::gateway::Snapshot;
use crate::protocol::compare::{Difference, Finding};
use crate::unary::Shadow;

const MOST_OUTPUTS: usize = 32;
const OTHER_OUTPUTS: &str = "(others)";
/// Upper bounds of differences; what is 0 has a bucket of its own, and a last one without bound follows.
const BOUNDS: [f64; 12] = [
    0.0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0,
];

/// How a copy ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Compared,
    OnlyShadowFailed,
    OnlyOriginalFailed,
    BothFailed,
    /// No endpoint, no connection, or not in time.
    NoAnswer,
    /// One of the answers is no inference response, or too large.
    Unreadable,
    /// The call must not be sent twice, or its answer was too large to keep.
    Unsuitable,
    /// There was no room, here or for the original.
    Dropped,
}

const ENDS: [(End, &str); 8] = [
    (End::Compared, "compared"),
    (End::OnlyShadowFailed, "only_shadow_failed"),
    (End::OnlyOriginalFailed, "only_original_failed"),
    (End::BothFailed, "both_failed"),
    (End::NoAnswer, "no_answer"),
    (End::Unreadable, "unreadable"),
    (End::Unsuitable, "unsuitable"),
    (End::Dropped, "dropped"),
];

#[derive(Default)]
pub struct ShadowMetrics {
    ends: [AtomicU64; ENDS.len()],
    duration: Histogram,
    outputs: Mutex<BTreeMap<String, Output>>,
}

#[derive(Default, Clone)]
struct Output {
    findings: BTreeMap<&'static str, u64>,
    absolute: Spread,
    relative: Spread,
    rows: u64,
    agreed: u64,
}

/// A histogram of differences.
#[derive(Default, Clone)]
struct Spread {
    buckets: [u64; BOUNDS.len() + 1],
    sum: f64,
}

impl ShadowMetrics {
    pub fn ended(&self, end: End) {
        let place = ENDS.iter().position(|(other, _)| *other == end);
        if let Some(count) = place.and_then(|place| self.ends.get(place)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The copy was answered after this time.
    pub fn answered(&self, duration: Duration) {
        self.duration.record(duration);
    }

    /// What came out of one comparison.
    pub fn found(&self, findings: &[(&str, Finding)]) {
        let mut outputs = self.outputs.lock();
        for (name, finding) in findings {
            let known = outputs.len() < MOST_OUTPUTS || outputs.contains_key(*name);
            let name = if known { *name } else { OTHER_OUTPUTS };
            outputs.entry(name.to_owned()).or_default().add(finding);
        }
    }
}

impl Output {
    fn add(&mut self, finding: &Finding) {
        *self.findings.entry(word(finding)).or_default() += 1;
        if let Finding::Compared(difference) = finding {
            self.absolute.add(difference.absolute);
            self.relative.add(difference.relative);
            self.rows += difference.rows;
            self.agreed += difference.agreed;
        }
    }
}

fn word(finding: &Finding) -> &'static str {
    match finding {
        Finding::Compared(Difference { nans: 1.., .. }) => "nan",
        Finding::Compared(Difference { unequal: 1.., .. }) => "different",
        Finding::Compared(_) => "equal",
        Finding::Missing => "missing",
        Finding::Extra => "extra",
        Finding::Datatype => "datatype",
        Finding::Shape => "shape",
        Finding::Malformed => "malformed",
    }
}

impl Spread {
    fn add(&mut self, difference: f64) {
        let bucket = BOUNDS.iter().position(|bound| difference <= *bound);
        self.buckets[bucket.unwrap_or(BOUNDS.len())] += 1;
        // One infinite difference would hide all others in the sum.
        if difference.is_finite() {
            self.sum += difference;
        }
    }

    fn write(&self, out: &mut Text, name: &str, labels: &str) {
        let mut total = 0;
        let bounds = BOUNDS.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
        for (count, bound) in self.buckets.iter().zip(bounds) {
            total += count;
            let labels = format!("{labels},le=\"{bound}\"");
            out.line(&format!("{name}_bucket"), &labels, total as f64);
        }
        out.line(&format!("{name}_sum"), labels, self.sum);
        out.line(&format!("{name}_count"), labels, total as f64);
    }
}

pub(super) fn render(out: &mut Text, snapshot: &Snapshot) {
    let shadows: Vec<(String, &Shadow)> = snapshot
        .routes
        .iter()
        .filter_map(|route| {
            let labels = format!("route=\"{}\"", escape(&route.config.name));
            Some((labels, &**route.shadow.as_ref()?))
        })
        .collect();
    out.head(
        "forebay_shadow_requests_total",
        "counter",
        "Inference calls that were to be copied to the shadow, by how that ended.",
    );
    for (labels, shadow) in &shadows {
        for (count, (_, end)) in shadow.metrics.ends.iter().zip(ENDS) {
            let labels = format!("{labels},end=\"{end}\"");
            let count = count.load(Ordering::Relaxed);
            out.line("forebay_shadow_requests_total", &labels, count as f64);
        }
    }
    out.head(
        "forebay_shadow_in_flight",
        "gauge",
        "Copies under way, with their comparison.",
    );
    for (labels, shadow) in &shadows {
        let things = shadow.room.things();
        out.line("forebay_shadow_in_flight", labels, things as f64);
    }
    out.head(
        "forebay_shadow_duration_seconds",
        "histogram",
        "Answer times of the shadow.",
    );
    for (labels, shadow) in &shadows {
        let duration = &shadow.metrics.duration;
        duration.write(out, "forebay_shadow_duration_seconds", labels);
    }
    let mut outputs = Vec::new();
    for (labels, shadow) in &shadows {
        for (name, output) in &*shadow.metrics.outputs.lock() {
            let labels = format!("{labels},output=\"{}\"", escape(name));
            outputs.push((labels, output.clone()));
        }
    }
    out.head(
        "forebay_shadow_outputs_total",
        "counter",
        "Outputs that were compared, by what was found.",
    );
    for (labels, output) in &outputs {
        for (finding, count) in &output.findings {
            let labels = format!("{labels},finding=\"{finding}\"");
            out.line("forebay_shadow_outputs_total", &labels, *count as f64);
        }
    }
    type Kind = fn(&Output) -> &Spread;
    let spreads: [(&str, &str, Kind); 2] = [
        (
            "forebay_shadow_absolute_difference",
            "Largest difference of an output's elements.",
            |output| &output.absolute,
        ),
        (
            "forebay_shadow_relative_difference",
            "The same, in proportion to the largest element.",
            |output| &output.relative,
        ),
    ];
    for (name, help, kind) in spreads {
        out.head(name, "histogram", help);
        for (labels, output) in &outputs {
            kind(output).write(out, name, labels);
        }
    }
    type Count = fn(&Output) -> u64;
    let counts: [(&str, &str, Count); 2] = [
        (
            "forebay_shadow_rows_total",
            "Rows whose largest element was looked for.",
            |output| output.rows,
        ),
        (
            "forebay_shadow_agreed_total",
            "Rows whose largest element was at the same place.",
            |output| output.agreed,
        ),
    ];
    for (name, help, count) in counts {
        out.head(name, "counter", help);
        for (labels, output) in &outputs {
            out.line(name, labels, count(output) as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_beyond_the_bound_are_counted_together() {
        let metrics = ShadowMetrics::default();
        for number in 0..MOST_OUTPUTS + 9 {
            metrics.found(&[(&format!("y{number}"), Finding::Shape)]);
        }
        metrics.found(&[("y0", Finding::Shape)]);
        let outputs = metrics.outputs.lock();
        assert_eq!(outputs.len(), MOST_OUTPUTS + 1);
        assert_eq!(outputs[OTHER_OUTPUTS].findings["shape"], 9);
        assert_eq!(outputs["y0"].findings["shape"], 2);
    }

    #[test]
    fn equal_answers_have_a_bucket_of_their_own_and_infinity_leaves_the_sum_alone() {
        let mut spread = Spread::default();
        for difference in [0.0, 1e-9, 0.5, 1e6, f64::INFINITY] {
            spread.add(difference);
        }
        assert_eq!((spread.buckets[0], spread.buckets[1]), (1, 1));
        assert_eq!(spread.buckets[BOUNDS.len()], 2);
        assert!((spread.sum - 1_000_000.5).abs() < 1e-3);
    }
}
