//! Whether a request stays with the endpoints that its cluster prefers, or spills over to the others.
//!
//! While enough of the preferred ones can take requests, all do stay. Below that the others get the part that is
//! missing: of 0.7 wanted and 0.35 able, half of the requests (Envoy's locality-weighted balancing, whose overprovisioning
//! factor of 1.4 is 0.7 the other way round). So those that are left keep about the load that they had, up to
//! `1 / spill_below` of it.

use crate::traffic::hash;

/// `able`: the share of the preferred endpoints that can take the request. `ticket` is uniform over all of `u64`, or a
/// key, whose requests then stay together here too.
pub fn stays(able: f64, spill_below: f64, ticket: u64) -> bool {
    const STEP: f64 = 1.0 / (1_u64 << 53) as f64;
    // The policies use the ticket too, and must not see only those that stay.
    let drawn = (hash::mix(ticket ^ 0x7370_696c_6c21) >> 11) as f64 * STEP;
    drawn * spill_below < able
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_others_get_the_part_that_is_missing() {
        for (able, spill_below, expected) in [
            (1.0, 0.7, 1.0),
            (0.7, 0.7, 1.0),
            (0.35, 0.7, 0.5),
            (0.5, 1.0, 0.5),
            (0.0, 0.7, 0.0),
            (1.0, 1.0, 1.0),
        ] {
            let stay = (0..20_000_u64).filter(|ticket| stays(able, spill_below, *ticket));
            let share = stay.count() as f64 / 20_000.0;
            assert!(
                (share - expected).abs() < 0.02,
                "{able} of {spill_below}: {share}"
            );
        }
    }
}
