//! Decimal numbers of few digits, which exact arithmetic turns into binary ones.
//!
//! When the digits are a whole number up to 2^53 and the scale a power of ten up to 10^22, both are exact as `f64`,
//! so one division rounds correctly (Clinger, "How to read floating point numbers accurately", 1990). Most numbers
//! in requests are of this kind, and this costs less than the standard library's reader, which takes the others.

/// A number that `f64` holds correctly rounded.
#[derive(Clone, Copy)]
pub(super) struct Decimal(f64);

const EXACT_DIGITS: u64 = 1 << 53;
const MOST_DIGITS: usize = 19;

/// The powers of ten that are exact as `f64`.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
];

const WHOLE_POWERS: [u64; 9] = [
    1,
    10,
    100,
    1_000,
    10_000,
    100_000,
    1_000_000,
    10_000_000,
    100_000_000,
];

/// Reads the JSON number at the beginning of a text, and its length. None when it has an exponent or too many
/// digits, or when there is no number.
pub(super) fn short_decimal(text: &[u8]) -> Option<(Decimal, usize)> {
    let negative = text.first() == Some(&b'-');
    let (whole, mut at) = digits(text, usize::from(negative), 0);
    let mut all = whole;
    let mut count = at - usize::from(negative);
    let mut scale = 0;
    if text.get(at) == Some(&b'.') {
        let (with_fraction, end) = digits(text, at + 1, whole);
        scale = end - at - 1;
        all = with_fraction;
        count += scale;
        at = end;
    }
    let exponent = matches!(text.get(at), Some(b'e' | b'E'));
    // Within this many digits, none has overflowed the sum.
    if count == 0 || count > MOST_DIGITS || all > EXACT_DIGITS || exponent {
        return None;
    }
    let magnitude = all as f64 / POWERS.get(scale)?;
    let value = if negative { -magnitude } else { magnitude };
    Some((Decimal(value), at))
}

/// Appends the decimal digits from `at` on to a number; returns it and where they end.
///
/// Digits are taken eight bytes at a time: how many there are is hard to predict for the processor, and this way
/// it need not.
fn digits(text: &[u8], mut at: usize, mut number: u64) -> (u64, usize) {
    while let Some(chunk) = text.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let (value, count) = leading_digits(u64::from_le_bytes(*chunk));
        number = number.wrapping_mul(WHOLE_POWERS[count]).wrapping_add(value);
        at += count;
        if count < 8 {
            return (number, at);
        }
    }
    while let Some(digit) = text.get(at).map(|byte| byte.wrapping_sub(b'0'))
        && digit < 10
    {
        number = number.wrapping_mul(10).wrapping_add(u64::from(digit));
        at += 1;
    }
    (number, at)
}

/// The number that the digits at the front of eight bytes make, the first byte lowest, and how many they are.
fn leading_digits(chunk: u64) -> (u64, usize) {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let values = chunk ^ (0x30 * EACH);
    // A byte above 9 gets its high bit set, either by the sum or because it had it.
    let others = (values.wrapping_add(0x76 * EACH) | values) & (0x80 * EACH);
    let count = (others.trailing_zeros() / 8) as usize;
    if count == 0 {
        return (0, 0);
    }
    // The digits move to the end of the eight, behind zeros, and are summed in pairs, fours and all.
    let values = values << (64 - 8 * count);
    let pairs = (values * 10 + (values >> 8)) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs * 100 + (pairs >> 16)) & 0x0000_ffff_0000_ffff;
    let all = (fours * 10_000 + (fours >> 32)) & 0xffff_ffff;
    (all, count)
}

impl Decimal {
    pub(super) fn to_f64(self) -> Option<[u8; 8]> {
        Some(self.0.to_le_bytes())
    }

    /// None where rounding twice, to `f64` and then to `f32`, might differ from rounding once: exactly between
    /// two neighbours, and where `f32` is subnormal or infinite.
    pub(super) fn to_f32(self) -> Option<[u8; 4]> {
        const DROPPED_BITS: u64 = (1 << 29) - 1;
        const HALFWAY: u64 = 1 << 28;
        let halfway = self.0.to_bits() & DROPPED_BITS == HALFWAY;
        let magnitude = self.0.abs();
        let normal = magnitude == 0.0
            || (f64::from(f32::MIN_POSITIVE)..=f64::from(f32::MAX)).contains(&magnitude);
        (normal && !halfway).then(|| (self.0 as f32).to_le_bytes())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Option<(f64, usize)> {
        short_decimal(text.as_bytes()).map(|(decimal, length)| (decimal.0, length))
    }

    #[test]
    fn short_numbers_are_read() {
        assert_eq!(read("0"), Some((0.0, 1)));
        assert_eq!(read("-12.50,7"), Some((-12.5, 6)));
        assert_eq!(read("0.1]"), Some((0.1, 3)));
        assert_eq!(read("9007199254740992"), Some((9007199254740992.0, 16)));
        let (zero, _) = read("-0.0").unwrap();
        assert_eq!(zero.to_bits(), (-0.0_f64).to_bits());
    }

    #[test]
    fn other_texts_are_left_alone() {
        for text in [
            "",
            "-",
            "x",
            "true",
            "\"1\"",
            "1e5",
            "1.5E-3",
            "9007199254740993",
            "00000000000000000001",
            "0.00000000000000000000001",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn a_number_between_two_neighbours_is_left_alone() {
        let (halfway, _) = short_decimal(b"16777217").unwrap();
        assert_eq!(halfway.to_f32(), None);
        let (halfway, _) = short_decimal(b"1.00000005960464").unwrap();
        assert_eq!(
            halfway.to_f32(),
            "1.00000005960464".parse::<f32>().ok().map(f32::to_le_bytes)
        );
    }

    proptest! {
        #[test]
        fn agrees_with_the_standard_library(
            text in "-?(0|[1-9][0-9]{0,18})(\\.[0-9]{1,24})?",
            after in prop::sample::select(&["", ",", "]}]}]}]}]}", ",-1.5,2,3,4", "éééééééé", "\0\0\0\0\0\0\0\0"]),
        ) {
            let with_more = format!("{text}{after}");
            if let Some((decimal, length)) = short_decimal(with_more.as_bytes()) {
                prop_assert_eq!(length, text.len());
                prop_assert_eq!(decimal.0.to_bits(), text.parse::<f64>().unwrap().to_bits());
                if let Some(bytes) = decimal.to_f32() {
                    prop_assert_eq!(bytes, text.parse::<f32>().unwrap().to_le_bytes());
                }
            }
        }

        #[test]
        fn agrees_near_the_middle_of_two_neighbours(bits in 0x3000_0000_u32..0x5000_0000, nudge in -2_i64..=2) {
            let low = f64::from(f32::from_bits(bits));
            let high = f64::from(f32::from_bits(bits + 1));
            let middle = f64::from_bits(((low + high) / 2.0).to_bits().wrapping_add_signed(nudge));
            let text = format!("{middle}");
            if let Some((decimal, _)) = short_decimal(text.as_bytes())
                && let Some(bytes) = decimal.to_f32()
            {
                prop_assert_eq!(bytes, text.parse::<f32>().unwrap().to_le_bytes());
            }
        }
    }
}
