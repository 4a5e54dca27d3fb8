//! What the response caches of gateway and worker share: a key that stands for a request, and a store that never
//! takes more bytes than it was allowed.
//!
//! Pure: what is kept, for how long, and who runs what is missing is decided by each cache.

mod key;
mod store;

pub use key::{Digest, Digested, Key};
pub use store::{Store, Weigh};
