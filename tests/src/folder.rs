//! A folder of a test's own, gone with it.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context;

static NEXT: AtomicU32 = AtomicU32::new(0);

pub struct Folder(PathBuf);

impl Folder {
    /// Below `parent`, with a name that no other test has; `folder!` knows the parent.
    pub fn make(parent: &str) -> anyhow::Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(parent).join(format!("{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }

    /// Writes a file and returns its path.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> anyhow::Result<PathBuf> {
        let path = self.0.join(name);
        std::fs::write(&path, content)
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

impl Deref for Folder {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is below target/ all the same.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A new folder below the one that cargo keeps for tests.
#[macro_export]
macro_rules! folder {
    () => {
        $crate::folder::Folder::make(env!("CARGO_TARGET_TMPDIR"))
    };
}
