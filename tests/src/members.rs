//! A gateway whose endpoints come and go: who they are, and load that must not notice.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::client::{self, floats};
use crate::gateway::Gateway;
use crate::load::{Report, open_loop};

const ROW: [f32; 4] = [1.0, 2.0, 3.0, 4.0];
const RATE: u32 = 150;
const PATIENCE: Duration = Duration::from_secs(10);

/// Sends 150 requests a second for `time`.
pub async fn load(gateway: &Gateway, time: Duration) -> anyhow::Result<JoinHandle<Report>> {
    let inference = client::inference(gateway.address()).await?;
    Ok(tokio::spawn(open_loop(RATE, time, move |_| {
        let mut inference = inference.clone();
        async move {
            inference.model_infer(floats("m", &ROW)).await?;
            Ok(())
        }
    })))
}

/// Until the gateway has just these endpoints, and all take traffic.
pub async fn until_members(gateway: &Gateway, wanted: &[SocketAddr]) -> anyhow::Result<()> {
    let mut wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
    wanted.sort();
    let is_member = |found: &[serde_json::Value]| {
        let mut addresses: Vec<&str> = found
            .iter()
            .filter_map(|endpoint| endpoint["address"].as_str())
            .collect();
        addresses.sort_unstable();
        let healthy = |endpoint: &serde_json::Value| {
            endpoint["health"] == "healthy" || endpoint["health"] == "unchecked"
        };
        addresses == wanted && found.iter().all(healthy)
    };
    gateway
        .until(&format!("members {wanted:?}"), PATIENCE, is_member)
        .await
        .map(drop)
}

/// Until the metric of the only discovery says whether it is up.
pub async fn until_up(gateway: &Gateway, source: &str, up: bool) -> anyhow::Result<()> {
    let name = format!("forebay_discovery_up{{cluster=\"workers\",source=\"{source}\"}}");
    let wanted = f64::from(u8::from(up));
    let end = tokio::time::Instant::now() + PATIENCE;
    while gateway.metric(&name).await? != wanted {
        anyhow::ensure!(
            tokio::time::Instant::now() < end,
            "{name} is not {wanted} within {PATIENCE:?}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}
