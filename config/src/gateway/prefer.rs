//! `[clusters.prefer]`: endpoints that are used before the others, such as those of the gateway's own zone.

use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq)]
pub struct Prefer {
    /// What preferred endpoints have; at least one.
    pub labels: BTreeMap<String, String>,
    /// Of the preferred endpoints, by weight: when fewer than this can take requests, the others get the part that is
    /// missing. Above 0.0, up to 1.0.
    pub spill_below: f64,
}
