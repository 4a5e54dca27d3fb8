//! Open-loop load: calls start on time, whether or not those before have been answered.
//!
//! A closed loop would wait with a stalled server and hide the stall; here each call counts from the instant at
//! which it was due.

use std::collections::BTreeMap;
use std::future::Future;
use std::str::FromStr;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

/// No call of a test waits longer; one that does is an error.
const PATIENCE: Duration = Duration::from_secs(15);

#[derive(Debug, Default)]
pub struct Report {
    pub calls: usize,
    pub longest: Duration,
    /// By text, with how often and when each came first, after the start.
    pub errors: BTreeMap<String, (usize, Duration)>,
}

/// `usual` calls a second, or what `FOREBAY_TEST_RATE` says: builds for tests are several times slower than those for
/// use.
pub fn rate(usual: u32) -> u32 {
    from_environment("FOREBAY_TEST_RATE").unwrap_or(usual)
}

/// `usual` seconds of load, or what `FOREBAY_TEST_SECONDS` says.
pub fn seconds(usual: u64) -> Duration {
    Duration::from_secs(from_environment("FOREBAY_TEST_SECONDS").unwrap_or(usual))
}

fn from_environment<T: FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

/// Starts `call(number)` `rate` times a second for `time`, and waits for all of them.
pub async fn open_loop<F>(rate: u32, time: Duration, call: impl Fn(u32) -> F) -> Report
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let start = Instant::now();
    let mut calls = JoinSet::new();
    let total = (time.as_secs_f64() * f64::from(rate)) as u32;
    for number in 0..total {
        let due = start + Duration::from_secs(1) * number / rate;
        tokio::time::sleep_until(due).await;
        let answer = call(number);
        calls.spawn(async move {
            let result = match tokio::time::timeout(PATIENCE, answer).await {
                Ok(result) => result.map_err(|error| format!("{error:#}")),
                Err(_) => Err(format!("no answer within {PATIENCE:?}")),
            };
            (due - start, due.elapsed(), result)
        });
    }
    let mut report = Report::default();
    while let Some(joined) = calls.join_next().await {
        let (at, took, result) =
            joined.unwrap_or_else(|error| (time, Duration::ZERO, Err(error.to_string())));
        report.calls += 1;
        report.longest = report.longest.max(took);
        if let Err(error) = result {
            let (times, first) = report.errors.entry(error).or_insert((0, at));
            *times += 1;
            *first = at.min(*first);
        }
    }
    report
}
