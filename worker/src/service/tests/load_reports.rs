//! Load reports: on every answer, and as a stream.

use forebay_proto::orca::open_rca_service_client::OpenRcaServiceClient;
use forebay_proto::orca::{OrcaLoadReport, OrcaLoadReportRequest};
use tonic::metadata::MetadataMap;

use super::*;

fn carried(metadata: &MetadataMap) -> OrcaLoadReport {
    let value = metadata.get_bin("endpoint-load-metrics-bin").unwrap();
    OrcaLoadReport::decode(value.to_bytes().unwrap()).unwrap()
}

fn figure(report: &OrcaLoadReport, figure: &str) -> f64 {
    report.named_metrics[&format!("forebay.fake/1.{figure}")]
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_and_errors_carry_the_load_of_their_model() {
    let bed = Bed::start().await;
    let mut client = bed.client().await;
    let answer = client.model_infer(request(&[1.0, 2.0])).await.unwrap();
    let report = carried(answer.metadata());
    assert_eq!(figure(&report, "queued_rows"), 0.0);
    assert_eq!(report.named_metrics["forebay.rows"], 1.0, "its own");
    assert!(figure(&report, "rows_per_second") > 0.0, "{report:?}");
    let failed = client.model_infer(request(&[FAIL, 2.0])).await.unwrap_err();
    assert_eq!(figure(&carried(failed.metadata()), "queued_requests"), 0.0);
    let unknown = wire::ModelInferRequest {
        model_name: "no-such".to_owned(),
        ..request(&[1.0, 2.0])
    };
    let unknown = client.model_infer(unknown).await.unwrap_err();
    let bare = carried(unknown.metadata()).named_metrics;
    assert_eq!(bare.into_keys().collect::<Vec<_>>(), ["forebay.rows"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_says_what_waits_and_ends_with_the_process() {
    let bed = Bed::start().await;
    let mut client = bed.client().await;
    let mut balancer = OpenRcaServiceClient::new(bed.channel().await);
    bed.script.close();
    let call = || {
        let mut client = client.clone();
        async move { client.model_infer(request(&[1.0, 2.0, 3.0, 4.0])).await }
    };
    let running = tokio::spawn(call());
    bed.wait_for_standing(1).await;
    let waiting = tokio::spawn(call());
    let model = bed.front.model("fake", "").unwrap();
    while model.statistics().queued_rows < 2 {
        tokio::task::yield_now().await;
    }
    let often = OrcaLoadReportRequest {
        report_interval: Some(prost_types::Duration {
            seconds: 0,
            nanos: 1,
        }),
        ..OrcaLoadReportRequest::default()
    };
    let mut reports = balancer
        .stream_core_metrics(often)
        .await
        .unwrap()
        .into_inner();
    let first = reports.message().await.unwrap().unwrap();
    assert_eq!(figure(&first, "queued_requests"), 1.0);
    assert_eq!(figure(&first, "queued_rows"), 2.0);
    assert!(figure(&first, "expected_wait") > 0.0, "{first:?}");
    assert!(figure(&first, "seconds.1") > 0.0, "{first:?}");
    bed.script.open();
    running.await.unwrap().unwrap();
    waiting.await.unwrap().unwrap();
    let second = reports.message().await.unwrap().unwrap();
    assert_eq!(figure(&second, "queued_rows"), 0.0);
    client.model_infer(request(&[1.0, 2.0])).await.unwrap();

    bed.start_drain.send(true).unwrap();
    while reports.message().await.unwrap().is_some() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn samples_tell_rates_and_what_is_busy() {
    let bed = Bed::start().await;
    let mut client = bed.client().await;
    let sampling = tokio::spawn(crate::load::sample(
        bed.front.load.clone(),
        bed.front.registry.clone(),
    ));
    let report = loop {
        let _ = client.model_infer(request(&[FAIL, 2.0])).await;
        client.model_infer(request(&[1.0, 2.0])).await.unwrap();
        let report = bed.front.load.full(&bed.front.registry);
        if report.rps_fractional > 0.0 {
            break report;
        }
    };
    sampling.abort();
    assert!(report.eps > 0.0 && report.eps < report.rps_fractional);
    assert!(figure(&report, "busy") > 0.0, "{report:?}");
    assert!(figure(&report, "batch_occupancy") > 0.0, "{report:?}");
    assert!(report.application_utilization > 0.0, "{report:?}");
    assert!(report.mem_utilization > 0.0, "{report:?}");
}
