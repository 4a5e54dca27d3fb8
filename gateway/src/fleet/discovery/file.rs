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
        if std::mem::take(&mut self.looked)
            && tokio::time::timeout(self.interval, self.changed())
                .await
                .is_err()
        {
            // The folder may be another one by now.
            self.changes = None;
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
            WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO | WatchMask::CREATE | WatchMask::MOVE_SELF,
        )?;
        inotify.into_event_stream(vec![0; EVENT_BYTES])
    }

    /// The file may be another. Never, where that cannot be told.
    pub async fn changed(&mut self) {
        let Some(changes) = &mut self.changes else {
            return std::future::pending().await;
        };
        let content = OsStr::new(CONFIG_MAP_CONTENT);
        while let Some(Ok(event)) = changes.next().await {
            let name = event.name.as_deref();
            if event
                .mask
                .intersects(EventMask::IGNORED | EventMask::MOVE_SELF)
            {
                break;
            }
            // A file that is made is not written yet, a link is whole.
            if event.mask.contains(EventMask::CREATE) && !self.path.is_symlink() {
                continue;
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

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn folder(name: &str) -> PathBuf {
        let name = format!("forebay-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn write(path: &Path, count: usize) {
        let addresses: Vec<_> = (1..=count)
            .map(|port| format!("'127.0.0.1:{port}'"))
            .collect();
        std::fs::write(path, format!("endpoints = [{}]", addresses.join(", "))).unwrap();
    }

    async fn until(source: &mut FileSource, count: usize) {
        let looking = async {
            loop {
                match source.next().await {
                    Ok(found) if found.len() == count => return,
                    Ok(_) => {}
                    // Between the two.
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        };
        tokio::time::timeout(SOON, looking).await.unwrap();
    }

    #[tokio::test]
    async fn a_file_that_was_wrong_is_looked_at_when_it_is_mended() {
        let folder = folder("mended");
        let path = folder.join("endpoints.toml");
        std::fs::write(&path, "endpoints = 7").unwrap();
        let mut source = FileSource::new(&path, Duration::from_secs(3600));
        assert!(source.next().await.is_err());
        write(&path, 2);
        tokio::time::timeout(SOON, source.changed()).await.unwrap();
        assert_eq!(source.next().await.unwrap().len(), 2);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test]
    async fn links_and_folders_may_change_too() {
        let folder = folder("links");
        let inner = folder.join("inner");
        std::fs::create_dir(&inner).unwrap();
        let path = inner.join("endpoints.toml");
        write(&path, 1);
        let mut source = FileSource::new(&path, Duration::from_secs(3600));
        until(&mut source, 1).await;
        // Made anew as a link.
        write(&folder.join("two"), 2);
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("../two", &path).unwrap();
        until(&mut source, 2).await;
        // Another folder in its place.
        let other = folder.join("other");
        std::fs::create_dir(&other).unwrap();
        write(&other.join("endpoints.toml"), 3);
        std::fs::rename(&inner, folder.join("gone")).unwrap();
        std::fs::rename(&other, &inner).unwrap();
        until(&mut source, 3).await;
        write(&path, 4);
        until(&mut source, 4).await;
        std::fs::remove_dir_all(folder).unwrap();
    }
}
