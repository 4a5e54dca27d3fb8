//! What a repository's folders mean: `<repository>/<model>/<version>/model.onnx`.
//!
//! Versions are folders named by a positive number without leading zeros; other names beside them are not
//! versions and are ignored, as are hidden folders and plain files. A version policy says which of them are
//! served. Pure: the listing comes from `disk`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use forebay_config::worker::VersionPolicy;

/// The file that makes a folder a version, unless the model's configuration names another.
pub const MODEL_FILE: &str = "model.onnx";

/// One model's folder as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    pub name: String,
    /// Or why it could not be read.
    pub contents: Result<Contents, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Contents {
    /// By their paths from the model's folder, with '/' between names.
    pub files: BTreeMap<String, Stamp>,
    /// The folders directly inside, empty ones too.
    pub folders: BTreeSet<String>,
}

/// By which a file is taken to be the same as before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub bytes: u64,
    /// None where the file system does not say.
    pub modified: Option<SystemTime>,
}

/// What of one model's folder is to be served.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// The path of the model's file from its folder, or why the version cannot be served.
    pub versions: BTreeMap<u64, Result<String, String>>,
    /// Versions that have a folder, whether they are to be served or not.
    pub present: BTreeSet<u64>,
    /// Why nothing is to be served, if that is so.
    pub problem: Option<String>,
    /// What is asked for beside the models and not honoured.
    pub notes: Vec<String>,
}

impl Contents {
    /// The folders that are versions.
    pub fn versions(&self) -> BTreeSet<u64> {
        let numbers = self.folders.iter().map(|name| version_number(name));
        numbers.flatten().collect()
    }
}

impl Plan {
    /// Nothing can be loaded. What is served of `present` stays.
    pub fn broken(reason: String, present: BTreeSet<u64>) -> Self {
        Self {
            problem: Some(reason),
            present,
            ..Self::default()
        }
    }
}

/// The versions that `policy` picks. `file`: the name of the model's file, `MODEL_FILE` by default.
pub fn plan(contents: &Contents, policy: &VersionPolicy, file: &str) -> Plan {
    let present = contents.versions();
    let wanted: Vec<u64> = match policy {
        VersionPolicy::All => present.iter().copied().collect(),
        VersionPolicy::Latest(count) => {
            let count = usize::try_from(*count).unwrap_or(usize::MAX);
            present.iter().rev().take(count).copied().collect()
        }
        VersionPolicy::Specific(versions) => versions.clone(),
    };
    let problem = present
        .is_empty()
        .then(|| "the folder has no version, a subfolder named by a number such as '1'".to_owned());
    let versions = wanted.into_iter().map(|version| {
        let path = if present.contains(&version) {
            model_file(contents, version, file)
        } else {
            Err(format!(
                "the folder has no version {version}, which the version policy names"
            ))
        };
        (version, path)
    });
    Plan {
        versions: versions.collect(),
        present,
        problem,
        notes: Vec::new(),
    }
}

/// The one version of an ensemble. It has no files, so its folder only numbers it: the highest that `policy` picks
/// of those that are there; none need be there.
pub fn ensemble(contents: &Contents, policy: &VersionPolicy) -> Plan {
    let mut present = contents.versions();
    let picked = match policy {
        VersionPolicy::Specific(versions) => {
            let there = versions
                .iter()
                .rev()
                .find(|number| present.contains(number));
            there.or(versions.last()).copied()
        }
        VersionPolicy::All | VersionPolicy::Latest(_) => present.last().copied(),
    };
    let version = picked.unwrap_or(1);
    present.insert(version);
    Plan {
        versions: BTreeMap::from([(version, Ok(String::new()))]),
        present,
        problem: None,
        notes: Vec::new(),
    }
}

/// The file itself, or `MODEL_FILE` in a folder of that name, where a model lies beside its weights.
fn model_file(contents: &Contents, version: u64, file: &str) -> Result<String, String> {
    let paths = [
        format!("{version}/{file}"),
        format!("{version}/{file}/{MODEL_FILE}"),
    ];
    let found = paths
        .into_iter()
        .find(|path| contents.files.contains_key(path));
    found.ok_or_else(|| format!("version {version} has no file '{file}'"))
}

/// "7" → 7; not "07", "v7" or "0".
pub fn version_number(name: &str) -> Option<u64> {
    let digits = !name.starts_with('0') && name.bytes().all(|byte| byte.is_ascii_digit());
    if digits { name.parse().ok() } else { None }
}

/// Whether a folder of this name can be a model; never true for a name that leads out of the repository.
pub fn is_model_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('.')
        && !name.contains(['/', '\\'])
        && !name.contains(char::is_control)
}

/// Whether it is the path of a file in a model's folder, with '/' between names; never true for one that leads
/// out of it.
pub fn is_file_path(path: &str) -> bool {
    path.split('/').all(is_model_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(paths: &[&str]) -> Contents {
        let stamp = Stamp {
            bytes: 1,
            modified: None,
        };
        let folders = paths.iter().filter_map(|path| path.split_once('/'));
        Contents {
            folders: folders.map(|(folder, _)| folder.to_owned()).collect(),
            files: paths
                .iter()
                .filter(|path| !path.ends_with('/'))
                .map(|path| ((*path).to_owned(), stamp))
                .collect(),
        }
    }

    fn served(paths: &[&str], policy: VersionPolicy) -> Vec<u64> {
        let plan = plan(&contents(paths), &policy, MODEL_FILE);
        let good = plan
            .versions
            .into_iter()
            .filter_map(|(version, path)| path.is_ok().then_some(version));
        good.collect()
    }

    const THREE: &[&str] = &[
        "2/model.onnx",
        "10/model.onnx",
        "10/labels.txt",
        "3/model.onnx",
        "draft/model.onnx",
        "011/model.onnx",
        "config.pbtxt",
    ];

    #[test]
    fn the_policy_picks_versions_by_number() {
        assert_eq!(served(THREE, VersionPolicy::Latest(1)), [10]);
        assert_eq!(served(THREE, VersionPolicy::Latest(2)), [3, 10]);
        assert_eq!(served(THREE, VersionPolicy::Latest(9)), [2, 3, 10]);
        assert_eq!(served(THREE, VersionPolicy::All), [2, 3, 10]);
        assert_eq!(served(THREE, VersionPolicy::Specific(vec![2, 3])), [2, 3]);
    }

    #[test]
    fn every_version_has_its_own_reason() {
        let contents = contents(&["1/model.onnx", "2/model.pt", "3/"]);
        let plan = plan(
            &contents,
            &VersionPolicy::Specific(vec![1, 2, 7]),
            MODEL_FILE,
        );
        assert_eq!(plan.present, BTreeSet::from([1, 2, 3]));
        assert_eq!(plan.versions[&1], Ok("1/model.onnx".to_owned()));
        for (version, reason) in [
            (2, "version 2 has no file 'model.onnx'"),
            (7, "no version 7"),
        ] {
            let told = plan.versions[&version].as_ref().unwrap_err();
            assert!(told.contains(reason), "{told}");
        }
        assert_eq!(plan.problem, None);
    }

    #[test]
    fn an_ensembles_folder_only_numbers_it() {
        let version = |paths: &[&str], policy| {
            let plan = ensemble(&contents(paths), &policy);
            assert!(
                plan.present
                    .is_superset(&plan.versions.keys().copied().collect())
            );
            plan.versions.into_keys().collect::<Vec<_>>()
        };
        assert_eq!(version(&["config.pbtxt"], VersionPolicy::Latest(1)), [1]);
        assert_eq!(version(&["2/", "3/"], VersionPolicy::All), [3]);
        let specific = VersionPolicy::Specific(vec![2, 4]);
        assert_eq!(version(&["2/", "3/"], specific.clone()), [2]);
        assert_eq!(version(&[], specific), [4]);
    }

    #[test]
    fn a_folder_without_versions_is_a_problem() {
        let plan = plan(
            &contents(&["latest/model.onnx"]),
            &VersionPolicy::All,
            MODEL_FILE,
        );
        assert!(plan.versions.is_empty());
        assert!(plan.problem.unwrap().contains("no version"));
    }

    #[test]
    fn the_file_may_have_another_name_or_lie_in_a_folder_of_its_name() {
        let contents = contents(&["1/net.onnx", "2/model.onnx/model.onnx"]);
        let path = |version, file| {
            let policy = VersionPolicy::Specific(vec![version]);
            plan(&contents, &policy, file).versions[&version].clone()
        };
        assert_eq!(path(1, "net.onnx"), Ok("1/net.onnx".to_owned()));
        let inside = "2/model.onnx/model.onnx".to_owned();
        assert_eq!(path(2, MODEL_FILE), Ok(inside));
        assert!(path(1, MODEL_FILE).is_err());
    }

    #[test]
    fn versions_are_plain_numbers() {
        assert_eq!(version_number("7"), Some(7));
        for name in ["", "0", "07", "-1", "1.0", "v1", "99999999999999999999"] {
            assert_eq!(version_number(name), None, "{name}");
        }
    }

    #[test]
    fn paths_do_not_lead_out_of_the_folder() {
        for path in ["1/model.onnx", "labels.txt", "1/model.onnx/weights/a"] {
            assert!(is_file_path(path), "{path}");
        }
        for path in ["", "/etc/passwd", "../x", "1/../../x", "1//x", "1/", "a/.b"] {
            assert!(!is_file_path(path), "{path:?}");
        }
    }

    #[test]
    fn names_do_not_lead_out_of_the_repository() {
        for name in ["mlp", "text classifier", "a.b", "größe"] {
            assert!(is_model_name(name), "{name}");
        }
        for name in [
            "", ".", "..", "../x", "a/b", "/etc", "a\\b", ".hidden", "a\0b", "a\nb",
        ] {
            assert!(!is_model_name(name), "{name:?}");
        }
    }
}
