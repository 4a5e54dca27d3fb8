//! ONNX Runtime: found and loaded at run time, a session per instance.

mod interrupt;
pub mod library;
mod providers;
mod session;
mod signature;
mod values;

#[cfg(test)]
pub(crate) mod testmodel;
#[cfg(test)]
mod tests;

pub use library::{LibraryError, Runtime, load};
pub use session::{SessionOptions, load_model};
