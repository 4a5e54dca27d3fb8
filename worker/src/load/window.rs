//! Counters as they stood during the last few seconds: what rates are made of.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Readings kept; with one a second, rates are over five seconds.
const READINGS: usize = 6;

#[derive(Debug)]
pub struct Window<T> {
    readings: VecDeque<(Instant, T)>,
}

/// The oldest and the newest reading, and what lies between.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Span<'a, T> {
    pub time: Duration,
    pub first: &'a T,
    pub last: &'a T,
}

impl<T> Default for Window<T> {
    fn default() -> Window<T> {
        Window {
            readings: VecDeque::with_capacity(READINGS),
        }
    }
}

impl<T> Window<T> {
    pub fn push(&mut self, now: Instant, reading: T) {
        if self.readings.len() == READINGS {
            self.readings.pop_front();
        }
        self.readings.push_back((now, reading));
    }

    /// `None` before the second reading.
    pub fn span(&self) -> Option<Span<'_, T>> {
        let ((start, first), (end, last)) = (self.readings.front()?, self.readings.back()?);
        let time = end.saturating_duration_since(*start);
        (!time.is_zero()).then_some(Span { time, first, last })
    }
}

/// How much a counter went up a second; 0 when it began anew.
pub fn rate(first: u64, last: u64, time: Duration) -> f64 {
    last.saturating_sub(first) as f64 / time.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_over_the_last_five_seconds() {
        let start = Instant::now();
        let mut window = Window::default();
        for second in 0..10_u64 {
            let span = window.span();
            assert_eq!(span.is_none(), second < 2, "at {second}");
            window.push(start + Duration::from_secs(second), second * second);
        }
        let span = window.span().unwrap();
        assert_eq!((*span.first, *span.last), (16, 81));
        assert_eq!(rate(*span.first, *span.last, span.time), 13.0);
    }

    #[test]
    fn a_counter_that_began_anew_has_no_rate() {
        assert_eq!(rate(7, 3, Duration::from_secs(1)), 0.0);
    }

    #[test]
    fn readings_at_one_instant_say_nothing() {
        let now = Instant::now();
        let mut window = Window::default();
        window.push(now, 1);
        window.push(now, 2);
        assert_eq!(window.span(), None);
    }
}
