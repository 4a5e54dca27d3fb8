//! What a repository's folders mean: `<repository>/<model>/<version>/model.onnx`.
//!
//! Versions are folders named by a positive number without leading zeros; other names beside them are not
//! versions and are ignored, as are hidden folders and plain files. Of several versions the highest is served.
//! Pure: the listing comes from `disk`.

use std::collections::BTreeMap;

/// The file that makes a folder a version.
pub const MODEL_FILE: &str = "model.onnx";

/// One folder of the repository, hidden or not, with the folders in it and the names of their files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    pub name: String,
    /// Subfolders by name; or why the folder could not be read.
    pub children: Result<BTreeMap<String, Vec<String>>, String>,
}

/// A model of the repository and the version of it to serve, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundModel {
    pub name: String,
    pub version: Result<u64, String>,
}

/// The models among the folders, by name. `configured`: models that the configuration names; those without a
/// folder are listed as missing.
pub fn models<'a>(
    folders: &[Folder],
    configured: impl Iterator<Item = &'a str>,
) -> Vec<FoundModel> {
    let visible = folders
        .iter()
        .filter(|folder| !folder.name.starts_with('.'));
    let found = visible.map(|folder| (folder.name.clone(), version(folder)));
    let mut models: BTreeMap<String, Result<u64, String>> = found.collect();
    for name in configured {
        models.entry(name.to_owned()).or_insert_with(|| {
            Err("the configuration names it, but the repository has no such folder".to_owned())
        });
    }
    models
        .into_iter()
        .map(|(name, version)| FoundModel { name, version })
        .collect()
}

fn version(folder: &Folder) -> Result<u64, String> {
    let children = folder
        .children
        .as_ref()
        .map_err(|reason| format!("the folder cannot be read: {reason}"))?;
    let versions = children
        .iter()
        .filter_map(|(name, files)| Some((version_number(name)?, files)));
    let Some((version, files)) = versions.max_by_key(|(version, _)| *version) else {
        return Err(
            "the folder has no version, a subfolder named by a number such as '1'".to_owned(),
        );
    };
    if !files.iter().any(|file| file == MODEL_FILE) {
        return Err(format!("version {version} has no file '{MODEL_FILE}'"));
    }
    Ok(version)
}

/// "7" → 7; not "07", "v7" or "0".
pub fn version_number(name: &str) -> Option<u64> {
    let digits = !name.starts_with('0') && name.bytes().all(|byte| byte.is_ascii_digit());
    if digits { name.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str, children: &[(&str, &[&str])]) -> Folder {
        let files = |files: &[&str]| files.iter().map(|file| (*file).to_owned()).collect();
        Folder {
            name: name.to_owned(),
            children: Ok(children
                .iter()
                .map(|(name, list)| ((*name).to_owned(), files(list)))
                .collect()),
        }
    }

    fn found(folders: &[Folder]) -> Vec<(String, Result<u64, String>)> {
        let models = models(folders, std::iter::empty());
        models
            .into_iter()
            .map(|model| (model.name, model.version))
            .collect()
    }

    #[test]
    fn the_highest_number_is_served() {
        let versions: &[(&str, &[&str])] = &[
            ("2", &["model.onnx"]),
            ("10", &["model.onnx", "labels.txt"]),
            ("draft", &["model.onnx"]),
            ("011", &[]),
        ];
        assert_eq!(found(&[folder("a", versions)]), [("a".to_owned(), Ok(10))]);
    }

    #[test]
    fn hidden_folders_are_ignored_and_models_are_sorted() {
        let one: &[(&str, &[&str])] = &[("1", &["model.onnx"])];
        let folders = [folder("b", one), folder(".git", one), folder("a", one)];
        assert_eq!(
            found(&folders),
            [("a".to_owned(), Ok(1)), ("b".to_owned(), Ok(1))]
        );
    }

    #[test]
    fn every_model_has_its_own_reason() {
        let unreadable = Folder {
            name: "c".to_owned(),
            children: Err("permission denied".to_owned()),
        };
        let folders = [
            folder("a", &[("latest", &["model.onnx"])]),
            folder("b", &[("1", &["model.pt"])]),
            unreadable,
        ];
        let reasons: Vec<String> = found(&folders)
            .into_iter()
            .map(|(_, version)| version.unwrap_err())
            .collect();
        assert!(reasons[0].contains("no version"), "{reasons:?}");
        assert!(
            reasons[1].contains("version 1 has no file 'model.onnx'"),
            "{reasons:?}"
        );
        assert!(reasons[2].contains("permission denied"), "{reasons:?}");
    }

    #[test]
    fn a_configured_model_without_a_folder_is_missing() {
        let folders = [folder("a", &[("1", &["model.onnx"])])];
        let models = models(&folders, ["a", "z"].into_iter());
        assert_eq!(models.len(), 2);
        assert_eq!(models[0].version, Ok(1));
        assert!(
            models[1]
                .version
                .as_ref()
                .unwrap_err()
                .contains("no such folder")
        );
    }

    #[test]
    fn versions_are_plain_numbers() {
        assert_eq!(version_number("7"), Some(7));
        for name in ["", "0", "07", "v7", "-1", "1.0", "99999999999999999999"] {
            assert_eq!(version_number(name), None, "{name}");
        }
    }
}
