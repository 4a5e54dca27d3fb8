//! Lists a repository's folders for `layout` and `watch` to judge.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use crate::repository::layout::{Contents, Folder, Stamp, is_model_name};

/// Folders below a model's own that are looked into: a version, and what lies in it.
const DEPTH: usize = 4;

/// The names of the folders that can be models.
///
/// # Errors
/// The repository cannot be listed.
pub fn names(repository: &Path) -> io::Result<BTreeSet<String>> {
    let entries = std::fs::read_dir(repository)?;
    let names = entries.filter_map(|entry| {
        let entry = entry.ok()?;
        let name = entry.file_name().into_string().ok()?;
        (is_model_name(&name) && entry.path().is_dir()).then_some(name)
    });
    Ok(names.collect())
}

/// One model's folder. None: there is none, or its name can be no model's.
pub fn folder(repository: &Path, name: &str) -> Option<Folder> {
    let path = repository.join(name);
    if !is_model_name(name) || !path.is_dir() {
        return None;
    }
    let mut contents = Contents::default();
    let listed = list(&path, "", &mut contents);
    Some(Folder {
        name: name.to_owned(),
        contents: listed.map(|()| contents).map_err(|error| error.to_string()),
    })
}

/// Links count as what they lead to; names that are hidden or not UTF-8 do not count.
fn list(folder: &Path, prefix: &str, contents: &mut Contents) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let Ok(name) = entry?.file_name().into_string() else {
            continue;
        };
        if name.starts_with('.') {
            continue;
        }
        // What is gone by now was never there.
        let Ok(metadata) = std::fs::metadata(folder.join(&name)) else {
            continue;
        };
        let path = format!("{prefix}{name}");
        if !metadata.is_dir() {
            let stamp = Stamp {
                bytes: metadata.len(),
                modified: metadata.modified().ok(),
            };
            contents.files.insert(path, stamp);
            continue;
        }
        if prefix.is_empty() {
            contents.folders.insert(name.clone());
        }
        if path.split('/').count() < DEPTH {
            list(&folder.join(&name), &format!("{path}/"), contents)?;
        }
    }
    Ok(())
}

/// Of all files in a folder, however deep; what cannot be read counts for nothing.
pub fn bytes(folder: &Path) -> u64 {
    let mut contents = Contents::default();
    _ = list(folder, "", &mut contents);
    contents.files.values().map(|stamp| stamp.bytes).sum()
}
