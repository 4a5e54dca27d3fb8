//! From single requests to batches: who waits, what goes together, how large, and the thread that runs it.
//!
//! `queue`, `curve`, `forming` and `padding` are pure decisions; `gather`, `scatter` and `warmup` move tensors;
//! `lane` is the queue behind its lock and `instance` the thread that runs an engine and obeys the decisions.

pub mod admission;
pub mod curve;
pub mod forming;
pub mod gather;
pub mod instance;
pub mod job;
pub mod lane;
pub mod memory;
pub mod outputs;
pub mod padding;
pub mod parts;
pub mod queue;
pub mod report;
pub mod scatter;
pub mod shared;
pub mod split;
pub mod statistics;
pub mod ticket;
pub mod warmup;
