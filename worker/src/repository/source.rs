//! Where a model is loaded from: the repository, or files that came with the request to load it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use bytes::Bytes;

/// What a request to load a model says besides its name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Given {
    /// A model configuration as JSON, in place of the file in the model's folder.
    pub config: Option<String>,
    /// The model's whole folder, by paths for which `is_file_path` is true; empty: that of the repository.
    pub files: BTreeMap<String, Bytes>,
}

/// Where a load reads.
#[derive(Debug, Clone)]
pub struct Source {
    /// The folder that the model's own is in.
    pub repository: PathBuf,
    pub config: Option<String>,
    /// What must stay as long as something is loaded from it.
    pub kept: Option<Arc<Kept>>,
}

/// A folder for files of a request, gone with the last model that was loaded from it.
#[derive(Debug)]
pub struct Kept(PathBuf);

/// How many random names are tried for it.
const ATTEMPTS: usize = 16;

impl Source {
    pub fn repository(path: &Path) -> Self {
        Self {
            repository: path.to_owned(),
            config: None,
            kept: None,
        }
    }

    /// Files that were given are written down, where nobody else can read them.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn new(repository: &Path, name: &str, given: Given) -> io::Result<Self> {
        if given.files.is_empty() {
            return Ok(Self {
                config: given.config,
                ..Self::repository(repository)
            });
        }
        let kept = Kept::make()?;
        for (path, content) in &given.files {
            let path = kept.0.join(name).join(path);
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            fs::write(path, content)?;
        }
        Ok(Self {
            repository: kept.0.clone(),
            config: given.config,
            kept: Some(Arc::new(kept)),
        })
    }
}

impl Kept {
    /// A new folder or none: one that somebody else made is neither used nor removed.
    fn make() -> io::Result<Self> {
        for _ in 0..ATTEMPTS {
            let number = u128::from(fastrand::u64(..)) << 64 | u128::from(fastrand::u64(..));
            let path = std::env::temp_dir().join(format!("forebay-worker-{number:032x}"));
            match Self::at(path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => return made,
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    fn at(path: PathBuf) -> io::Result<Self> {
        let mut builder = fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!("cannot remove '{}': {error}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_files_are_a_folder_of_their_own_until_nobody_needs_them() {
        let given = Given {
            config: Some("{}".to_owned()),
            files: [
                ("1/model.onnx".to_owned(), Bytes::from_static(b"one")),
                ("labels.txt".to_owned(), Bytes::from_static(b"a\nb\n")),
            ]
            .into(),
        };
        let source = Source::new(Path::new("/nonexistent"), "m", given).unwrap();
        let model = source.repository.join("m");
        assert_eq!(fs::read(model.join("1/model.onnx")).unwrap(), b"one");
        assert_eq!(fs::read(model.join("labels.txt")).unwrap(), b"a\nb\n");
        let other = source.clone();
        drop(source);
        assert!(model.exists());
        drop(other);
        assert!(!model.exists());
    }

    #[test]
    fn a_folder_that_is_there_already_is_left_alone() {
        let kept = Kept::make().unwrap();
        fs::write(kept.0.join("file"), "of somebody").unwrap();
        let error = Kept::at(kept.0.clone()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert!(kept.0.join("file").exists());
        assert_ne!(Kept::make().unwrap().0, kept.0);
    }

    #[cfg(unix)]
    #[test]
    fn nobody_else_can_read_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let kept = Kept::make().unwrap();
        let mode = fs::metadata(&kept.0).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn without_files_it_is_the_repository() {
        let source = Source::new(Path::new("/models"), "m", Given::default()).unwrap();
        assert_eq!(source.repository, Path::new("/models"));
        assert!(source.kept.is_none());
    }
}
