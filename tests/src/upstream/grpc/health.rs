//! What the server says of its health.

use std::sync::atomic::Ordering;

use forebay_proto::health::health_check_response::ServingStatus;
use forebay_proto::health::health_server::Health;
use forebay_proto::health::{HealthCheckRequest, HealthCheckResponse};
use futures::StreamExt;
use tonic::{Request, Response, Status};

use super::{Answers, Calls};

#[tonic::async_trait]
impl Health for Calls {
    type WatchStream = Answers<HealthCheckResponse>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        self.0.checks.fetch_add(1, Ordering::SeqCst);
        let ready = !self.0.unready.lock().contains(&request.get_ref().service);
        Ok(Response::new(state(ready && *self.0.serving.borrow())))
    }

    async fn watch(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let mut serving = self.0.serving.subscribe();
        serving.mark_changed();
        let changes = futures::stream::unfold(serving, |mut serving| async move {
            serving.changed().await.ok()?;
            let now = state(*serving.borrow_and_update());
            Some((Ok(now), serving))
        });
        Ok(Response::new(changes.boxed()))
    }
}

fn state(serving: bool) -> HealthCheckResponse {
    let status = if serving {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    };
    HealthCheckResponse {
        status: status.into(),
    }
}
