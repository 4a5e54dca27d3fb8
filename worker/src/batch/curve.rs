//! How long a batch takes by its number of rows, learned by watching, and which size gets most rows done.
//!
//! On a CPU the largest batch is often not the best: convolutions may fall out of the cache, and attention over
//! long sequences gains nothing. A `Curve` keeps the duration at a few sizes (1, 2, 4, … and the maximum) and
//! interpolates between them. Now and then it tries a size beside the best one, because a figure that is never
//! measured again cannot be corrected; the less there is to lose by it, the more often. `Curves` keeps one curve per
//! weight class of a row (bytes, by powers of two), because the best size of short sequences is not that of long ones.
//!
//! Machines get slower and faster by a third within minutes, and sizes are not measured at the same time. So a
//! duration is the product of a pace, common to all sizes, and a cost of the size; what a sample adds is shared
//! between the two by how uncertain each is, which is a Kalman filter (R. E. Kalman, 1960) on the logarithms
//! without cross terms. A size just measured many times moves the pace; one not seen for long moves itself.
//!
//! Pure: durations come from the caller.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
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
/// A request that would run this many times slower per row than at the best size is better cut; and a batch
/// that much slower per row for being small is better filled with a part of the next request.
const WORTH_CUTTING: f64 = 1.1;
/// A neighbour of the best size is tried for so many batches in a row. The first of them does not count: it finds the
/// memory of another size in the caches, which makes it up to a tenth slower than those that follow.
const PROBE_RUNS: u32 = 3;
/// What trying may cost of the throughput, as far as the curve can tell, which sets how often a neighbour is tried ...
const PROBE_COST: f64 = 0.002;
/// ... within these bounds, in batches.
const PROBE_EVERY: RangeInclusive<u32> = 16..=512;

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

/// A neighbour of the best size that is being tried.
#[derive(Debug, Clone)]
struct Probe {
    rows: usize,
    /// Batches to come.
    left: u32,
    /// Its first run is over.
    settled: bool,
}

/// Batches since the neighbours of the best size were tried.
#[derive(Debug, Clone, Copy, Default)]
struct Since {
    larger: u32,
    smaller: u32,
}

/// duration(rows) of one weight class.
#[derive(Debug, Clone)]
pub struct Curve {
    points: Vec<Point>,
    /// Logarithm of how much slower than at the first samples everything is, and its variance.
    pace: f64,
    pace_variance: f64,
    probe: Option<Probe>,
    since: Since,
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
            probe: None,
            since: Since::default(),
        }
    }

    /// A batch of `rows` took so long. Sizes between two points count for the nearer one, scaled by rows.
    pub fn record(&mut self, rows: usize, took: Duration) {
        let rows = rows.max(1) as f64;
        if self.settles(rows) {
            return;
        }
        self.pace_variance += PACE_DRIFT;
        for point in &mut self.points {
            point.variance += COST_DRIFT;
        }
        let Some(nearest) = self.nearest(rows) else {
            return;
        };
        let point = &mut self.points[nearest];
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

    /// Whether this is the first run at a size that is being tried.
    fn settles(&mut self, rows: f64) -> bool {
        let point = self.nearest(rows).map(|nearest| &self.points[nearest]);
        let (Some(point), Some(probe)) = (point, &mut self.probe) else {
            return false;
        };
        let first = !probe.settled && probe.rows == point.rows && point.known();
        probe.settled |= first;
        first
    }

    /// Where the point is that `rows` count for.
    fn nearest(&self, rows: f64) -> Option<usize> {
        let distance = |point: &Point| (point.rows as f64 / rows).ln().abs();
        let points = self.points.iter().map(distance).enumerate();
        let nearest = points.min_by(|(_, a), (_, b)| a.total_cmp(b));
        nearest.map(|(position, _)| position)
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

    /// Expected duration, from sizes that are known only; `None` if the nearest is not.
    pub fn trusted(&self, rows: usize) -> Option<Duration> {
        let nearest = |known: &Point| known.rows.abs_diff(rows);
        let nearest = self.points.iter().min_by_key(|point| nearest(point))?;
        self.duration(rows).filter(|_| nearest.known())
    }

    /// Requests up to so many rows go whole; `max_rows` while nothing is known.
    pub fn whole(&self, max_rows: usize) -> usize {
        let best = self.best_size(max_rows);
        let Some(least) = self.known_per_row(best) else {
            return max_rows;
        };
        let good = |point: &&Point| {
            point.known()
                && (best..=max_rows).contains(&point.rows)
                && self.per_row(point) <= least * WORTH_CUTTING
        };
        let largest = self
            .points
            .iter()
            .filter(good)
            .map(|point| point.rows)
            .max();
        largest.unwrap_or(best).max(best)
    }

    /// Rows from which on a batch is about as fast per row as at the best size; zero while nothing is known.
    pub fn enough(&self, max_rows: usize) -> usize {
        let best = self.best_size(max_rows);
        let Some(least) = self.known_per_row(best) else {
            return 0;
        };
        let good = |point: &&Point| point.known() && self.per_row(point) <= least * WORTH_CUTTING;
        self.points
            .iter()
            .find(good)
            .map_or(0, |point| point.rows.min(best))
    }

    /// The largest size up to `limit` whose expected duration is within `time`; `None` if there is none, `limit`
    /// while nothing is known.
    pub fn within(&self, limit: usize, time: Duration) -> Option<usize> {
        let fits = |rows: &usize| self.duration(*rows).is_none_or(|duration| duration <= time);
        let mut smaller = self.points.iter().rev().map(|point| point.rows);
        Some(limit)
            .filter(fits)
            .or_else(|| smaller.find(|rows| *rows < limit && fits(rows)))
    }

    fn known_per_row(&self, rows: usize) -> Option<f64> {
        let duration = self.trusted(rows)?;
        Some(duration.as_secs_f64() / rows as f64)
    }

    /// The size of the next batch when `limit` rows could go: the best, or one worth measuring.
    pub fn choose(&mut self, limit: usize) -> usize {
        let best = self.best_size(limit);
        if let Some(rows) = self.unknown_size(limit) {
            return rows;
        }
        self.probe(best, limit).unwrap_or(best)
    }

    /// The neighbour of `best` that is to be tried now, if one is.
    fn probe(&mut self, best: usize, limit: usize) -> Option<usize> {
        if let Some(probe) = &mut self.probe
            && probe.left > 0
            && probe.rows <= limit
        {
            probe.left -= 1;
            return Some(probe.rows);
        }
        self.probe = None;
        self.since.larger = self.since.larger.saturating_add(1);
        self.since.smaller = self.since.smaller.saturating_add(1);
        let due = |rows: &usize, since: u32| *rows <= limit && since >= self.interval(best, *rows);
        let larger = self.neighbour(best, true);
        let smaller = self.neighbour(best, false);
        let rows = if let Some(rows) = larger.filter(|rows| due(rows, self.since.larger)) {
            self.since.larger = 0;
            rows
        } else if let Some(rows) = smaller.filter(|rows| due(rows, self.since.smaller)) {
            self.since.smaller = 0;
            rows
        } else {
            return None;
        };
        self.probe = Some(Probe {
            rows,
            left: PROBE_RUNS - 1,
            settled: false,
        });
        Some(rows)
    }

    /// Batches between two tries of a neighbour.
    fn interval(&self, best: usize, rows: usize) -> u32 {
        let point = self.points.iter().find(|point| point.rows == rows);
        let (Some(point), Some(least)) = (
            point.filter(|point| point.samples > 0),
            self.known_per_row(best),
        ) else {
            return *PROBE_EVERY.end();
        };
        let loss = (self.per_row(point) / least - 1.0).max(0.0);
        let lost_batches = f64::from(PROBE_RUNS) * loss * rows as f64 / best as f64;
        // A cast of what is too large gives the largest number.
        let interval = (lost_batches / PROBE_COST) as u32;
        interval.clamp(*PROBE_EVERY.start(), *PROBE_EVERY.end())
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

    pub fn record(&mut self, weight: usize, rows: usize, took: Duration) {
        self.class(weight).record(rows, took);
    }

    pub fn choose(&mut self, weight: usize, limit: usize) -> usize {
        self.class(weight).choose(limit)
    }

    /// `weight`: bytes of a row.
    pub fn of(&self, weight: usize) -> Option<&Curve> {
        self.classes.get(&class(weight))
    }

    /// Every class that was measured, by the least weight in it.
    pub fn classes(&self) -> impl Iterator<Item = (usize, &Curve)> {
        let classes = self.classes.iter();
        classes.map(|(class, curve)| (1usize.checked_shl(*class).unwrap_or(usize::MAX), curve))
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

    fn class(&mut self, weight: usize) -> &mut Curve {
        let max_rows = self.max_rows;
        self.classes
            .entry(class(weight))
            .or_insert_with(|| Curve::new(max_rows))
    }
}

fn class(weight: usize) -> u32 {
    weight.max(1).ilog2()
}

#[cfg(test)]
mod tests;
