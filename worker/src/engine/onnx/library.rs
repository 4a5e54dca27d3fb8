//! Finds libonnxruntime and loads it, once per process.
//!
//! A path that somebody named (configuration, `ORT_DYLIB_PATH`) is used or is an error. Otherwise the library
//! is looked for beside the binary and in the Python package `onnxruntime` (also what `onnxruntime-gpu`
//! installs); Python is asked where the package is, without importing it. Nothing is downloaded.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use ort::environment::Environment;
use parking_lot::Mutex;

use crate::engine::onnx::one_line;

/// Variable that names the library file.
const VARIABLE: &str = "ORT_DYLIB_PATH";
const ADVICE: &str =
    "install it with 'pip install onnxruntime==1.31.1' or set ORT_DYLIB_PATH to the library file";
/// Python may not keep the start waiting longer than this.
const PYTHON_PATIENCE: Duration = Duration::from_secs(10);
/// Prints the folder of the package, ignoring a folder of that name in the working directory.
const PYTHON_SCRIPT: &str = "import sys; sys.path = [p for p in sys.path if p]; import importlib.util as u; \
    s = u.find_spec('onnxruntime'); print(*(s.submodule_search_locations or []) if s else [], sep='\\n')";

/// The loaded ONNX Runtime. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Runtime {
    pub(super) environment: Environment,
    path: PathBuf,
    version: String,
}

impl Runtime {
    /// The library file in use.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// As the file name says, such as "1.31.1"; "1.24 or newer" if it does not.
    pub fn version(&self) -> &str {
        &self.version
    }
}

/// No usable ONNX Runtime; one line that says what was tried and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LibraryError {
    #[error("ONNX Runtime not found (looked at {}); {ADVICE}", .looked.join(", "))]
    NotFound { looked: Vec<String> },
    #[error("ONNX Runtime of {origin} cannot be used: {reason}; {ADVICE}")]
    Unusable { origin: String, reason: String },
}

/// Loads the library that `config` names, or the first one found. A second call in the same process returns
/// what the first one loaded.
///
/// # Errors
/// Nothing found, or what was found cannot be loaded or is too old.
pub fn load(config: Option<&Path>) -> Result<Runtime, LibraryError> {
    static LOADED: Mutex<Option<Runtime>> = Mutex::new(None);
    let mut loaded = LOADED.lock();
    if let Some(runtime) = &*loaded {
        return Ok(runtime.clone());
    }
    let runtime = match find(config) {
        Search::Named { origin, path } => {
            open(&path).map_err(|reason| LibraryError::Unusable { origin, reason })
        }
        Search::Found { candidates, looked } => first_usable(candidates, looked),
    }?;
    *loaded = Some(runtime.clone());
    Ok(runtime)
}

#[derive(Debug, PartialEq, Eq)]
enum Search {
    /// Somebody said which one.
    Named { origin: String, path: PathBuf },
    /// Files to try in order, and what was looked at.
    Found {
        candidates: Vec<PathBuf>,
        looked: Vec<String>,
    },
}

fn find(config: Option<&Path>) -> Search {
    if let Some(named) = named(config, std::env::var_os(VARIABLE)) {
        return named;
    }
    let mut places = Vec::new();
    let mut looked = vec![format!("{VARIABLE} (not set)")];
    if let Some(folder) = std::env::current_exe()
        .ok()
        .as_deref()
        .and_then(Path::parent)
    {
        looked.push(format!("{} and ../lib", folder.display()));
        places.push(folder.to_path_buf());
        places.push(folder.join("../lib"));
    }
    for python in pythons() {
        let packages = python_packages(&python);
        let found = if packages.is_empty() {
            "no package onnxruntime"
        } else {
            "package onnxruntime"
        };
        looked.push(format!("{} ({found})", python.display()));
        places.extend(packages.into_iter().map(|package| package.join("capi")));
    }
    Search::Found {
        candidates: places
            .iter()
            .flat_map(|place| libraries_in(place))
            .collect(),
        looked,
    }
}

/// What the configuration or the environment says; the configuration comes first.
fn named(config: Option<&Path>, variable: Option<OsString>) -> Option<Search> {
    if let Some(path) = config {
        return Some(Search::Named {
            origin: format!("the configuration ({})", path.display()),
            path: path.to_path_buf(),
        });
    }
    let path = PathBuf::from(variable.filter(|value| !value.is_empty())?);
    Some(Search::Named {
        origin: format!("{VARIABLE} ({})", path.display()),
        path,
    })
}

fn first_usable(candidates: Vec<PathBuf>, looked: Vec<String>) -> Result<Runtime, LibraryError> {
    let mut first_failure = None;
    for path in candidates {
        match open(&path) {
            Ok(runtime) => return Ok(runtime),
            Err(reason) => {
                first_failure.get_or_insert(LibraryError::Unusable {
                    origin: path.display().to_string(),
                    reason,
                });
            }
        }
    }
    Err(first_failure.unwrap_or(LibraryError::NotFound { looked }))
}

fn open(path: &Path) -> Result<Runtime, String> {
    let path = std::fs::canonicalize(path).map_err(|error| one_line(&error))?;
    let builder = ort::init_from(&path).map_err(|error| one_line(&error))?;
    let environment = builder
        .with_name("forebay")
        .with_telemetry(false)
        .build()
        .map_err(|error| one_line(&error))?;
    // A failed run is reported to its caller; logged as well, any caller could fill the log.
    environment.set_log_level(ort::logging::LogLevel::Fatal);
    Ok(Runtime {
        environment,
        version: version_in_name(&path)
            .unwrap_or_else(|| format!("1.{} or newer", ort::MINOR_VERSION)),
        path,
    })
}

/// "libonnxruntime.so.1.31.1" → "1.31.1".
fn version_in_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let version = name.strip_prefix("libonnxruntime.")?.strip_prefix("so.")?;
    let numeric = version
        .split('.')
        .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
    (numeric && version.contains('.')).then(|| version.to_owned())
}

/// Library files in a folder; the name with the longest version first.
fn libraries_in(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| is_library(name)).collect();
    names.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| b.cmp(a)));
    names.into_iter().map(|name| folder.join(name)).collect()
}

/// The runtime itself, not its providers ("libonnxruntime_providers_shared.so").
fn is_library(name: &str) -> bool {
    name.strip_prefix("libonnxruntime.")
        .is_some_and(|rest| rest == "so" || rest.starts_with("so.") || rest.ends_with("dylib"))
}

fn pythons() -> Vec<PathBuf> {
    let active = std::env::var_os("VIRTUAL_ENV").filter(|value| !value.is_empty());
    let active = active.map(|folder| Path::new(&folder).join("bin/python3"));
    active
        .into_iter()
        .chain([PathBuf::from("python3")])
        .collect()
}

/// Folders of the Python package, asked of an interpreter that is given up on when it takes too long.
fn python_packages(python: &Path) -> Vec<PathBuf> {
    let mut command = Command::new(python);
    command
        .args(["-c", PYTHON_SCRIPT])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .stdout(Stdio::piped());
    let Ok(child) = command.spawn() else {
        return Vec::new();
    };
    let (sender, receiver) = mpsc::channel();
    let reader = std::thread::Builder::new().name("find-python-package".to_owned());
    let waiting = reader.spawn(move || {
        // The search may have been given up; then nobody takes the answer.
        let _ = sender.send(child.wait_with_output());
    });
    let output = match (waiting, receiver.recv_timeout(PYTHON_PATIENCE)) {
        (Ok(_), Ok(Ok(output))) if output.status.success() => output.stdout,
        _ => return Vec::new(),
    };
    let text = String::from_utf8_lossy(&output);
    text.lines()
        .filter(|line| !line.is_empty())
        .map(PathBuf::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_comes_before_the_variable() {
        let search = named(Some(Path::new("/a/lib.so")), Some("/b/lib.so".into()));
        assert!(
            matches!(search, Some(Search::Named { path, .. }) if path == Path::new("/a/lib.so"))
        );
        let search = named(None, Some("/b/lib.so".into()));
        assert!(
            matches!(search, Some(Search::Named { path, .. }) if path == Path::new("/b/lib.so"))
        );
        assert_eq!(named(None, Some("".into())), None);
        assert_eq!(named(None, None), None);
    }

    #[test]
    fn providers_are_not_the_library() {
        assert!(is_library("libonnxruntime.so"));
        assert!(is_library("libonnxruntime.so.1.31.1"));
        assert!(is_library("libonnxruntime.1.31.1.dylib"));
        assert!(!is_library("libonnxruntime_providers_shared.so"));
        assert!(!is_library("libonnx.so"));
    }

    #[test]
    fn versions_are_read_from_names() {
        let version = |name: &str| version_in_name(Path::new(name));
        assert_eq!(
            version("/x/libonnxruntime.so.1.31.1").as_deref(),
            Some("1.31.1")
        );
        assert_eq!(version("/x/libonnxruntime.so.1"), None);
        assert_eq!(version("/x/libonnxruntime.so"), None);
        assert_eq!(version("/x/libonnxruntime.so.old.bak"), None);
    }

    #[test]
    fn a_file_that_is_no_library_is_one_clear_line() {
        let folder = std::env::temp_dir().join(format!("forebay-library-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("libonnxruntime.so.1.31.1");
        std::fs::write(&path, "not a library").unwrap();
        assert_eq!(libraries_in(&folder), std::slice::from_ref(&path));
        let error = first_usable(vec![path.clone(), folder.join("absent.so")], vec![]).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(path.to_str().unwrap()) && text.contains("pip install"),
            "{text}"
        );
        assert!(!text.contains('\n'), "{text}");
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn nothing_found_names_what_was_looked_at() {
        let error =
            first_usable(vec![], vec!["/opt/lib".to_owned(), "python3".to_owned()]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "ONNX Runtime not found (looked at /opt/lib, python3); install it with 'pip install onnxruntime==1.31.1' \
             or set ORT_DYLIB_PATH to the library file"
        );
    }

    #[test]
    fn a_python_that_is_not_there_finds_nothing() {
        assert!(python_packages(Path::new("/nonexistent/python3")).is_empty());
    }
}
