//! Lists a repository's folders for `layout` to judge.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use crate::repository::layout::Folder;

/// # Errors
/// The repository itself cannot be listed. A folder inside that cannot be read says so itself.
pub fn list(repository: &Path) -> io::Result<Vec<Folder>> {
    let mut folders = Vec::new();
    for name in subfolders(repository)? {
        let children = list_versions(&repository.join(&name)).map_err(|error| error.to_string());
        folders.push(Folder { name, children });
    }
    Ok(folders)
}

fn list_versions(model: &Path) -> io::Result<BTreeMap<String, Vec<String>>> {
    let mut versions = BTreeMap::new();
    for name in subfolders(model)? {
        let entries = std::fs::read_dir(model.join(&name))?;
        let files = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        versions.insert(name, files.collect());
    }
    Ok(versions)
}

/// Names of the folders in a folder; links to folders count, names that are not UTF-8 do not.
fn subfolders(folder: &Path) -> io::Result<Vec<String>> {
    let entries = std::fs::read_dir(folder)?;
    let names = entries.filter_map(|entry| {
        let entry = entry.ok()?;
        if entry.path().is_dir() {
            entry.file_name().into_string().ok()
        } else {
            None
        }
    });
    Ok(names.collect())
}
