//! The models on disk and in memory: what the repository holds, and what of it is served.
//!
//! `layout`, `lifecycle` and `watch` decide, `disk` looks, `loader` does; `registry` is where services find models and
//! `control` how they have them loaded and unloaded.

mod circle;
mod control;
mod disk;
mod first_requests;
pub mod labels;
mod layout;
mod lifecycle;
mod loader;
pub mod pbtxt;
mod registry;
mod retirement;
mod settings;
mod source;
mod watch;

pub use control::{Commands, Control, ControlError};
pub use layout::{is_file_path, is_model_name};
pub use lifecycle::ModelState;
pub use loader::{Counts, Ensembles, LoadError, LoadEvent, Loader};
pub use registry::{IndexEntry, LookupError, Registry};
pub use retirement::Retirement;
pub use source::Given;
pub use watch::Watch;
