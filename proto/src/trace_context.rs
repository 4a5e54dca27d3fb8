//! `traceparent` of W3C Trace Context: which trace a request belongs to, and which span is its parent.
//!
//! Of the flags only `sampled` is kept, the others mean nothing to a hop that does not set them. A version
//! above 00 is read by the fields of 00, as the recommendation asks. Ids are drawn elsewhere.

use crate::status::hex_byte;

/// Length of a version 00 header value.
pub const LENGTH: usize = 55;

const VERSION: std::ops::Range<usize> = 0..2;
const TRACE_ID: std::ops::Range<usize> = 3..35;
const SPAN_ID: std::ops::Range<usize> = 36..52;
const FLAGS: std::ops::Range<usize> = 53..55;
const DASHES: [usize; 3] = [2, 35, 52];

const SAMPLED: u8 = 1;
const FORBIDDEN_VERSION: u8 = 0xff;

/// A trace, and a span in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceParent {
    /// Not all zero when parsed.
    pub trace_id: [u8; 16],
    /// Not all zero when parsed.
    pub span_id: [u8; 8],
    /// Whether the caller records its part of the trace.
    pub sampled: bool,
}

impl TraceParent {
    /// Reads a header value; none when it is not a valid one, in which case a new trace begins.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let head = value.first_chunk::<LENGTH>()?;
        if DASHES.iter().any(|dash| head[*dash] != b'-') {
            return None;
        }
        let [version] = lower_hex(&head[VERSION])?;
        match (version, value.get(LENGTH)) {
            (FORBIDDEN_VERSION, _) | (0, Some(_)) => return None,
            (_, Some(next)) if *next != b'-' => return None,
            _ => {}
        }
        let trace_id: [u8; 16] = lower_hex(&head[TRACE_ID])?;
        let span_id: [u8; 8] = lower_hex(&head[SPAN_ID])?;
        let [flags] = lower_hex(&head[FLAGS])?;
        if trace_id == [0; 16] || span_id == [0; 8] {
            return None;
        }
        Some(Self {
            trace_id,
            span_id,
            sampled: flags & SAMPLED != 0,
        })
    }

    /// The header value, in version 00.
    pub fn write(&self) -> [u8; LENGTH] {
        let mut value = [b'-'; LENGTH];
        write_hex(&[0], &mut value[VERSION]);
        write_hex(&self.trace_id, &mut value[TRACE_ID]);
        write_hex(&self.span_id, &mut value[SPAN_ID]);
        write_hex(&[u8::from(self.sampled)], &mut value[FLAGS]);
        value
    }

    /// The same trace, with another span as the parent.
    pub fn with_span(self, span_id: [u8; 8]) -> Self {
        Self { span_id, ..self }
    }
}

fn lower_hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.as_chunks::<2>().0) {
        if pair.iter().any(u8::is_ascii_uppercase) {
            return None;
        }
        *byte = hex_byte(pair[0], pair[1])?;
    }
    Some(bytes)
}

fn write_hex(bytes: &[u8], digits: &mut [u8]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for (byte, pair) in bytes.iter().zip(digits.as_chunks_mut::<2>().0) {
        *pair = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn example() -> TraceParent {
        TraceParent {
            trace_id: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes(),
            span_id: 0x00f0_67aa_0ba9_02b7_u64.to_be_bytes(),
            sampled: true,
        }
    }

    #[test]
    fn reads_and_writes_the_recommendations_example() {
        assert_eq!(TraceParent::parse(EXAMPLE.as_bytes()), Some(example()));
        assert_eq!(example().write(), EXAMPLE.as_bytes());
        let child = example().with_span([9; 8]);
        assert_eq!(child.trace_id, example().trace_id);
        assert_eq!(&child.write()[SPAN_ID], b"0909090909090909");
    }

    #[test]
    fn only_the_sampled_flag_counts() {
        for (flags, sampled) in [("00", false), ("02", false), ("03", true), ("ff", true)] {
            let value = format!("{}{flags}", &EXAMPLE[..53]);
            assert_eq!(
                TraceParent::parse(value.as_bytes()).unwrap().sampled,
                sampled
            );
        }
    }

    #[test]
    fn later_versions_are_read_by_the_fields_of_the_first() {
        let later = EXAMPLE.replacen("00", "cc", 1);
        for value in [later.clone(), format!("{later}-more")] {
            assert_eq!(TraceParent::parse(value.as_bytes()), Some(example()));
        }
        assert_eq!(TraceParent::parse(format!("{later}more").as_bytes()), None);
    }

    #[test]
    fn invalid_values_are_refused() {
        for value in [
            String::new(),
            EXAMPLE[..54].to_owned(),
            format!("{EXAMPLE}-00"),
            EXAMPLE.to_uppercase(),
            EXAMPLE.replacen("00", "ff", 1),
            EXAMPLE.replacen("00", "0g", 1),
            EXAMPLE.replace('-', "_"),
            EXAMPLE.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            EXAMPLE.replace("00f067aa0ba902b7", &"0".repeat(16)),
            EXAMPLE.replace("4bf9", "+bf9"),
        ] {
            assert_eq!(TraceParent::parse(value.as_bytes()), None, "{value}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(trace_id: [u8; 16], span_id: [u8; 8], sampled: bool) {
            prop_assume!(trace_id != [0; 16] && span_id != [0; 8]);
            let parent = TraceParent { trace_id, span_id, sampled };
            prop_assert_eq!(TraceParent::parse(&parent.write()), Some(parent));
        }

        #[test]
        fn any_bytes_are_read_without_panic(value: Vec<u8>) {
            prop_assert!(TraceParent::parse(&value).is_none() || value.len() >= LENGTH);
        }
    }
}
