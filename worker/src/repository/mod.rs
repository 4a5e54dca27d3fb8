//! The models on disk and in memory: what the repository holds, and what of it is loaded.

mod disk;
pub mod labels;
mod layout;
mod registry;

pub use registry::{IndexEntry, LoadEvent, LookupError, ModelState, Registry};
