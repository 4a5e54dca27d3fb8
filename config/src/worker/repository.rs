//! Who decides which models of the repository are loaded.

use std::collections::BTreeSet;
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelControl {
    /// What is there at the start, until the end; clients load and unload nothing.
    None,
    /// The repository is looked at this often; what changed is loaded, reloaded or unloaded. Clients may also
    /// load and unload.
    Poll { interval: Duration },
    /// Clients load and unload; at the start only these are loaded. `None`: all.
    Explicit { at_start: Option<BTreeSet<String>> },
}
