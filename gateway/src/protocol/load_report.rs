//! What a load report says that matters for choosing an endpoint: ORCA's `xds.data.orca.v3.OrcaLoadReport`, of which
//! one figure is read, the rows that the worker has (`docs/load-reports.md` names all of them).
//!
//! One that comes with an answer is read where it stands: nothing is allocated, and no more than `LONGEST` bytes and
//! `MOST_FIGURES` figures are looked at. One out of a stream names all models and is read to its end. What is malformed,
//! larger or absurd says nothing.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::wire::{Reader, Stop};

/// gRPC leaves out the padding, and asks to accept it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
/// Bytes of a report that is read. Those of Forebay's workers have a few hundred.
const LONGEST: usize = 2048;
const MOST_FIGURES: usize = 32;
const MOST_ROWS: f64 = 1e6;

/// Of `OrcaLoadReport`: the map of figures, and of each its name and value.
const NAMED_METRICS: u32 = 8;
const NAME: u32 = 1;
const VALUE: u32 = 2;
const ROWS: &[u8] = b"forebay.rows";

/// Rows that the worker has, from the value of `endpoint-load-metrics-bin`. None: the report does not say.
pub fn rows_in_header(value: &[u8]) -> Option<f64> {
    let mut buffer = [0; LONGEST];
    let length = BASE64.decode_slice(value, &mut buffer).ok()?;
    let found = find(buffer.get(..length)?, MOST_FIGURES);
    found.ok().flatten().filter(is_plausible)
}

/// The same of the message itself, however many figures it has.
pub fn rows(report: &[u8]) -> Option<f64> {
    let found = find(report, usize::MAX);
    found.ok().flatten().filter(is_plausible)
}

fn is_plausible(rows: &f64) -> bool {
    (0.0..=MOST_ROWS).contains(rows)
}

fn find(report: &[u8], most: usize) -> Result<Option<f64>, Stop> {
    let mut reader = Reader::new(report);
    let mut figures = 0;
    while !reader.is_empty() && figures < most {
        match reader.key()? {
            (NAMED_METRICS, 2) => {
                figures += 1;
                if let Some(rows) = figure(reader.delimited()?)? {
                    return Ok(Some(rows));
                }
            }
            (_, wire_type) => reader.skip(wire_type)?,
        }
    }
    Ok(None)
}

/// The value, if it is the figure that is looked for. A value that is left out is 0.
fn figure(entry: &[u8]) -> Result<Option<f64>, Stop> {
    let mut reader = Reader::new(entry);
    let (mut is_rows, mut value) = (false, 0.0);
    while !reader.is_empty() {
        match reader.key()? {
            (NAME, 2) => is_rows = reader.delimited()? == ROWS,
            (VALUE, 1) => value = f64::from_le_bytes(reader.eight()?),
            (_, wire_type) => reader.skip(wire_type)?,
        }
    }
    Ok(is_rows.then_some(value))
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD as PADDED, STANDARD_NO_PAD};
    use forebay_proto::orca::OrcaLoadReport;
    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    fn report(figures: &[(&str, f64)]) -> Vec<u8> {
        let named = figures.iter().map(|(name, value)| ((*name).into(), *value));
        let report = OrcaLoadReport {
            cpu_utilization: 0.5,
            rps_fractional: 12.0,
            named_metrics: named.collect(),
            application_utilization: 0.7,
            ..OrcaLoadReport::default()
        };
        report.encode_to_vec()
    }

    #[test]
    fn the_rows_are_found_among_the_figures_however_the_header_is_padded() {
        let report = report(&[
            ("forebay.rows", 17.0),
            ("forebay.minilm/1.queued_rows", 3.0),
            ("forebay.rows/1.busy", 1.0),
        ]);
        assert_eq!(rows(&report), Some(17.0));
        assert_eq!(
            rows_in_header(PADDED.encode(&report).as_bytes()),
            Some(17.0)
        );
        let unpadded = STANDARD_NO_PAD.encode(&report);
        assert_eq!(rows_in_header(unpadded.as_bytes()), Some(17.0));
    }

    #[test]
    fn none_at_all_is_a_figure_too() {
        assert_eq!(rows(&report(&[("forebay.rows", 0.0)])), Some(0.0));
    }

    #[test]
    fn what_is_not_said_or_absurd_is_not_known() {
        assert_eq!(rows(&report(&[("queue", 3.0)])), None);
        assert_eq!(rows(&[]), None);
        for absurd in [f64::NAN, f64::INFINITY, -1.0, 1e7] {
            assert_eq!(rows(&report(&[("forebay.rows", absurd)])), None);
        }
        for header in ["%", "AAA=A", "=", ""] {
            assert_eq!(rows_in_header(header.as_bytes()), None, "{header}");
        }
    }

    #[test]
    fn long_reports_are_not_read() {
        let names: Vec<String> = (0..200).map(|number| format!("figure-{number}")).collect();
        let mut figures: Vec<(&str, f64)> = names.iter().map(|name| (name.as_str(), 1.0)).collect();
        figures.push(("forebay.rows", 2.0));
        let both = |figures: &[(&str, f64)]| {
            let report = report(figures);
            (
                rows_in_header(PADDED.encode(&report).as_bytes()),
                rows(&report),
            )
        };
        assert_eq!(both(&figures), (None, Some(2.0)));
        figures.drain(..figures.len() - MOST_FIGURES);
        assert_eq!(both(&figures), (Some(2.0), Some(2.0)));
        let long = PADDED.encode(report(&[
            (&"x".repeat(LONGEST), 1.0),
            ("forebay.rows", 1.0),
        ]));
        assert_eq!(rows_in_header(long.as_bytes()), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..128)) {
            rows(&bytes);
            rows_in_header(&bytes);
            if let Some(rows) = rows_in_header(PADDED.encode(&bytes).as_bytes()) {
                prop_assert!((0.0..=MOST_ROWS).contains(&rows));
            }
        }
    }
}
