//! Where the TOML files of a test are.

use std::fs;
use std::path::{Path, PathBuf};

/// The TOML files of a directory that is given from this crate's root; at least one.
pub fn toml_files(directory: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let entries = fs::read_dir(&directory).expect("a readable directory");
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "toml")
    });
    files.sort();
    assert!(!files.is_empty(), "no TOML file in {}", directory.display());
    files
}
