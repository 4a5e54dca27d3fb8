//! The stream of load reports, once there is a report.

use std::sync::atomic::Ordering;
use std::time::Duration;

use forebay_proto::orca::open_rca_service_server::OpenRcaService;
use forebay_proto::orca::{OrcaLoadReport, OrcaLoadReportRequest};
use futures::StreamExt;
use tonic::{Request, Response, Status};

use super::{Answers, Calls};

const INTERVAL: Duration = Duration::from_millis(50);

#[tonic::async_trait]
impl OpenRcaService for Calls {
    type StreamCoreMetricsStream = Answers<OrcaLoadReport>;

    async fn stream_core_metrics(
        &self,
        _: Request<OrcaLoadReportRequest>,
    ) -> Result<Response<Self::StreamCoreMetricsStream>, Status> {
        self.0.streams.fetch_add(1, Ordering::SeqCst);
        let mut report = self.0.report.subscribe();
        if report.borrow().is_none() {
            return Err(Status::unimplemented("there are no reports here"));
        }
        report.mark_changed();
        let reports = futures::stream::unfold(report, |mut report| async move {
            let _ = tokio::time::timeout(INTERVAL, report.changed()).await;
            let now = report.borrow_and_update().clone()?;
            Some((Ok(now), report))
        });
        Ok(Response::new(reports.boxed()))
    }
}
