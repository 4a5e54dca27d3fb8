//! Durations ("250ms", "1m30s") and sizes ("16MiB") as text.
//!
//! Whole numbers only, and a unit always: `timeout = 5` leaves open five of what, so it is refused with
//! the two readings it could have. A duration may join several units, larger ones first. Sizes know binary
//! units (KiB, MiB, GiB) and decimal ones (kB, MB, GB); `KB` means either, depending on who is asked, and is
//! refused. Errors are what would be right, to be put after "expected".

use std::time::Duration;

const DURATION_UNITS: [(&str, u64); 5] = [
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

const BINARY_UNITS: [(&str, u64); 4] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

const DECIMAL_UNITS: [(&str, u64); 3] = [("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)];

/// Whole microseconds up to 2^64 - 1 of them.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let refused = || r#"a duration such as "250ms" or "1m30s" (units: h, m, s, ms, us)"#.to_owned();
    if is_number(text) {
        return Err(duration_without_unit(text));
    }
    let mut rest = text;
    let mut total: u64 = 0;
    let mut units = DURATION_UNITS.iter();
    while !rest.is_empty() {
        let (count, unit, tail) = leading_quantity(rest).ok_or_else(refused)?;
        // The iterator is not rewound, so a unit that is repeated or larger than its predecessor is not found.
        let (_, micros) = units.find(|(name, _)| *name == unit).ok_or_else(refused)?;
        total = count
            .checked_mul(*micros)
            .and_then(|part| total.checked_add(part))
            .ok_or_else(refused)?;
        rest = tail;
    }
    if text.is_empty() {
        Err(refused())
    } else {
        Ok(Duration::from_micros(total))
    }
}

/// What `parse_duration` reads back as the same duration; parts below a microsecond are dropped.
pub fn format_duration(duration: Duration) -> String {
    let mut rest = duration.as_micros();
    let mut text = String::new();
    for (unit, micros) in DURATION_UNITS {
        let count = rest / u128::from(micros);
        rest %= u128::from(micros);
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
        }
    }
    if text.is_empty() {
        "0s".to_owned()
    } else {
        text
    }
}

/// Bytes up to 2^64 - 1.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let refused =
        || r#"a size such as "16MiB" (units: B, KiB, MiB, GiB, or decimal kB, MB, GB)"#.to_owned();
    if is_number(text) {
        return Err(size_without_unit(text));
    }
    let (count, unit, tail) = leading_quantity(text).ok_or_else(refused)?;
    if unit == "KB" {
        return Err(format!(
            r#"KiB (1024 bytes) or kB (1000 bytes), such as "{count}KiB""#
        ));
    }
    let (_, bytes) = BINARY_UNITS
        .iter()
        .chain(&DECIMAL_UNITS)
        .find(|(name, _)| *name == unit && tail.is_empty())
        .ok_or_else(refused)?;
    count.checked_mul(*bytes).ok_or_else(refused)
}

/// What `parse_bytes` reads back as the same size, in the largest binary unit that divides it.
pub fn format_bytes(bytes: u64) -> String {
    let divides = |(_, size): &&(&str, u64)| bytes >= *size && bytes.is_multiple_of(*size);
    let (unit, size) = BINARY_UNITS.iter().find(divides).unwrap_or(&("B", 1));
    format!("{}{unit}", bytes / size)
}

/// What would be right where a bare number stands for a duration.
pub(crate) fn duration_without_unit(number: &str) -> String {
    format!(r#"a duration with its unit, such as "{number}ms" or "{number}s""#)
}

/// What would be right where a bare number stands for a size.
pub(crate) fn size_without_unit(number: &str) -> String {
    format!(r#"a size with its unit, such as "{number}B" or "{number}MiB""#)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// `90ms4s` is 90, `ms` and the rest, `4s`.
fn leading_quantity(text: &str) -> Option<(u64, &str, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, rest) = text.split_at(digits);
    let letters = rest
        .find(|c: char| c.is_ascii_digit())
        .unwrap_or(rest.len());
    let (unit, tail) = rest.split_at(letters);
    Some((number.parse().ok()?, unit, tail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read() {
        for (text, micros) in [
            ("0s", 0),
            ("7us", 7),
            ("250ms", 250_000),
            ("1m30s", 90_000_000),
            ("2h5ms", 7_200_005_000),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_micros(micros)),
                "{text}"
            );
        }
    }

    #[test]
    fn durations_that_could_mean_something_else_are_refused() {
        for text in [
            "",
            "s",
            "ms",
            "5 s",
            "1.5s",
            "-1s",
            "30s1m",
            "1s1s",
            "5S",
            "5min",
            "5s6",
            "1d",
            "99999999999999h",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert!(parse_duration("250").is_err_and(|right| right.contains("\"250ms\" or \"250s\"")));
    }

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("0B", 0),
            ("1KiB", 1024),
            ("1kB", 1000),
            ("16MiB", 16 << 20),
            ("2MB", 2_000_000),
            ("3GiB", 3 << 30),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn sizes_that_could_mean_something_else_are_refused() {
        for text in [
            "",
            "B",
            "1.5MiB",
            "-1B",
            "1 MiB",
            "16mib",
            "16M",
            "1MiB1KiB",
            "99999999999GiB",
        ] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
        assert!(parse_bytes("16").is_err_and(|right| right.contains("\"16B\" or \"16MiB\"")));
        assert!(parse_bytes("16KB").is_err_and(|right| right.contains("kB (1000 bytes)")));
    }

    #[test]
    fn written_in_the_fewest_units() {
        assert_eq!(format_duration(Duration::from_millis(90_250)), "1m30s250ms");
        assert_eq!(format_duration(Duration::ZERO), "0s");
        assert_eq!(format_bytes(64 << 20), "64MiB");
        assert_eq!(format_bytes(1025), "1025B");
        assert_eq!(format_bytes(0), "0B");
    }

    proptest! {
        #[test]
        fn durations_survive_the_round_trip(micros: u64) {
            let duration = Duration::from_micros(micros);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn sizes_survive_the_round_trip(bytes: u64) {
            prop_assert_eq!(parse_bytes(&format_bytes(bytes)), Ok(bytes));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC*", near in "[0-9]{0,25}[a-zA-Zµ]{0,4}[0-9]{0,3}[a-z]{0,2}") {
            for text in [text, near] {
                let _ = parse_duration(&text);
                let _ = parse_bytes(&text);
            }
        }
    }
}
