//! `[defaults]` and `[models.NAME]`: how one model is batched and run.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::provider::{Device, Provider, ProviderOptions};

#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// Rows of a batch at most; 1 turns batching off. Models without a batch axis are never batched.
    pub max_batch_size: u32,
    /// Requests share batches; otherwise each goes alone, with up to `max_batch_size` rows of its own.
    pub dynamic_batching: bool,
    /// Batches of these sizes go without waiting for more company; ascending, each at most `max_batch_size`.
    pub preferred_batch_sizes: Vec<u32>,
    /// How long the oldest request may wait for company while an instance is idle; zero: it never waits.
    pub max_queue_delay: Duration,
    /// From submission to answer: no batch is formed that would take the requests in it beyond this, if a
    /// smaller one would not, and company is waited for only while it can be kept. None: no target.
    pub latency_target: Option<Duration>,
    /// Requests waiting at most; more are refused with RESOURCE_EXHAUSTED.
    pub max_queue_size: u32,
    /// Requests may name a priority from 1 (first) to this; 0: all are alike.
    pub priority_levels: u32,
    /// Of requests that name none (or 0); 1 to `priority_levels`, or 0 when there are no levels.
    pub default_priority: u32,
    /// Threads within one operator, of each instance; None: as the worker has it.
    pub threads: Option<usize>,
    /// Sessions on each device, each with a thread of its own; 1 or more.
    pub instances: u32,
    pub provider: Provider,
    /// Options of the provider that is used; what another provider would read is kept and ignored.
    pub provider_options: ProviderOptions,
    /// Where the instances go; empty: device 0 of the provider.
    pub devices: Vec<Device>,
    /// Time a request may take when the client names none; None: unbounded.
    pub default_timeout: Option<Duration>,
    /// Learn the duration of each batch size at warm-up, and make batches as large as the size with the least
    /// time per row.
    pub learn_batch_size: bool,
    pub versions: VersionPolicy,
    /// Run every batch size once before the model takes requests.
    pub warm_up: bool,
    /// Requests of different lengths are padded to go together; None: only equal shapes share a batch.
    pub padding: Option<Padding>,
    /// Bytes that kept answers of this model may take; 0: no cache.
    pub response_cache_bytes: u64,
    /// Files with the names of an output's classes, by output: one label a line, paths from the model's folder.
    pub labels: BTreeMap<String, PathBuf>,
}

impl Model {
    /// Sessions altogether: `instances` on every device.
    pub fn all_instances(&self) -> usize {
        let on_each = usize::try_from(self.instances).unwrap_or(usize::MAX).max(1);
        on_each.saturating_mul(self.devices.len().max(1))
    }
}

/// Which versions of a model are served. A request without a version goes to the highest of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VersionPolicy {
    /// The so many highest ones; 1 or more.
    Latest(u32),
    All,
    /// Just these; ascending.
    Specific(Vec<u64>),
}

/// Which tensors have a length that may be filled up. The length is dimension 1, behind the batch axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Padding {
    /// Inputs that are filled up, and with which value; an attention mask with 0. All have the same length.
    pub inputs: BTreeMap<String, f64>,
    /// Outputs that are cut back to the length of the request.
    pub outputs: Vec<String>,
    /// Lengths to fill up to, ascending; a longer request goes with its equals only. Empty: powers of two
    /// from 16, and the halves between them.
    pub buckets: Vec<u32>,
}
