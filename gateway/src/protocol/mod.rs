//! What a request says about itself on the wire, read without decoding it: which call it is and which model it is
//! for.
//!
//! Pure, and free of allocation except where a REST path carries escapes.

pub mod method;
pub mod peek;
pub mod rest_model;
pub mod transcode;
