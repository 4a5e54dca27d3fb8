//! Which route takes a streamed request, and where in its cluster it belongs.

use pingora::proxy::Session;

use super::affinity;
use crate::fleet::Bearings;
use crate::gateway::Snapshot;
use crate::plan;
use crate::protocol::method::Method;
use crate::protocol::peek::{Peek, peek_framed};
use crate::protocol::rest_model::RestModel;
use crate::refusal::Refusal;
use crate::targets::Targets;
use crate::traffic::affinity::Seen;

/// What is read of a stream before its route is known. pingora replays at most 64 KiB to the endpoint, and one
/// frame more than this may have been read (`front::MAX_FRAME`).
const PEEK_LIMIT: usize = 16 << 10;

/// The route of a request.
pub struct Found {
    /// Its position.
    pub route: usize,
    /// What its cluster goes by; the model where any cluster of the route does.
    pub bearings: Bearings,
}

/// Reads the head of a stream's first message when routes or clusters look into it.
pub async fn route(snapshot: &Snapshot, session: &mut Session) -> Result<Found, Refusal> {
    let method = Method::of(session.req_header().uri.path());
    let fields = method.model_fields();
    let mut seen = Vec::new();
    if let Some(fields) = fields
        && (snapshot.routes_by_model() || snapshot.reads_messages)
    {
        session.as_mut().enable_retry_buffering();
        let enough = |seen: &[u8]| {
            peek_framed(seen, fields, false) != Peek::NeedMore
                && (!snapshot.reads_messages || affinity::is_enough(seen))
        };
        let reading = async {
            while seen.len() < PEEK_LIMIT && !enough(&seen) {
                match session.downstream_session.read_request_body().await {
                    Ok(Some(chunk)) => seen.extend_from_slice(&chunk),
                    Ok(None) => break,
                    Err(_) => return Err(Refusal::ClientGone),
                }
            }
            Ok(())
        };
        let time = snapshot.max_timeout;
        match tokio::time::timeout(time, reading).await {
            Ok(result) => result?,
            Err(_) => return Err(Refusal::BodyTimedOut(time)),
        }
    }
    let head = session.req_header();
    let path = head.uri.path();
    let named = RestModel::of(path);
    let (model, version) = match (fields, &named) {
        (Some(fields), _) => match peek_framed(&seen, fields, false) {
            Peek::Found(found) => (found.name, found.version),
            Peek::NeedMore | Peek::Invalid | Peek::Compressed => (None, None),
        },
        (None, Some(named)) => named.name_and_version(),
        (None, None) => (None, None),
    };
    let found = snapshot
        .find(&plan::request_head(head, model, version))
        .ok_or_else(|| Refusal::NoRoute {
            method: head.method.to_string(),
            path: path.to_owned(),
        })?;
    let request = Seen {
        headers: &head.headers,
        source: plan::source(snapshot, &session.downstream_session),
        model: named.as_ref().and_then(|named| named.name_and_version().0),
        message: affinity::message(&seen, method),
    };
    let route = &snapshot.routes[found];
    let mut bearings = route.cluster.bearings(&request);
    let mut targets = route.targets.iter().flat_map(Targets::all);
    if bearings.model.is_none() && targets.any(|target| target.cluster.lists_models()) {
        bearings.model = request.model_key();
    }
    Ok(Found {
        route: found,
        bearings,
    })
}
