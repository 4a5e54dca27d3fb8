//! Endpoints out of a file, read anew at each look: a file is small, and no change is missed.

use std::path::Path;
use std::time::Duration;

use forebay_config::gateway::Endpoint;

use super::polled::Found;

pub async fn look(path: &Path, interval: Duration) -> Result<Found, String> {
    let text = tokio::fs::read_to_string(path).await;
    let text = text.map_err(|error| format!("cannot read '{}': {error}", path.display()))?;
    let mut endpoints = Endpoint::parse_file(&text).map_err(|problems| {
        let lines: Vec<String> = problems.0.iter().map(ToString::to_string).collect();
        format!("'{}': {}", path.display(), lines.join("; "))
    })?;
    endpoints.sort_by(|a, b| a.address.cmp(&b.address));
    Ok(Found {
        endpoints,
        fresh_for: interval,
    })
}
