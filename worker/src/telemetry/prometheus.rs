//! Prometheus' text format, version 0.0.4: families, samples, and histograms over whole numbers.

use std::fmt::{Display, Write};

use crate::measure::Histogram;

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
    pub fn histogram(
        &mut self,
        name: &str,
        labels: Labels<'_>,
        (values, scale): (&Histogram, Scale),
    ) {
        let sum = scale.show(values.sum());
        let mut all = 0;
        for (bound, count) in values.cumulative() {
            let bound =
                bound.map_or_else(|| "+Inf".to_owned(), |bound| scale.show(bound).to_string());
            let labels = written(labels, Some(&bound));
            self.line(format_args!("{name}_bucket{labels} {count}"));
            all = count;
        }
        let labels = written(labels, None);
        self.line(format_args!("{name}_sum{labels} {sum}"));
        self.line(format_args!("{name}_count{labels} {all}"));
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

/// Units of a histogram in one of what the page shows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale(f64);

impl Scale {
    /// The page shows units.
    pub const ONES: Scale = Scale(1.0);
    /// Microseconds shown as milliseconds.
    pub const THOUSANDTHS: Scale = Scale(1e3);
    /// Microseconds shown as seconds.
    pub const MILLIONTHS: Scale = Scale(1e6);

    fn show(self, units: u64) -> f64 {
        units as f64 / self.0
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
    fn a_histogram_is_buckets_sum_and_count() {
        let histogram = Histogram::new(&[100, 1_000]);
        for units in [100, 101, 5_000] {
            histogram.observe(units);
        }
        let mut page = Page::default();
        let values = (&histogram, Scale::MILLIONTHS);
        page.histogram("wait_seconds", &[("model", "m")], values);
        assert_eq!(
            page.into_text(),
            "wait_seconds_bucket{model=\"m\",le=\"0.0001\"} 1\n\
             wait_seconds_bucket{model=\"m\",le=\"0.001\"} 2\n\
             wait_seconds_bucket{model=\"m\",le=\"+Inf\"} 3\n\
             wait_seconds_sum{model=\"m\"} 0.005201\n\
             wait_seconds_count{model=\"m\"} 3\n"
        );
    }
}
