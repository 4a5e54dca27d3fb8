//! TOML text in, validated configuration or every problem at once out.
//!
//! Pure: no file, socket or clock is touched here; file names inside a configuration are only paths until
//! a shell opens them. Values that come out need no rechecking.
//!
//! The text is walked by hand (`read`) and not deserialised by derived serde code: a derived `Deserialize`
//! stops at its first error, and the person who mends a file wants to see all of them, each with its line.
//! Unknown keys are errors all the same. Every default stands in `defaults`.

mod defaults;
pub mod gateway;
pub mod problem;
mod read;
pub mod telemetry;
pub mod units;
pub mod worker;

pub use problem::{Problem, Problems};
