//! Endpoints out of a file, read anew at each look: a file is small, and no change is missed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use forebay_config::gateway::Endpoint;

use super::Found;

pub struct FileSource {
    path: PathBuf,
    interval: Duration,
}

impl FileSource {
    pub fn new(path: &Path, interval: Duration) -> Self {
        Self {
            path: path.to_path_buf(),
            interval,
        }
    }

    pub async fn look(&self) -> Result<Found, String> {
        let text = tokio::fs::read_to_string(&self.path).await;
        let text =
            text.map_err(|error| format!("cannot read '{}': {error}", self.path.display()))?;
        let mut endpoints = Endpoint::parse_file(&text).map_err(|problems| {
            let lines: Vec<String> = problems.0.iter().map(ToString::to_string).collect();
            format!("'{}': {}", self.path.display(), lines.join("; "))
        })?;
        endpoints.sort_by(|a, b| a.address.cmp(&b.address));
        Ok(Found {
            endpoints,
            fresh_for: self.interval,
        })
    }
}
