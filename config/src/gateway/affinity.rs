//! `[clusters.affinity]`: what makes requests belong together, so that `ring_hash` sends them to the same endpoint.

/// Of several sources the first that a request has counts, in the order of the fields. At least one is set.
#[derive(Debug, Clone, PartialEq)]
pub struct Affinity {
    /// A parameter of inference requests, such as Triton's `sequence_id`.
    pub parameter: Option<String>,
    /// Lower case.
    pub header: Option<String>,
    pub cookie: Option<String>,
    /// The model that the request names.
    pub model: bool,
    /// The client's IP address.
    pub source: bool,
    /// What an endpoint may have in flight, as a multiple of its fair share; 1.0 to 100.0.
    pub bound: f64,
}
