//! What others have at an endpoint: other gateways, and clients that go there directly.
//!
//! A worker reports the rows that it has; those that this gateway has in flight there are not news. The rest is compared
//! with what is usual there, since what is usual is in the answer times already. Only how far it is off at the moment
//! counts, and less with the age of the report: what is known of a queue decays within batches, and after `STALE` a
//! report says nothing. Gateways that heard of the same empty endpoint so come back within the blink of an eye to where
//! their own measurements lead them, and until then each counts what it has sent itself.
//!
//! Reports move estimates of the endpoint they are about, and never what is learned of its speed: a worker that
//! reports nonsense misplaces traffic to itself alone, and not for long.

use std::time::{Duration, Instant};

/// A report older than that says nothing about the queue.
const STALE: Duration = Duration::from_millis(200);
/// Time constant in which a report loses its say until then: some batches.
const TAU: Duration = Duration::from_millis(50);
/// Time constant of what is usual.
const USUAL_TAU: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Default)]
pub struct Others {
    last: Option<Reported>,
    /// Rows, on average over reports.
    usual: f64,
}

#[derive(Debug, Clone, Copy)]
struct Reported {
    at: Instant,
    /// Of others, at least 0.
    rows: f64,
}

/// Rows of others at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct OthersNow {
    pub rows: f64,
    /// More than usual, or fewer.
    pub unusual: f64,
}

impl Others {
    /// The endpoint had `rows`, of which this gateway had `own` in flight.
    pub fn reported(&mut self, now: Instant, rows: f64, own: f64) {
        let rows = (rows - own).max(0.0);
        let share = match self.last {
            None => 1.0,
            Some(last) => 1.0 - remaining(now, last.at, USUAL_TAU),
        };
        self.usual += share * (rows - self.usual);
        self.last = Some(Reported { at: now, rows });
    }

    pub fn now(&self, now: Instant) -> OthersNow {
        let Some(last) = self.last else {
            return OthersNow::default();
        };
        if now.saturating_duration_since(last.at) > STALE {
            return OthersNow {
                rows: self.usual,
                unusual: 0.0,
            };
        }
        let unusual = (last.rows - self.usual) * remaining(now, last.at, TAU);
        OthersNow {
            rows: self.usual + unusual,
            unusual,
        }
    }
}

/// 1 at once, 0 in the end.
fn remaining(now: Instant, since: Instant, tau: Duration) -> f64 {
    let age = now.saturating_duration_since(since);
    (-age.as_secs_f64() / tau.as_secs_f64()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Reports of the same for some seconds.
    fn used_to(rows: f64, start: Instant) -> (Others, Instant) {
        let mut others = Others::default();
        let mut now = start;
        for _ in 0..300 {
            now += 20 * MS;
            others.reported(now, rows, 0.0);
        }
        (others, now)
    }

    #[test]
    fn nothing_reported_is_nothing_known() {
        assert_eq!(Others::default().now(Instant::now()), OthersNow::default());
    }

    #[test]
    fn only_the_others_rows_count() {
        let now = Instant::now();
        let mut others = Others::default();
        others.reported(now, 12.0, 8.0);
        assert_eq!(others.now(now).rows, 4.0);
        others.reported(now, 3.0, 8.0);
        assert!(others.now(now).rows >= 0.0);
    }

    #[test]
    fn what_is_usual_is_no_news_and_what_is_not_counts_in_full_at_once() {
        let (mut others, now) = used_to(6.0, Instant::now());
        assert!(others.now(now).unusual.abs() < 1e-9);
        let later = now + 10 * MS;
        others.reported(later, 60.0, 0.0);
        let seen = others.now(later);
        assert!(
            seen.unusual > 50.0 && (seen.rows - 60.0).abs() < 1e-9,
            "{seen:?}"
        );
    }

    #[test]
    fn a_report_says_less_with_its_age_and_then_nothing() {
        let (mut others, now) = used_to(6.0, Instant::now());
        others.reported(now + MS, 0.0, 0.0);
        let at = |age: u32| others.now(now + MS + age * MS).unusual;
        assert!(at(0) < -5.0);
        assert!(at(50) > at(0) / 2.0);
        assert_eq!(at(201), 0.0);
        let stale = others.now(now + 400 * MS);
        assert!((stale.rows - 6.0).abs() < 0.1, "{stale:?}");
    }

    #[test]
    fn what_stays_becomes_usual() {
        let (mut others, mut now) = used_to(0.0, Instant::now());
        for _ in 0..250 {
            now += 20 * MS;
            others.reported(now, 30.0, 0.0);
        }
        assert!(others.now(now).unusual < 1.0);
    }
}
