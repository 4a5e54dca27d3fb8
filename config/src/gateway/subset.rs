//! `[routes.subset]`: which of the cluster's endpoints a route's requests may go to, by the endpoints' labels.

use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subset {
    /// By the label's name; all must hold. At least one.
    pub labels: BTreeMap<String, LabelValue>,
    pub fallback: SubsetFallback,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LabelValue {
    Exact(String),
    /// What this header says (lower case). A request without it does not ask for the label.
    Header(String),
}

/// What becomes of a request when no endpoint with its labels may take it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubsetFallback {
    /// It is refused.
    None,
    /// Any endpoint of the cluster takes it.
    Any,
}
