//! Waiting for an endpoint with a streamed request, whose client may go away meanwhile.
//!
//! pingora looks at the client only once there is an endpoint. A gone HTTP/2 client shows as a reset of its stream,
//! one of HTTP/1 as the end of its connection, provided that its whole body was read: before that, what there is to
//! read is the body.

use std::sync::Arc;
use std::time::Duration;

use pingora::proxy::Session;

use crate::context::Routed;
use crate::fleet::{Ask, Caller, Cluster, Lease, Unserved, WaitingRoom};
use crate::refusal::Refusal;

/// An endpoint once it is the request's turn, and how long that took.
pub async fn wait(
    room: &Arc<WaitingRoom>,
    session: &mut Session,
    (routed, cluster): (&Routed, &Cluster),
    ask: &Ask<'_>,
) -> Result<(Lease, Duration), Refusal> {
    let route = routed.route();
    let caller = Caller {
        headers: &session.req_header().headers,
        route: &route.config.name,
        deadline: routed.deadline(),
        tried: ask.tried,
        bearings: ask.bearings,
    };
    let now = ask.now;
    let refused = |unserved| match unserved {
        Unserved::Expired => Refusal::TimedOut {
            cluster: cluster.config.name.clone(),
            timeout: now.elapsed(),
        },
        unserved => Refusal::unserved(cluster, unserved),
    };
    let waiting = room.join(&caller, now).map_err(refused)?;
    tokio::select! {
        biased;
        turn = waiting.turn() => turn.map_err(refused),
        () = client_gone(session) => Err(Refusal::ClientGone),
    }
}

/// Never, where that cannot be told.
async fn client_gone(session: &mut Session) {
    let session = &mut session.downstream_session;
    if let Some(closed) = session.watch_h2_stream_close() {
        // Reset or broken: either way nobody waits for an answer.
        let _ = closed.await;
    } else if session.is_body_done() {
        let _ = session.read_body_or_idle(true).await;
    } else {
        std::future::pending().await
    }
}
