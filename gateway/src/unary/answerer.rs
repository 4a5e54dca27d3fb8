//! Who a client has an answer from: an endpoint that was asked, or one that had given it before.

use std::sync::Arc;

use http::header::HeaderValue;

use crate::fleet::Endpoint;
use crate::gateway::Route;

/// Who answered.
pub enum Answerer {
    Endpoint(Arc<Endpoint>),
    /// The answer was kept; here is the name of the endpoint that gave it.
    Kept(HeaderValue),
}

impl Answerer {
    /// For `x-forebay-endpoint`.
    pub fn name(&self) -> HeaderValue {
        match self {
            Self::Endpoint(endpoint) => endpoint.name_header.clone(),
            Self::Kept(name) => name.clone(),
        }
    }

    pub fn cluster<'a>(&'a self, route: &'a Route) -> &'a str {
        match self {
            Self::Endpoint(endpoint) => &endpoint.blueprint.cluster,
            Self::Kept(_) => &route.config.cluster,
        }
    }
}
