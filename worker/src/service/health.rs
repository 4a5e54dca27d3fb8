//! `grpc.health.v1`: the server as a whole (an empty service name, or the inference service's), and each
//! model by its name.

use std::sync::Arc;

use bytes::Bytes;
use forebay_proto::health::HealthCheckResponse;
use forebay_proto::health::health_check_response::ServingStatus;
use futures::stream::{BoxStream, StreamExt};

use super::{Fault, Front, frame};

const WHOLE_SERVER: [&str; 2] = ["", "inference.GRPCInferenceService"];

/// The state now.
pub fn check(front: &Front, service: &str) -> Result<HealthCheckResponse, Fault> {
    match status(front, service) {
        ServingStatus::ServiceUnknown => Err(Fault::NotFound(format!(
            "service '{service}' is neither a model nor the server"
        ))),
        status => Ok(HealthCheckResponse {
            status: status.into(),
        }),
    }
}

/// The state now and after each change, framed. When the process drains, NOT_SERVING is the last.
pub fn watch(front: Arc<Front>, service: String) -> BoxStream<'static, Result<Bytes, Fault>> {
    let watching = Watching {
        changes: front.registry.changes(),
        drain: front.drain.clone(),
        front,
        service,
        told: None,
    };
    let statuses = futures::stream::unfold(watching, |mut watching| async {
        let status = watching.next().await?;
        Some((status, watching))
    });
    let framed = |status: ServingStatus| {
        let response = HealthCheckResponse {
            status: status.into(),
        };
        frame::frame(&response, usize::MAX)
    };
    statuses.map(framed).boxed()
}

struct Watching {
    front: Arc<Front>,
    service: String,
    changes: tokio::sync::watch::Receiver<u64>,
    drain: tokio::sync::watch::Receiver<bool>,
    told: Option<ServingStatus>,
}

impl Watching {
    /// The next state that differs from the one told last; `None` when no more will come.
    async fn next(&mut self) -> Option<ServingStatus> {
        loop {
            let draining = *self.drain.borrow_and_update();
            self.changes.borrow_and_update();
            let status = status(&self.front, &self.service);
            if self.told.replace(status) != Some(status) {
                return Some(status);
            }
            if draining {
                return None;
            }
            tokio::select! {
                changed = self.changes.changed() => changed.ok()?,
                changed = self.drain.changed() => changed.ok()?,
            }
        }
    }
}

fn status(front: &Front, service: &str) -> ServingStatus {
    let serving = if WHOLE_SERVER.contains(&service) {
        front.ready()
    } else if front
        .registry
        .index()
        .iter()
        .any(|entry| entry.name == service)
    {
        front.model_ready(service, "")
    } else {
        return ServingStatus::ServiceUnknown;
    };
    if serving {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    }
}
