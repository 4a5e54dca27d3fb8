//! How far numbers may go: as in the worker's own configuration. Whoever has a model loaded, or writes into the
//! repository, is not to exhaust the machine with one of them.

use std::fmt::Display;
use std::ops::RangeInclusive;

use super::Findings;

pub(super) const ROWS: RangeInclusive<u32> = 1..=65_536;
pub(super) const INSTANCES: RangeInclusive<u32> = 1..=1024;
pub(super) const DEVICES: RangeInclusive<u32> = 0..=255;
pub(super) const THREADS: RangeInclusive<i64> = 1..=1024;
pub(super) const QUEUE_SIZE: RangeInclusive<u32> = 1..=1_000_000;
pub(super) const QUEUE_DELAY_MICROS: RangeInclusive<u64> = 0..=60_000_000;
pub(super) const PRIORITY_LEVELS: RangeInclusive<u64> = 0..=1000;
/// The configuration has no such key: runs of one sample on each instance.
pub(super) const WARM_UP_COUNT: RangeInclusive<u32> = 0..=1000;

impl Findings {
    /// None: the value is out of range, which is a problem.
    pub(super) fn within<T: PartialOrd + Display>(
        &mut self,
        field: &str,
        value: T,
        range: &RangeInclusive<T>,
    ) -> Option<T> {
        if range.contains(&value) {
            return Some(value);
        }
        let (least, most) = (range.start(), range.end());
        self.problem(format!("{field} is {value}, expected {least} to {most}"));
        None
    }
}

#[cfg(test)]
mod tests {
    use forebay_config::worker::Model;

    use super::super::read;

    #[test]
    fn numbers_beyond_the_configurations_ranges_are_refused() {
        for (with, most) in [
            ("max_batch_size: N", 65_536_u64),
            ("instance_group { count: N }", 1024),
            ("instance_group [ { count: N }, { count: 0 } ]", 1023),
            ("instance_group { gpus: N }", 255),
            (
                "parameters { key: 'intra_op_thread_count' value: { string_value: 'N' } }",
                1024,
            ),
            (
                "dynamic_batching { default_queue_policy { max_queue_size: N } }",
                1_000_000,
            ),
            (
                "dynamic_batching { max_queue_delay_microseconds: N }",
                60_000_000,
            ),
            (
                "dynamic_batching { priority_levels: N default_priority_level: 1 }",
                1000,
            ),
            ("model_warmup { name: 'w' count: N }", 1000),
        ] {
            let read_with = |number: u64| {
                let text = with.replace('N', &number.to_string());
                read(&text, "m", &Model::default()).map(|_| ())
            };
            assert_eq!(read_with(most), Ok(()), "{with}");
            for number in [most + 1, 2_000_000_000] {
                let told = read_with(number).expect_err(with);
                assert!(told.contains(", expected "), "{told}");
                let (number, groups) = (number.to_string(), number + 1);
                let told_it = told.contains(&number) || told.contains(&groups.to_string());
                assert!(told_it, "{told}");
            }
        }
    }
}
