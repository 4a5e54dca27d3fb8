//! What changed in the repository from one look at it to the next, and when it is time to act on it.
//!
//! A change counts once two looks in a row see the same, so that a file which is still being copied is left
//! alone; files are compared by size and time of modification. Hidden files do not count. Pure: `disk` looks.

use std::collections::{BTreeMap, BTreeSet};

use crate::repository::layout::{Contents, Folder, version_number};

/// What to do about one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Its folder is new or differs: load it, these versions anew even if they are served.
    Changed { name: String, anew: Anew },
    /// Its folder is gone.
    Gone { name: String },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Anew {
    All,
    Versions(BTreeSet<u64>),
}

impl Anew {
    pub fn contains(&self, version: u64) -> bool {
        match self {
            Self::All => true,
            Self::Versions(versions) => versions.contains(&version),
        }
    }
}

#[derive(Debug, Default)]
pub struct Watch {
    models: BTreeMap<String, Watched>,
}

/// None: there was no such folder.
#[derive(Debug, Default)]
struct Watched {
    acted_on: Option<Contents>,
    seen: Option<Contents>,
}

impl Watch {
    /// The model was just loaded from this.
    pub fn acted_on(&mut self, name: &str, contents: &Contents) {
        let watched = self.models.entry(name.to_owned()).or_default();
        watched.acted_on = Some(contents.clone());
    }

    /// What is to be done, now that the repository holds these folders. A folder that cannot be read stands for
    /// what it was before.
    pub fn look(&mut self, folders: Vec<Folder>) -> Vec<Change> {
        let mut folders: BTreeMap<String, Result<Contents, String>> = folders
            .into_iter()
            .map(|folder| (folder.name, folder.contents))
            .collect();
        for name in folders.keys() {
            if !self.models.contains_key(name) {
                self.models.insert(name.clone(), Watched::default());
            }
        }
        let mut changes = Vec::new();
        for (name, watched) in &mut self.models {
            let now = match folders.remove(name) {
                Some(Ok(contents)) => Some(contents),
                Some(Err(_)) => continue,
                None => None,
            };
            let settled = now == watched.seen;
            if settled && now != watched.acted_on {
                changes.push(change(name, watched.acted_on.as_ref(), now.as_ref()));
                watched.acted_on.clone_from(&now);
            }
            watched.seen = now;
        }
        self.models
            .retain(|_, watched| watched.seen.is_some() || watched.acted_on.is_some());
        changes
    }
}

fn change(name: &str, before: Option<&Contents>, now: Option<&Contents>) -> Change {
    let name = name.to_owned();
    let Some(now) = now else {
        return Change::Gone { name };
    };
    let anew = before.map_or(Anew::All, |before| difference(before, now));
    Change::Changed { name, anew }
}

/// A file beside the versions concerns all of them.
fn difference(before: &Contents, now: &Contents) -> Anew {
    let mut versions = BTreeSet::new();
    for path in before.files.keys().chain(now.files.keys()) {
        if before.files.get(path) == now.files.get(path) {
            continue;
        }
        match path.split_once('/') {
            Some((folder, _)) => versions.extend(version_number(folder)),
            None => return Anew::All,
        }
    }
    Anew::Versions(versions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::layout::Stamp;

    /// Files with their sizes.
    fn folder(name: &str, files: &[(&str, u64)]) -> Folder {
        let stamp = |bytes| Stamp {
            bytes,
            modified: None,
        };
        let folders = files.iter().filter_map(|(path, _)| path.split_once('/'));
        Folder {
            name: name.to_owned(),
            contents: Ok(Contents {
                folders: folders.map(|(folder, _)| folder.to_owned()).collect(),
                files: files
                    .iter()
                    .map(|(path, bytes)| ((*path).to_owned(), stamp(*bytes)))
                    .collect(),
            }),
        }
    }

    fn watching(folder: &Folder) -> Watch {
        let mut watch = Watch::default();
        watch.acted_on(&folder.name, folder.contents.as_ref().unwrap());
        watch
    }

    fn changed(versions: &[u64]) -> Vec<Change> {
        vec![Change::Changed {
            name: "a".to_owned(),
            anew: Anew::Versions(versions.iter().copied().collect()),
        }]
    }

    #[test]
    fn what_stays_as_it_was_loaded_is_left_alone() {
        let one = folder("a", &[("1/model.onnx", 5)]);
        let mut watch = watching(&one);
        for _ in 0..3 {
            assert!(watch.look(vec![one.clone()]).is_empty());
        }
    }

    #[test]
    fn a_file_that_still_grows_is_left_alone() {
        let mut watch = watching(&folder("a", &[("1/model.onnx", 5)]));
        for bytes in [1, 3, 7] {
            let now = folder("a", &[("1/model.onnx", bytes)]);
            assert!(watch.look(vec![now]).is_empty(), "{bytes}");
        }
        let whole = folder("a", &[("1/model.onnx", 7)]);
        assert_eq!(watch.look(vec![whole.clone()]), changed(&[1]));
        assert!(watch.look(vec![whole]).is_empty(), "once is enough");
    }

    #[test]
    fn only_versions_whose_files_differ_are_loaded_anew() {
        let mut watch = watching(&folder(
            "a",
            &[("1/model.onnx", 5), ("2/model.onnx", 5), ("2/weights", 1)],
        ));
        let files = [
            ("1/model.onnx", 5),
            ("2/model.onnx", 5),
            ("2/weights", 2),
            ("3/model.onnx", 5),
            ("draft/model.onnx", 5),
        ];
        let now = folder("a", &files);
        watch.look(vec![now.clone()]);
        assert_eq!(watch.look(vec![now]), changed(&[2, 3]));
    }

    #[test]
    fn a_file_beside_the_versions_concerns_all() {
        let mut watch = watching(&folder("a", &[("1/model.onnx", 5)]));
        let now = folder("a", &[("1/model.onnx", 5), ("config.pbtxt", 1)]);
        watch.look(vec![now.clone()]);
        let all = Change::Changed {
            name: "a".to_owned(),
            anew: Anew::All,
        };
        assert_eq!(watch.look(vec![now]), [all]);
    }

    #[test]
    fn new_folders_are_loaded_and_missing_ones_unloaded() {
        let one = folder("a", &[("1/model.onnx", 5)]);
        let mut watch = Watch::default();
        assert!(watch.look(vec![one.clone()]).is_empty());
        let new = Change::Changed {
            name: "a".to_owned(),
            anew: Anew::All,
        };
        assert_eq!(watch.look(vec![one.clone()]), [new]);
        assert!(watch.look(vec![]).is_empty(), "it may be on its way back");
        assert!(watch.look(vec![one]).is_empty());
        watch.look(vec![]);
        let gone = Change::Gone {
            name: "a".to_owned(),
        };
        assert_eq!(watch.look(vec![]), [gone]);
        assert!(watch.look(vec![]).is_empty());
    }

    #[test]
    fn a_folder_that_cannot_be_read_changes_nothing() {
        let one = folder("a", &[("1/model.onnx", 5)]);
        let mut watch = watching(&one);
        for _ in 0..3 {
            let unreadable = Folder {
                name: "a".to_owned(),
                contents: Err("permission denied".to_owned()),
            };
            assert!(watch.look(vec![unreadable]).is_empty());
        }
        assert!(watch.look(vec![one]).is_empty());
    }
}
