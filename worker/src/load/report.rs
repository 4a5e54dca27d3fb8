//! The load report itself: which figures it has, what they are called, and how they are worked out.
//!
//! Names and units are a contract with whoever balances over workers; `docs/load-reports.md` states it. Figures of
//! a model stand in `named_metrics` under `forebay.<model>/<version>.<figure>`; a slash cannot be in a name. What is of
//! all models together has no slash.

use std::time::Duration;

use forebay_proto::orca::OrcaLoadReport;

use crate::batch::statistics::Statistics;

/// The process as a whole, over the last seconds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Whole {
    /// Share of the processors it may use.
    pub processors: f64,
    pub memory: f64,
    /// A second.
    pub requests: f64,
    /// A second; only what is not the caller's own mistake.
    pub errors: f64,
    /// Work asked for, as a share of what the busiest model can do; see `fullness`.
    pub fullness: f64,
}

/// What a model did in the last seconds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Recent {
    /// Rows of a batch on average, as a share of the most a batch may have.
    pub occupancy: f64,
    /// Share of the time of its instances that was spent on batches.
    pub busy: f64,
}

/// One model at this moment.
#[derive(Debug)]
pub struct ModelLoad<'a> {
    pub name: &'a str,
    pub version: u64,
    pub instances: u32,
    pub recent: Recent,
    pub statistics: &'a Statistics,
}

/// How much is said of each model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// What an answer carries.
    Brief,
    /// With the duration of every batch size.
    Full,
}

/// Rows that are here, of all models.
const ROWS: &str = "forebay.rows";

/// Of a process, which has so many rows, and some of its models.
pub fn report(whole: Whole, rows: u64, models: &[ModelLoad<'_>], detail: Detail) -> OrcaLoadReport {
    let rows = std::iter::once((ROWS.to_owned(), rows as f64));
    let named = models.iter().flat_map(|model| model.figures(detail));
    let named = rows.chain(named);
    OrcaLoadReport {
        cpu_utilization: whole.processors,
        mem_utilization: whole.memory,
        rps_fractional: whole.requests,
        eps: whole.errors,
        application_utilization: whole.fullness,
        named_metrics: named.collect(),
        ..OrcaLoadReport::default()
    }
}

impl ModelLoad<'_> {
    fn figures(&self, detail: Detail) -> Vec<(String, f64)> {
        let statistics = self.statistics;
        let mut figures = Vec::with_capacity(6);
        let mut add = |figure: &str, value: f64| {
            let key = format!("forebay.{}/{}.{figure}", self.name, self.version);
            figures.push((key, value));
        };
        add("queued_requests", statistics.queued_requests as f64);
        add("queued_rows", statistics.queued_rows as f64);
        add("batch_occupancy", self.recent.occupancy);
        add("busy", self.recent.busy);
        if let Some(wait) = expected_wait(statistics, self.instances) {
            add("expected_wait", wait.as_secs_f64());
        }
        if let Some((rows, _)) = usual_batch(statistics) {
            add("batch_rows", rows as f64);
        }
        if let Some(rows) = rows_per_second(statistics, self.instances) {
            add("rows_per_second", rows);
        }
        if detail == Detail::Full {
            for (rows, duration) in &statistics.curve {
                add(&format!("seconds.{rows}"), duration.as_secs_f64());
            }
        }
        figures
    }
}

/// Rows and duration of the batch that gets most rows done. `None` while no duration is known.
fn usual_batch(statistics: &Statistics) -> Option<(usize, Duration)> {
    let best = statistics.best_size.max(1);
    let mut curve = statistics.curve.iter();
    let known = curve.find(|(rows, _)| *rows >= best);
    known
        .or(statistics.curve.last())
        .copied()
        .filter(|(rows, _)| *rows > 0)
}

/// Until what waits now was taken by an instance; zero when nothing waits. `None` while no duration is known.
pub fn expected_wait(statistics: &Statistics, instances: u32) -> Option<Duration> {
    let (rows, duration) = usual_batch(statistics)?;
    let batches = statistics.queued_rows.div_ceil(rows);
    let instances = usize::try_from(instances).unwrap_or(1).max(1);
    let turns = u32::try_from(batches.div_ceil(instances)).unwrap_or(u32::MAX);
    Some(duration.saturating_mul(turns))
}

/// What its instances get done together when batches are as large as pays.
fn rows_per_second(statistics: &Statistics, instances: u32) -> Option<f64> {
    let (rows, duration) = usual_batch(statistics)?;
    let seconds = duration.as_secs_f64();
    (seconds > 0.0).then(|| rows as f64 * f64::from(instances) / seconds)
}

/// How full a model is: the share of its instances' time that was used during `window`, and, when requests wait,
/// the time that they will take as a share of the same window. Above 1 when more is asked for than it can do.
pub fn fullness(busy: f64, expected_wait: Option<Duration>, window: Duration) -> f64 {
    let waiting = expected_wait.unwrap_or_default().as_secs_f64() / window.as_secs_f64();
    if waiting.is_finite() {
        busy + waiting
    } else {
        busy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statistics(queued_rows: usize) -> Statistics {
        let ms = Duration::from_millis;
        Statistics {
            queued_requests: queued_rows / 2,
            queued_rows,
            curve: vec![(1, ms(4)), (2, ms(5)), (4, ms(8)), (8, ms(20))],
            best_size: 4,
            ..Statistics::default()
        }
    }

    fn figures(statistics: &Statistics, detail: Detail) -> Vec<(String, f64)> {
        let model = ModelLoad {
            name: "mini.lm",
            version: 3,
            instances: 2,
            recent: Recent {
                occupancy: 0.25,
                busy: 0.5,
            },
            statistics,
        };
        let mut report = report(Whole::default(), 7, &[model], detail);
        assert_eq!(report.named_metrics.remove("forebay.rows"), Some(7.0));
        report.named_metrics.into_iter().collect()
    }

    #[test]
    fn figures_stand_under_their_names_in_their_units() {
        let key = |figure: &str| format!("forebay.mini.lm/3.{figure}");
        let brief = [
            ("batch_occupancy", 0.25),
            ("batch_rows", 4.0),
            ("busy", 0.5),
            // 20 rows are 5 batches of 4, in 3 turns of two instances, 8 ms each.
            ("expected_wait", 0.024),
            ("queued_requests", 10.0),
            ("queued_rows", 20.0),
            ("rows_per_second", 1_000.0),
        ];
        let want: Vec<_> = brief.map(|(figure, value)| (key(figure), value)).into();
        assert_eq!(figures(&statistics(20), Detail::Brief), want);
        let full = figures(&statistics(20), Detail::Full);
        assert_eq!(full.len(), want.len() + 4);
        assert!(full.contains(&(key("seconds.8"), 0.02)), "{full:?}");
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let unknown = Statistics {
            queued_rows: 7,
            best_size: 32,
            ..Statistics::default()
        };
        let names: Vec<_> = figures(&unknown, Detail::Full)
            .into_iter()
            .map(|(key, _)| key)
            .collect();
        assert_eq!(names.len(), 4, "{names:?}");
    }

    #[test]
    fn nothing_waits_for_nothing() {
        assert_eq!(expected_wait(&statistics(0), 1), Some(Duration::ZERO));
    }

    #[test]
    fn work_that_waits_makes_a_busy_model_more_than_full() {
        let second = Duration::from_secs(1);
        assert_eq!(fullness(0.5, None, 5 * second), 0.5);
        assert_eq!(fullness(1.0, Some(second), 5 * second), 1.2);
        assert_eq!(fullness(0.5, Some(second), Duration::ZERO), 0.5);
    }
}
