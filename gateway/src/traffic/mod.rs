//! Decisions about requests: which route, which endpoint, whether to try again, and when to give up.
//!
//! Everything here is pure: the clock and randomness come in as arguments (`now`, `random`), nothing is
//! awaited, and no runtime is imported. Shells read the clock, ask, and do the I/O.

pub mod affinity;
pub mod balance;
pub mod breaker;
pub mod budget;
pub mod cache;
pub mod cookie;
pub mod deadline;
pub mod ewma;
pub mod gradient;
pub mod hash;
pub mod health;
pub mod hedge;
pub mod others;
pub mod outlier;
pub mod quantile;
pub mod queue;
pub mod rate;
pub mod retry;
pub mod room;
pub mod route;
pub mod service_line;
pub mod service_shape;
pub mod slow_start;
pub mod spill;
pub mod split;
pub mod subset;
pub mod window;
