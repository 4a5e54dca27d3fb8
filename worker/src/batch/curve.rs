//! How long a batch takes by its number of rows, learned by watching, and which size gets most rows done.
//!
//! On a CPU the largest batch is often not the best: convolutions may fall out of the cache, and attention over
//! long sequences gains nothing. A `Curve` keeps the duration at a few sizes (1, 2, 4, … and the maximum) and
//! interpolates between them. Now and then it tries a size beside the best one, because a figure that is never
//! measured again cannot be corrected. `Curves` keeps one curve per weight class of a row (bytes, by powers of
//! two), because the best size of short sequences is not that of long ones.
//!
//! Machines get slower and faster by a third within minutes, and sizes are not measured at the same time. So a
//! duration is the product of a pace, common to all sizes, and a cost of the size; what a sample adds is shared
//! between the two by how uncertain each is, which is a Kalman filter (R. E. Kalman, 1960) on the logarithms
//! without cross terms. A size just measured many times moves the pace; one not seen for long moves itself.
//!
//! Pure: durations come from the caller.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

/// Variances of logarithms: of one measurement, and what a batch adds to the uncertainty of the pace and of
/// the cost of every size.
const NOISE: f64 = 0.02;
const PACE_DRIFT: f64 = 4e-4;
const COST_DRIFT: f64 = 2e-5;
/// A single sample moves the logarithm by no more than this.
const MAX_SURPRISE: f64 = 1.0;
/// The first run at a size pays for growing memory, so a size counts as known after the second.
const SAMPLES_TO_KNOW: u32 = 2;
/// A size this many times slower per row than the best is not grown beyond.
pub const HOPELESS: f64 = 1.5;
/// Of two sizes whose time per row differs by less, the smaller is better: same throughput, less waiting.
const SAME: f64 = 1.01;
/// Weight classes that are told about, so that no caller can fill a page of metrics.
const MAX_TOLD: usize = 8;
/// One batch in so many tries a neighbour of the best size.
const PROBE_EVERY: u32 = 64;

#[derive(Debug, Clone)]
struct Point {
    rows: usize,
    samples: u32,
    /// Logarithm of the seconds at pace 1, and its variance.
    cost: f64,
    variance: f64,
}

impl Point {
    fn known(&self) -> bool {
        self.samples >= SAMPLES_TO_KNOW
    }
}

/// duration(rows) of one weight class.
#[derive(Debug, Clone)]
pub struct Curve {
    points: Vec<Point>,
    /// Logarithm of how much slower than at the first samples everything is, and its variance.
    pace: f64,
    pace_variance: f64,
    turns: u32,
}

impl Curve {
    /// A curve that knows nothing about sizes up to `max_rows`.
    pub fn new(max_rows: usize) -> Self {
        let points = sizes(max_rows)
            .map(|rows| Point {
                rows,
                samples: 0,
                cost: 0.0,
                variance: 0.0,
            })
            .collect();
        Self {
            points,
            pace: 0.0,
            pace_variance: 0.0,
            turns: 0,
        }
    }

    /// A batch of `rows` took so long. Sizes between two points count for the nearer one, scaled by rows.
    pub fn record(&mut self, rows: usize, took: Duration) {
        let rows = rows.max(1) as f64;
        self.pace_variance += PACE_DRIFT;
        for point in &mut self.points {
            point.variance += COST_DRIFT;
        }
        let distance = |point: &Point| (point.rows as f64 / rows).ln().abs();
        let nearest = self
            .points
            .iter_mut()
            .min_by(|a, b| distance(a).total_cmp(&distance(b)));
        let Some(point) = nearest else { return };
        let measured = (took.as_secs_f64().max(1e-9) * point.rows as f64 / rows).ln();
        let surprise = measured - self.pace - point.cost;
        if point.samples == 0 || (!point.known() && surprise < 0.0) {
            point.cost += surprise;
            point.variance = NOISE;
        } else {
            let surprise = surprise.clamp(-MAX_SURPRISE, MAX_SURPRISE);
            let total = self.pace_variance + point.variance + NOISE;
            self.pace += surprise * self.pace_variance / total;
            point.cost += surprise * point.variance / total;
            self.pace_variance -= self.pace_variance * self.pace_variance / total;
            point.variance -= point.variance * point.variance / total;
        }
        point.samples = point.samples.saturating_add(1);
    }

    /// Expected duration; `None` before the first sample.
    pub fn duration(&self, rows: usize) -> Option<Duration> {
        self.seconds(rows).map(Duration::from_secs_f64)
    }

    /// The size up to `limit` with the least time per row; `limit` itself while nothing is known.
    pub fn best_size(&self, limit: usize) -> usize {
        let limit = limit.max(1);
        let measured = self
            .points
            .iter()
            .filter(|point| point.known() && point.rows <= limit);
        let mut candidates: Vec<(usize, f64)> = measured
            .map(|point| (point.rows, self.per_row(point)))
            .collect();
        if candidates.is_empty() {
            return limit;
        }
        if let Some(seconds) = self.seconds(limit) {
            candidates.push((limit, seconds / limit as f64));
        }
        let least = candidates
            .iter()
            .map(|(_, per_row)| *per_row)
            .fold(f64::INFINITY, f64::min);
        candidates
            .iter()
            .find(|(_, per_row)| *per_row <= least * SAME)
            .map_or(limit, |(rows, _)| *rows)
    }

    /// The size of the next batch when `limit` rows could go: the best, or one worth measuring.
    pub fn choose(&mut self, limit: usize) -> usize {
        let best = self.best_size(limit);
        if let Some(rows) = self.unknown_size(limit) {
            return rows;
        }
        self.turns = self.turns.wrapping_add(1);
        if self.turns.is_multiple_of(PROBE_EVERY) {
            let upward = (self.turns / PROBE_EVERY).is_multiple_of(2);
            return self
                .neighbour(best, upward)
                .filter(|rows| *rows <= limit)
                .unwrap_or(best);
        }
        best
    }

    /// The measured points: rows and expected duration.
    pub fn points(&self) -> Vec<(usize, Duration)> {
        let measured = self.points.iter().filter(|point| point.samples > 0);
        measured
            .map(|point| (point.rows, Duration::from_secs_f64(self.at(point))))
            .collect()
    }

    fn samples(&self) -> u64 {
        self.points
            .iter()
            .map(|point| u64::from(point.samples))
            .sum()
    }

    /// The smallest size within `limit` that is not known yet and not hopeless to try.
    fn unknown_size(&self, limit: usize) -> Option<usize> {
        let mut best = f64::INFINITY;
        for point in self.points.iter().take_while(|point| point.rows <= limit) {
            if !point.known() {
                return Some(point.rows);
            }
            best = best.min(self.per_row(point));
            if self.per_row(point) > best * HOPELESS {
                return None;
            }
        }
        None
    }

    fn neighbour(&self, rows: usize, upward: bool) -> Option<usize> {
        let mut points = self.points.iter().map(|point| point.rows);
        if upward {
            points.find(|size| *size > rows)
        } else {
            points.rev().find(|size| *size < rows)
        }
    }

    fn at(&self, point: &Point) -> f64 {
        (self.pace + point.cost).exp()
    }

    fn per_row(&self, point: &Point) -> f64 {
        self.at(point) / point.rows as f64
    }

    /// Linear between two measured points; beyond them, in proportion to the rows.
    fn seconds(&self, rows: usize) -> Option<f64> {
        let measured = || self.points.iter().filter(|point| point.samples > 0);
        let below = measured().rev().find(|point| point.rows <= rows);
        let above = measured().find(|point| point.rows >= rows);
        match (below, above) {
            (Some(low), Some(high)) if low.rows < high.rows => {
                let part = (rows - low.rows) as f64 / (high.rows - low.rows) as f64;
                Some(self.at(low) + part * (self.at(high) - self.at(low)))
            }
            (Some(point), _) | (None, Some(point)) => Some(self.per_row(point) * rows as f64),
            (None, None) => None,
        }
    }
}

/// Powers of two up to `max_rows`, and `max_rows`.
pub fn sizes(max_rows: usize) -> impl Iterator<Item = usize> {
    let max_rows = max_rows.max(1);
    let powers = std::iter::successors(Some(1usize), |size| size.checked_mul(2));
    powers
        .take_while(move |size| *size < max_rows)
        .chain([max_rows])
}

/// What is known of one weight class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Learned {
    /// Rows of so many bytes and up to twice as many.
    pub row_bytes: usize,
    /// The batch size with the least time per row.
    pub best_size: usize,
    /// Expected duration by rows.
    pub curve: Vec<(usize, Duration)>,
}

/// One curve per weight class of a row.
#[derive(Debug, Clone)]
pub struct Curves {
    max_rows: usize,
    classes: BTreeMap<u32, Curve>,
}

impl Curves {
    pub fn new(max_rows: usize) -> Self {
        Self {
            max_rows,
            classes: BTreeMap::new(),
        }
    }

    pub fn record(&mut self, row_bytes: usize, rows: usize, took: Duration) {
        self.class(row_bytes).record(rows, took);
    }

    pub fn choose(&mut self, row_bytes: usize, limit: usize) -> usize {
        self.class(row_bytes).choose(limit)
    }

    pub fn of(&self, row_bytes: usize) -> Option<&Curve> {
        self.classes.get(&class(row_bytes))
    }

    /// The class that was measured most.
    pub fn busiest(&self) -> Option<&Curve> {
        self.classes.values().max_by_key(|curve| curve.samples())
    }

    /// What is told about the classes, those measured most first.
    pub fn learned(&self) -> Vec<Learned> {
        let mut classes: Vec<_> = self.classes.iter().collect();
        classes.sort_by_key(|(_, curve)| Reverse(curve.samples()));
        let learned = classes.into_iter().map(|(class, curve)| Learned {
            row_bytes: 1 << class,
            best_size: curve.best_size(self.max_rows),
            curve: curve.points(),
        });
        learned.take(MAX_TOLD).collect()
    }

    fn class(&mut self, row_bytes: usize) -> &mut Curve {
        let max_rows = self.max_rows;
        self.classes
            .entry(class(row_bytes))
            .or_insert_with(|| Curve::new(max_rows))
    }
}

fn class(row_bytes: usize) -> u32 {
    row_bytes.max(1).ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(max_rows: usize, milliseconds: &[(usize, u64)]) -> Curve {
        let mut curve = Curve::new(max_rows);
        for (rows, duration) in milliseconds {
            for _ in 0..SAMPLES_TO_KNOW {
                curve.record(*rows, Duration::from_millis(*duration));
            }
        }
        curve
    }

    #[test]
    fn an_unknown_curve_takes_what_may_go() {
        assert_eq!(Curve::new(32).best_size(7), 7);
        assert_eq!(Curve::new(32).duration(4), None);
    }

    #[test]
    fn sizes_are_powers_of_two_and_the_maximum() {
        assert_eq!(sizes(12).collect::<Vec<_>>(), [1, 2, 4, 8, 12]);
        assert_eq!(sizes(8).collect::<Vec<_>>(), [1, 2, 4, 8]);
        assert_eq!(sizes(1).collect::<Vec<_>>(), [1]);
        assert_eq!(sizes(0).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn batching_that_loses_is_not_done() {
        let curve = curve(8, &[(1, 10), (2, 28), (4, 56), (8, 100)]);
        assert_eq!(curve.best_size(8), 1);
    }

    #[test]
    fn the_middle_may_be_best() {
        let curve = curve(
            32,
            &[(1, 10), (2, 16), (4, 28), (8, 64), (16, 160), (32, 400)],
        );
        assert_eq!(curve.best_size(32), 4);
        assert_eq!(
            curve.best_size(3),
            3,
            "below the best size everything goes at once"
        );
        assert_eq!(curve.best_size(2), 2);
    }

    #[test]
    fn of_equal_sizes_the_smaller_wins() {
        let curve = curve(8, &[(1, 10), (2, 20), (4, 40), (8, 80)]);
        assert_eq!(curve.best_size(8), 1);
    }

    #[test]
    fn interpolates_and_extrapolates() {
        let curve = curve(16, &[(4, 40), (8, 60)]);
        let milliseconds = |rows| curve.duration(rows).unwrap().as_secs_f64() * 1000.0;
        for (rows, expected) in [(4, 40.0), (6, 50.0), (8, 60.0), (16, 120.0), (2, 20.0)] {
            assert!(
                (milliseconds(rows) - expected).abs() < 0.01,
                "{rows}: {}",
                milliseconds(rows)
            );
        }
    }

    #[test]
    fn learns_by_trying_and_stops_at_hopeless_sizes() {
        let cost =
            |rows: usize| Duration::from_micros(if rows <= 2 { 100 } else { 1000 } * rows as u64);
        let mut curve = Curve::new(64);
        let mut tried = Vec::new();
        for _ in 0..40 {
            let rows = curve.choose(64);
            tried.push(rows);
            curve.record(rows, cost(rows));
        }
        assert!(
            tried.contains(&4),
            "the first bad size must be measured: {tried:?}"
        );
        assert!(
            !tried.contains(&8),
            "sizes beyond a hopeless one are not tried: {tried:?}"
        );
        assert_eq!(tried.last(), Some(&1));
    }

    #[test]
    fn a_wrong_figure_is_corrected_by_probing() {
        let mut curve = curve(2, &[(1, 10), (2, 40)]);
        let true_cost = |rows: usize| Duration::from_millis(if rows == 1 { 10 } else { 12 });
        let mut last = 0;
        for _ in 0..PROBE_EVERY * 40 {
            last = curve.choose(2);
            curve.record(last, true_cost(last));
        }
        assert_eq!(curve.best_size(2), 2);
        assert!(last <= 2);
    }

    #[test]
    fn a_slower_machine_does_not_make_other_sizes_look_better() {
        let mut curve = curve(8, &[(1, 10), (2, 18), (4, 32), (8, 70)]);
        for _ in 0..20 {
            curve.record(4, Duration::from_millis(32));
        }
        for step in 0..60u64 {
            let rows = curve.best_size(8);
            assert_eq!(rows, 4, "left the best size at step {step}");
            curve.record(
                4,
                Duration::from_micros(32_000 + 32_000 * 4 * step.min(10) / 100),
            );
        }
        let expected = curve.duration(4).unwrap();
        assert!(
            expected > Duration::from_millis(43),
            "follows the machine: {expected:?}"
        );
        assert!(
            curve.duration(8).unwrap() > Duration::from_millis(85),
            "and takes the others along"
        );
    }

    #[test]
    fn weight_classes_are_apart() {
        let mut curves = Curves::new(4);
        for _ in 0..2 {
            for (rows, short, long) in [(1, 10, 100), (2, 12, 300), (4, 14, 900)] {
                curves.record(256, rows, Duration::from_millis(short));
                curves.record(4096, rows, Duration::from_millis(long));
            }
        }
        assert_eq!(curves.choose(300, 4), 4);
        assert_eq!(curves.choose(5000, 4), 1);
        assert!(curves.of(1 << 20).is_none());
    }

    proptest::proptest! {
        #[test]
        fn never_more_than_allowed_and_never_slower_per_row_than_a_smaller_size(
            samples in proptest::collection::vec((1usize..80, 1u64..100_000), 0..200),
            max_rows in 1usize..70,
            limit in 1usize..70,
        ) {
            let mut curve = Curve::new(max_rows);
            for (rows, micros) in samples {
                curve.record(rows, Duration::from_micros(micros));
            }
            let best = curve.best_size(limit);
            proptest::prop_assert!((1..=limit).contains(&best));
            if curve.points.iter().any(|point| point.known() && point.rows <= limit) {
                let per_row = curve.seconds(best).unwrap() / best as f64;
                for point in curve.points.iter().filter(|point| point.known() && point.rows < best) {
                    proptest::prop_assert!(per_row <= curve.per_row(point) * SAME * 1.000001);
                }
            }
            proptest::prop_assert!((1..=limit).contains(&curve.choose(limit)));
        }
    }
}
