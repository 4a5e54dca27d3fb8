//! `grpc-timeout`: at most eight digits and a unit ("gRPC over HTTP2", the request headers).

use std::fmt;
use std::time::Duration;

const MAX_DIGITS: usize = 8;
const MAX_VALUE: u64 = 99_999_999;

/// Nanoseconds of each unit, the finest first.
const UNITS: [(u8, u64); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60_000_000_000),
    (b'H', 3_600_000_000_000),
];

/// The duration that a header value says; none when it is not written as gRPC asks.
pub fn parse(value: &[u8]) -> Option<Duration> {
    let (&unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > MAX_DIGITS {
        return None;
    }
    let mut amount = 0_u64;
    for digit in digits {
        amount = amount * 10 + u64::from(char::from(*digit).to_digit(10)?);
    }
    let (_, nanoseconds) = UNITS.into_iter().find(|(letter, _)| *letter == unit)?;
    // Eight digits of hours exceed 64 bits of nanoseconds, so seconds and the rest are taken apart.
    const SECOND: u64 = 1_000_000_000;
    Some(if nanoseconds >= SECOND {
        Duration::from_secs(amount * (nanoseconds / SECOND))
    } else {
        Duration::from_nanos(amount * nanoseconds)
    })
}

/// Writes a duration in the finest unit that eight digits can say, rounded up so that a peer never gives up
/// before the caller does. What exceeds 99999999 hours is written as that.
pub fn format(duration: Duration) -> TimeoutText {
    let nanoseconds = duration.as_nanos();
    let (amount, unit) = UNITS
        .into_iter()
        .find_map(|(letter, size)| {
            let amount = u64::try_from(nanoseconds.div_ceil(u128::from(size))).ok()?;
            (amount <= MAX_VALUE).then_some((amount, letter))
        })
        .unwrap_or((MAX_VALUE, b'H'));
    TimeoutText::new(amount, unit)
}

/// A header value on the stack.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TimeoutText {
    /// ASCII, at the end of the array.
    text: [u8; MAX_DIGITS + 1],
    start: usize,
}

impl TimeoutText {
    fn new(mut amount: u64, unit: u8) -> Self {
        let mut text = [b'0'; MAX_DIGITS + 1];
        text[MAX_DIGITS] = unit;
        let mut start = MAX_DIGITS;
        loop {
            start -= 1;
            text[start] = b'0' + (amount % 10) as u8;
            amount /= 10;
            if amount == 0 || start == 0 {
                return Self { text, start };
            }
        }
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).expect("digits and a letter are ASCII")
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.text[self.start..]
    }
}

impl fmt::Display for TimeoutText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl fmt::Debug for TimeoutText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), formatter)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_each_unit() {
        for (text, duration) in [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("4m", Duration::from_millis(4)),
            ("5u", Duration::from_micros(5)),
            ("6n", Duration::from_nanos(6)),
            ("0n", Duration::ZERO),
            ("00000001S", Duration::from_secs(1)),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
            ("99999999m", Duration::from_millis(99_999_999)),
        ] {
            assert_eq!(parse(text.as_bytes()), Some(duration), "{text}");
        }
    }

    #[test]
    fn refuses_what_grpc_does_not_allow() {
        for text in [
            "",
            "S",
            "1",
            "1s",
            "1 S",
            "-1S",
            "+1S",
            "1.5S",
            "123456789n",
            "1Sn",
            "1h",
            "\u{661}S",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn writes_the_finest_unit_that_fits_and_rounds_up() {
        for (duration, text) in [
            (Duration::ZERO, "0n"),
            (Duration::from_nanos(99_999_999), "99999999n"),
            (Duration::from_nanos(100_000_000), "100000u"),
            (Duration::from_nanos(100_000_001), "100001u"),
            (Duration::from_secs(30), "30000000u"),
            (Duration::from_secs(1_000_000), "1000000S"),
            (Duration::MAX, "99999999H"),
        ] {
            assert_eq!(format(duration).as_str(), text);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back_and_never_shorter(seconds in 0..=99_999_999_u64 * 3600, nanoseconds in 0..1_000_000_000_u32) {
            let duration = Duration::new(seconds, nanoseconds);
            let text = format(duration);
            prop_assert!(text.as_bytes().len() <= MAX_DIGITS + 1);
            let read = parse(text.as_bytes()).unwrap();
            prop_assert!(read >= duration.min(Duration::from_secs(99_999_999 * 3600)));
            prop_assert!(read - duration.min(read) < Duration::from_secs(3600));
            prop_assert_eq!(format(read), text);
        }

        #[test]
        fn any_bytes_are_read_without_panic(value: Vec<u8>) {
            if let Some(duration) = parse(&value) {
                prop_assert!(duration <= Duration::from_secs(99_999_999 * 3600));
            }
        }
    }
}
