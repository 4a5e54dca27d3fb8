//! The walk over the TOML tree: a file per table, and the cursor that they share.
//!
//! A reader asks a `Table` for its keys, one after the other, keeps each answer as a `Read`, and only then
//! puts them together with `?`: so a wrong value never hides the next one. `Err(Wrong)` can only be had by
//! recording a problem, hence a reader that fails has always said why.

mod adaptive_limit;
mod address;
mod affinity;
mod batching;
mod cache;
mod cluster;
mod discovery;
mod document;
mod endpoints;
mod gateway;
mod health;
mod http;
mod limit;
mod listener;
mod matches;
mod model;
mod names;
mod nearest;
mod outlier;
mod padding;
mod pipeline;
mod prefer;
mod provider;
mod rate_limit;
mod redis;
mod repository;
mod route;
mod security;
mod shadow;
mod slow_start;
mod source;
mod subset;
mod table;
mod targets;
mod telemetry;
mod value;
mod worker;

pub(crate) use discovery::endpoints_file;
pub(crate) use endpoints::named as endpoint_named;
pub(crate) use gateway::gateway;
pub(crate) use subset::label as endpoint_label;
pub(crate) use worker::worker;

use document::{Read, Wrong, all};
use table::{Keys, Table};
use value::Value;
