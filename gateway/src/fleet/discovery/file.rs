//! Endpoints out of a file, read anew whenever it may have changed: a file is small, and no change is missed.
//!
//! The kernel tells when the file was written or another took its place. Not every file system tells (a network's does
//! not), so it is also looked at in between.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use forebay_config::gateway::Endpoint;
use futures::StreamExt;
use inotify::{EventMask, EventStream, Inotify, WatchMask};

/// What Kubernetes renames when the content of a mounted ConfigMap changes; the file itself stays a link to below it.
const CONFIG_MAP_CONTENT: &str = "..data";
/// Room for some events; each is 16 bytes and a file name.
const EVENT_BYTES: usize = 4096;

pub struct FileSource {
    path: PathBuf,
    interval: Duration,
    /// In the file's folder. None: they cannot be told.
    changes: Option<EventStream<Vec<u8>>>,
    /// The last look succeeded.
    looked: bool,
}

impl FileSource {
    pub fn new(path: &Path, interval: Duration) -> Self {
        Self {
            path: path.to_owned(),
            interval,
            changes: None,
            looked: false,
        }
    }

    pub async fn next(&mut self) -> Result<Vec<Endpoint>, String> {
        if std::mem::take(&mut self.looked) {
            let interval = self.interval;
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                () = self.changed() => {}
            }
        }
        if self.changes.is_none() {
            // Before the look, so that a change after it is told.
            self.changes = self
                .watch()
                .inspect_err(|error| {
                    log::debug!("changes of '{}' are not told: {error}", self.path.display());
                })
                .ok();
        }
        let endpoints = self.look().await?;
        self.looked = true;
        Ok(endpoints)
    }

    async fn look(&self) -> Result<Vec<Endpoint>, String> {
        let path = self.path.display();
        let text = tokio::fs::read_to_string(&self.path).await;
        let text = text.map_err(|error| format!("cannot read '{path}': {error}"))?;
        let mut endpoints = Endpoint::parse_file(&text).map_err(|problems| {
            let lines: Vec<String> = problems.0.iter().map(ToString::to_string).collect();
            format!("'{path}': {}", lines.join("; "))
        })?;
        endpoints.sort_by(|a, b| a.address.cmp(&b.address));
        Ok(endpoints)
    }

    /// What is only begun to be written is not told.
    fn watch(&self) -> io::Result<EventStream<Vec<u8>>> {
        let folder = self.path.parent().filter(|folder| *folder != Path::new(""));
        let inotify = Inotify::init()?;
        inotify.watches().add(
            folder.unwrap_or(Path::new(".")),
            WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO,
        )?;
        inotify.into_event_stream(vec![0; EVENT_BYTES])
    }

    /// Never, where that cannot be told.
    async fn changed(&mut self) {
        let Some(changes) = &mut self.changes else {
            return std::future::pending().await;
        };
        let content = OsStr::new(CONFIG_MAP_CONTENT);
        while let Some(Ok(event)) = changes.next().await {
            let name = event.name.as_deref();
            if event.mask.contains(EventMask::IGNORED) {
                break;
            }
            // Without a name: some were lost.
            if name.is_none() || name == self.path.file_name() || name == Some(content) {
                return;
            }
        }
        // The folder itself is gone, or another.
        self.changes = None;
    }
}
