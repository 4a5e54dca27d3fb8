//! Which endpoint gets a request: one file per policy, one factory.
//!
//! The shell lists the endpoints that may take the request now (healthy, admitted by their breaker, not tried
//! before) as candidates, in any order and number, of a large fleet only some (`draw`); a policy picks one of them and
//! never looks elsewhere. What is in
//! flight is counted by the shell's leases, so only round robin keeps state of its own.
//!
//! `RingHash` stands apart: it goes by a key of the request, and names the endpoints that it wants to see.
//!
//! To add a policy: a variant of `forebay_config::gateway::Policy`, a file here, an arm in `build`.

mod draw;
mod least_request;
mod least_work;
mod peak_ewma;
mod random;
mod rendezvous;
mod ring_hash;
mod round_robin;
mod sample;

#[cfg(test)]
mod tests;

pub use draw::{Draw, FULL_SCAN};
use least_request::LeastRequest;
use least_work::LeastWork;
use peak_ewma::PeakEwma;
use random::Random;
pub use rendezvous::Rendezvous;
pub use ring_hash::RingHash;
use round_robin::RoundRobin;

use crate::traffic::service_line::Expectation;

/// An endpoint that may be chosen, as it is at this moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// The endpoint's place in its cluster: the same endpoint has the same index in every call.
    pub index: usize,
    /// 1 or more; 0 counts as 1.
    pub weight: u32,
    /// Requests in flight there, the one to be placed not included.
    pub active: u32,
    /// Peak EWMA of its response time in seconds, decayed to now.
    pub cost: f64,
    /// How long a request would take there, by what was learned from its answers; None: none came yet.
    pub expectation: Option<Expectation>,
}

impl Candidate {
    fn share(&self) -> u64 {
        u64::from(self.weight.max(1))
    }
}

pub trait Policy: Send + Sync {
    /// The position in `candidates` of the endpoint that gets the request; None only when there is none.
    /// `random` is uniform over all of `u64`, and fresh for each call.
    fn choose(&self, candidates: &[Candidate], random: u64) -> Option<usize>;
}

pub fn build(policy: forebay_config::gateway::Policy) -> Box<dyn Policy> {
    use forebay_config::gateway::Policy as Configured;
    match policy {
        Configured::RoundRobin => Box::new(RoundRobin::default()),
        Configured::Random => Box::new(Random),
        Configured::LeastRequest => Box::new(LeastRequest),
        Configured::PeakEwma => Box::new(PeakEwma),
        // Requests without a key are placed by it.
        Configured::LeastWork | Configured::RingHash => Box::new(LeastWork),
    }
}
