//! How long a batch takes by its number of rows, learned by watching, and which size gets most rows done.
//!
//! On a CPU the largest batch is often not the best: convolutions may fall out of the cache, and attention over
//! long sequences gains nothing. A `Curve` keeps an exponentially weighted average of the duration at a few
//! sizes (1, 2, 4, … and the maximum) and interpolates between them. Now and then it tries a size beside the
//! best one, because a figure that is never measured again cannot be corrected. `Curves` keeps one curve per
//! weight class of a row (bytes, by powers of two), because the best size of short sequences is not that of
//! long ones. Pure: durations come from the caller.

use std::collections::BTreeMap;
use std::time::Duration;

/// Weight of a new sample in the moving average.
const SMOOTHING: f64 = 0.2;
/// The first run at a size pays for growing memory, so a size counts as known after the second.
const SAMPLES_TO_KNOW: u32 = 2;
/// A size this many times slower per row than the best is not grown beyond.
pub const HOPELESS: f64 = 1.5;
/// Of two sizes whose time per row differs by less, the smaller is better: same throughput, less waiting.
const SAME: f64 = 1.01;
/// One batch in so many tries a neighbour of the best size.
const PROBE_EVERY: u32 = 64;

#[derive(Debug, Clone)]
struct Point {
    rows: usize,
    seconds: f64,
    samples: u32,
}

impl Point {
    fn known(&self) -> bool {
        self.samples >= SAMPLES_TO_KNOW
    }

    fn per_row(&self) -> f64 {
        self.seconds / self.rows as f64
    }
}

/// duration(rows) of one weight class.
#[derive(Debug, Clone)]
pub struct Curve {
    points: Vec<Point>,
    turns: u32,
}

impl Curve {
    /// A curve that knows nothing about sizes up to `max_rows`.
    pub fn new(max_rows: usize) -> Self {
        let points = sizes(max_rows)
            .map(|rows| Point {
                rows,
                seconds: 0.0,
                samples: 0,
            })
            .collect();
        Self { points, turns: 0 }
    }

    /// A batch of `rows` took so long. Sizes between two points count for the nearer one, scaled by rows.
    pub fn record(&mut self, rows: usize, took: Duration) {
        let distance = |point: &Point| (point.rows as f64 / rows.max(1) as f64).ln().abs();
        let nearest = self
            .points
            .iter_mut()
            .min_by(|a, b| distance(a).total_cmp(&distance(b)));
        let Some(point) = nearest else { return };
        let seconds = took.as_secs_f64() * point.rows as f64 / rows.max(1) as f64;
        point.seconds = match point.samples {
            0 => seconds,
            1 => point.seconds.min(seconds),
            _ => point.seconds + SMOOTHING * (seconds - point.seconds),
        };
        point.samples = point.samples.saturating_add(1);
    }

    /// Expected duration; `None` before the first sample.
    pub fn duration(&self, rows: usize) -> Option<Duration> {
        self.seconds(rows).map(Duration::from_secs_f64)
    }

    /// The size up to `limit` with the least time per row; `limit` itself while nothing is known.
    pub fn best_size(&self, limit: usize) -> usize {
        let limit = limit.max(1);
        let measured = self.points.iter().filter(|point| point.known() && point.rows <= limit);
        let mut candidates: Vec<(usize, f64)> = measured.map(|point| (point.rows, point.per_row())).collect();
        if candidates.is_empty() {
            return limit;
        }
        if let Some(seconds) = self.seconds(limit) {
            candidates.push((limit, seconds / limit as f64));
        }
        let least = candidates.iter().map(|(_, per_row)| *per_row).fold(f64::INFINITY, f64::min);
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
            return self.neighbour(best, upward).filter(|rows| *rows <= limit).unwrap_or(best);
        }
        best
    }

    /// The measured points: rows and expected duration.
    pub fn points(&self) -> Vec<(usize, Duration)> {
        let measured = self.points.iter().filter(|point| point.samples > 0);
        measured.map(|point| (point.rows, Duration::from_secs_f64(point.seconds))).collect()
    }

    fn samples(&self) -> u64 {
        self.points.iter().map(|point| u64::from(point.samples)).sum()
    }

    /// The smallest size within `limit` that is not known yet and not hopeless to try.
    fn unknown_size(&self, limit: usize) -> Option<usize> {
        let mut best = f64::INFINITY;
        for point in self.points.iter().take_while(|point| point.rows <= limit) {
            if !point.known() {
                return Some(point.rows);
            }
            best = best.min(point.per_row());
            if point.per_row() > best * HOPELESS {
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

    /// Linear between two measured points; beyond them, in proportion to the rows.
    fn seconds(&self, rows: usize) -> Option<f64> {
        let measured = || self.points.iter().filter(|point| point.samples > 0);
        let below = measured().rev().find(|point| point.rows <= rows);
        let above = measured().find(|point| point.rows >= rows);
        match (below, above) {
            (Some(low), Some(high)) if low.rows < high.rows => {
                let part = (rows - low.rows) as f64 / (high.rows - low.rows) as f64;
                Some(low.seconds + part * (high.seconds - low.seconds))
            }
            (Some(point), _) | (None, Some(point)) => Some(point.per_row() * rows as f64),
            (None, None) => None,
        }
    }
}

/// Powers of two up to `max_rows`, and `max_rows`.
pub fn sizes(max_rows: usize) -> impl Iterator<Item = usize> {
    let max_rows = max_rows.max(1);
    let powers = std::iter::successors(Some(1usize), |size| size.checked_mul(2));
    powers.take_while(move |size| *size < max_rows).chain([max_rows])
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

    fn class(&mut self, row_bytes: usize) -> &mut Curve {
        let max_rows = self.max_rows;
        self.classes.entry(class(row_bytes)).or_insert_with(|| Curve::new(max_rows))
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
        let curve = curve(32, &[(1, 10), (2, 16), (4, 28), (8, 64), (16, 160), (32, 400)]);
        assert_eq!(curve.best_size(32), 4);
        assert_eq!(curve.best_size(3), 3, "below the best size everything goes at once");
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
        assert_eq!(curve.duration(6), Some(Duration::from_millis(50)));
        assert_eq!(curve.duration(16), Some(Duration::from_millis(120)));
        assert_eq!(curve.duration(2), Some(Duration::from_millis(20)));
    }

    #[test]
    fn learns_by_trying_and_stops_at_hopeless_sizes() {
        let cost = |rows: usize| Duration::from_micros(if rows <= 2 { 100 } else { 1000 } * rows as u64);
        let mut curve = Curve::new(64);
        let mut tried = Vec::new();
        for _ in 0..40 {
            let rows = curve.choose(64);
            tried.push(rows);
            curve.record(rows, cost(rows));
        }
        assert!(tried.contains(&4), "the first bad size must be measured: {tried:?}");
        assert!(!tried.contains(&8), "sizes beyond a hopeless one are not tried: {tried:?}");
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
                    proptest::prop_assert!(per_row <= point.per_row() * SAME);
                }
            }
            proptest::prop_assert!((1..=limit).contains(&curve.choose(limit)));
        }
    }
}
