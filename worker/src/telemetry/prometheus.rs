//! Prometheus' text format, version 0.0.4: families, samples, and histograms over whole numbers.

use std::fmt::{Display, Write};
use std::sync::atomic::{AtomicU64, Ordering};

/// The content type of a page.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a family's samples mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A page of metrics being written. Samples of a family follow its header without a break.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
}

/// Label names and values, in the order in which they are written.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

impl Page {
    pub fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    pub fn sample(&mut self, name: &str, labels: Labels<'_>, value: impl Display) {
        let labels = written(labels, None);
        self.line(format_args!("{name}{labels} {value}"));
    }

    /// The buckets, sum and count of a histogram.
    pub fn histogram(&mut self, name: &str, labels: Labels<'_>, histogram: &Histogram) {
        let scale = |units: u64| units as f64 / histogram.units_per_one;
        let mut count = 0;
        for (bucket, bound) in histogram.counts.iter().zip(histogram.bounds) {
            count += bucket.load(Ordering::Relaxed);
            let labels = written(labels, Some(&scale(*bound).to_string()));
            self.line(format_args!("{name}_bucket{labels} {count}"));
        }
        count += histogram.beyond.load(Ordering::Relaxed);
        let all = written(labels, Some("+Inf"));
        self.line(format_args!("{name}_bucket{all} {count}"));
        let labels = written(labels, None);
        let sum = scale(histogram.sum.load(Ordering::Relaxed));
        self.line(format_args!("{name}_sum{labels} {sum}"));
        self.line(format_args!("{name}_count{labels} {count}"));
    }

    pub fn into_text(self) -> String {
        self.text
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.text, "{line}").expect("writing to a String succeeds");
    }
}

/// `{name="value",…}`, or nothing when there are no labels.
fn written(labels: Labels<'_>, bound: Option<&str>) -> String {
    let bound = bound.map(|bound| ("le", bound));
    let mut text = String::new();
    for (name, value) in labels.iter().copied().chain(bound) {
        text.push(if text.is_empty() { '{' } else { ',' });
        text.push_str(name);
        text.push_str("=\"");
        for character in value.chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                other => text.push(other),
            }
        }
        text.push('"');
    }
    if !text.is_empty() {
        text.push('}');
    }
    text
}

/// Counts of values by size. Values are whole numbers of a unit, such as microseconds.
#[derive(Debug)]
pub struct Histogram {
    /// Ascending, inclusive, in units.
    bounds: &'static [u64],
    counts: Box<[AtomicU64]>,
    beyond: AtomicU64,
    sum: AtomicU64,
    units_per_one: f64,
}

impl Histogram {
    /// `units_per_one`: units in one of what the page shows, 1e6 for microseconds shown as seconds.
    pub fn new(bounds: &'static [u64], units_per_one: f64) -> Histogram {
        Histogram {
            bounds,
            counts: bounds.iter().map(|_| AtomicU64::new(0)).collect(),
            beyond: AtomicU64::new(0),
            sum: AtomicU64::new(0),
            units_per_one,
        }
    }

    pub fn observe(&self, units: u64) {
        let index = self.bounds.partition_point(|bound| *bound < units);
        let count = self.counts.get(index).unwrap_or(&self.beyond);
        count.fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(units, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_what_prometheus_reads() {
        let mut page = Page::default();
        page.family("calls_total", Kind::Counter, "Calls.");
        page.sample(
            "calls_total",
            &[("model", "a\"b\\c\nd"), ("version", "1")],
            3,
        );
        page.sample("calls_total", &[], 4);
        assert_eq!(
            page.into_text(),
            "# HELP calls_total Calls.\n\
             # TYPE calls_total counter\n\
             calls_total{model=\"a\\\"b\\\\c\\nd\",version=\"1\"} 3\n\
             calls_total 4\n"
        );
    }

    #[test]
    fn buckets_are_cumulative_and_their_bounds_inclusive() {
        let histogram = Histogram::new(&[100, 1_000], 1e6);
        for units in [100, 101, 1_000, 1_001, 5_000] {
            histogram.observe(units);
        }
        let mut page = Page::default();
        page.histogram("wait_seconds", &[("model", "m")], &histogram);
        assert_eq!(
            page.into_text(),
            "wait_seconds_bucket{model=\"m\",le=\"0.0001\"} 1\n\
             wait_seconds_bucket{model=\"m\",le=\"0.001\"} 3\n\
             wait_seconds_bucket{model=\"m\",le=\"+Inf\"} 5\n\
             wait_seconds_sum{model=\"m\"} 0.007202\n\
             wait_seconds_count{model=\"m\"} 5\n"
        );
    }
}
