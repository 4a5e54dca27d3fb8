//! Where a route's calls go beyond one cluster: `[[routes.split]]` with `[routes.sticky]`, and `[routes.fallback]`.

/// Clusters that share a route's requests by weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// At least one has a weight above 0; clusters are unique and speak the same protocol.
    pub sides: Vec<Side>,
    /// None: each request is drawn for itself.
    pub sticky: Option<Sticky>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side {
    /// Name of the cluster; it exists.
    pub cluster: String,
    /// 0 to 1,000,000; twice the weight, twice the share. 0: no requests.
    pub weight: u32,
}

/// What keeps a user's requests on one side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sticky {
    /// The value of this header; lower case.
    Header(String),
    /// The value of this cookie.
    Cookie(String),
    /// The client's IP address.
    Source,
}

/// What answers when the route's cluster cannot; at least one of the two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fallback {
    /// Name of a cluster that is asked then; it exists and speaks the same protocol.
    pub cluster: Option<String>,
    /// The gateway's own answer, after the cluster if there is one.
    pub answer: Option<StaticAnswer>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticAnswer {
    /// Of HTTP: 200 to 599, one that allows a body.
    pub status: u16,
    /// None: an error in JSON with the message.
    pub body: Option<StaticBody>,
    /// Of gRPC: 1 to 16.
    pub grpc_code: u8,
    pub grpc_message: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticBody {
    /// A value that a header can have.
    pub content_type: String,
    pub text: String,
}
