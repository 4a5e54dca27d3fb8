//! ONNX Runtime: found and loaded at run time, a session per instance.

mod assignment;
mod interrupt;
mod lending;
pub mod library;
mod options;
mod providers;
mod run;
mod session;
mod shared;
mod signature;
mod values;

#[cfg(test)]
pub(crate) mod testmodel;
#[cfg(test)]
mod tests;

pub use library::{LibraryError, Runtime, load};
pub use options::{Optimization, SessionOptions};
pub use session::load_model;

/// The runtime's words in the form of ours.
fn one_line(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    let words: Vec<&str> = text.trim_end_matches('.').split_whitespace().collect();
    words.join(" ")
}
