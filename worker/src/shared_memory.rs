//! Regions of POSIX shared memory that clients have registered, by name.
//!
//! A region is an open file below `/dev/shm`, and tensors are copied out of it and into it (`pread`, `pwrite`).
//! It is never mapped: a client that truncates the file behind our back gets an error, where a mapping would
//! end the process. Whoever holds a region keeps it open; removing its name takes nothing from requests in
//! flight.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;
use rustix::fs::{Mode, OFlags};

const FOLDER: &str = "/dev/shm/";
/// Each holds a file descriptor.
const MAX_REGIONS: usize = 256;
/// Of a region's name and of its key, in bytes.
const MAX_NAME: usize = 255;

/// The regions by name.
#[derive(Debug, Default)]
pub struct Regions {
    by_name: RwLock<BTreeMap<String, Arc<Region>>>,
}

/// Part of a shared memory object.
#[derive(Debug)]
pub struct Region {
    /// Name of the object, as the client gave it.
    pub key: String,
    /// Where the region begins within the object.
    pub offset: u64,
    pub byte_size: u64,
    file: File,
}

/// Bytes within a region, for a tensor. They were inside the region when the place was made.
#[derive(Debug, Clone)]
pub struct Place {
    region: Arc<Region>,
    /// Within the object.
    start: u64,
    byte_size: usize,
}

/// Why a region cannot be had, or not be used. The wording is Triton's where clients know it.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    #[error("Unable to find shared memory region: '{0}'")]
    Unknown(String),
    #[error("shared memory region '{0}' already in manager")]
    Taken(String),
    #[error("{MAX_REGIONS} shared memory regions are registered, unregister some")]
    TooMany,
    #[error("name of a shared memory region has {0} bytes, want 1 to {MAX_NAME}")]
    Name(usize),
    #[error("shared memory key '{0}' is not the name of an object, want '/name' or 'name'")]
    Key(String),
    #[error("Unable to open shared memory region: '{key}': {error}")]
    Open { key: String, error: std::io::Error },
    #[error(
        "failed to register shared memory region '{name}': {offset} + {byte_size} bytes are more than the {size} of '{key}'"
    )]
    Size {
        name: String,
        key: String,
        offset: u64,
        byte_size: u64,
        size: u64,
    },
    #[error(
        "Invalid offset + byte size for shared memory region: '{name}': {offset} + {byte_size} bytes, it has {size}"
    )]
    Outside {
        name: String,
        offset: u64,
        byte_size: u64,
        size: u64,
    },
    #[error("shared memory region with key '{key}' cannot be {action}: {error}")]
    Gone {
        key: String,
        action: &'static str,
        error: std::io::Error,
    },
}

impl Regions {
    /// Opens the object `key` and gives its bytes from `offset` on a name.
    ///
    /// # Errors
    /// A name or key that cannot be, a name that is taken, an object that is not there or too small.
    pub fn register(
        &self,
        name: &str,
        key: &str,
        offset: u64,
        byte_size: u64,
    ) -> Result<(), RegionError> {
        if !(1..=MAX_NAME).contains(&name.len()) {
            return Err(RegionError::Name(name.len()));
        }
        let mut by_name = self.by_name.write();
        if by_name.contains_key(name) {
            return Err(RegionError::Taken(name.to_owned()));
        }
        if by_name.len() >= MAX_REGIONS {
            return Err(RegionError::TooMany);
        }
        let failed = |error| RegionError::Open {
            key: key.to_owned(),
            error,
        };
        let file = open(key)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(RegionError::Key(key.to_owned()));
        }
        let size = metadata.len();
        if byte_size == 0 || offset.checked_add(byte_size).is_none_or(|end| end > size) {
            return Err(RegionError::Size {
                name: name.to_owned(),
                key: key.to_owned(),
                offset,
                byte_size,
                size,
            });
        }
        let region = Region {
            key: key.to_owned(),
            offset,
            byte_size,
            file,
        };
        by_name.insert(name.to_owned(), Arc::new(region));
        Ok(())
    }

    /// Forgets the name, or all names where it is empty. A name that is not there is no error.
    pub fn unregister(&self, name: &str) {
        let mut by_name = self.by_name.write();
        if name.is_empty() {
            by_name.clear();
        } else {
            by_name.remove(name);
        }
    }

    /// The region of this name, or all where it is empty.
    ///
    /// # Errors
    /// No region has the name.
    pub fn list(&self, name: &str) -> Result<Vec<(String, Arc<Region>)>, RegionError> {
        let by_name = self.by_name.read();
        if name.is_empty() {
            let all = by_name.iter();
            return Ok(all
                .map(|(name, region)| (name.clone(), region.clone()))
                .collect());
        }
        let region = by_name.get(name);
        let region = region.ok_or_else(|| RegionError::Unknown(name.to_owned()))?;
        Ok(vec![(name.to_owned(), region.clone())])
    }

    /// `byte_size` bytes of a region, from `offset` within it.
    ///
    /// # Errors
    /// No region has the name, or it ends before.
    pub fn place(&self, name: &str, offset: u64, byte_size: u64) -> Result<Place, RegionError> {
        let region = self.by_name.read().get(name).cloned();
        let region = region.ok_or_else(|| RegionError::Unknown(name.to_owned()))?;
        let inside = offset
            .checked_add(byte_size)
            .is_some_and(|end| end <= region.byte_size);
        match usize::try_from(byte_size) {
            Ok(length) if inside => Ok(Place {
                start: region.offset + offset,
                byte_size: length,
                region,
            }),
            _ => Err(RegionError::Outside {
                name: name.to_owned(),
                offset,
                byte_size,
                size: region.byte_size,
            }),
        }
    }
}

impl Place {
    pub fn byte_size(&self) -> usize {
        self.byte_size
    }

    /// Copies all of it out. Blocks for as long as copying takes.
    ///
    /// # Errors
    /// The object is shorter than it was.
    pub fn read(&self) -> Result<Bytes, RegionError> {
        let mut data = vec![0; self.byte_size];
        let read = self.region.file.read_exact_at(&mut data, self.start);
        read.map_err(|error| self.gone("read", error))?;
        Ok(data.into())
    }

    /// Copies `data`, which must fit, to its beginning. Blocks for as long as copying takes.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn write(&self, data: &[u8]) -> Result<(), RegionError> {
        assert!(
            data.len() <= self.byte_size,
            "the caller compared the sizes"
        );
        let written = self.region.file.write_all_at(data, self.start);
        written.map_err(|error| self.gone("written", error))
    }

    fn gone(&self, action: &'static str, error: std::io::Error) -> RegionError {
        RegionError::Gone {
            key: self.region.key.clone(),
            action,
            error,
        }
    }
}

impl PartialEq for Place {
    /// The same bytes of the same registration.
    fn eq(&self, other: &Place) -> bool {
        Arc::ptr_eq(&self.region, &other.region)
            && (self.start, self.byte_size) == (other.start, other.byte_size)
    }
}

/// As `shm_open` has it, but for links, which are not followed.
fn open(key: &str) -> Result<File, RegionError> {
    let name = key.strip_prefix('/').unwrap_or(key);
    if matches!(name, "" | "." | "..") || name.contains(['/', '\0']) || name.len() > MAX_NAME {
        return Err(RegionError::Key(key.to_owned()));
    }
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = rustix::fs::open(format!("{FOLDER}{name}"), flags, Mode::empty());
    opened.map(File::from).map_err(|error| RegionError::Open {
        key: key.to_owned(),
        error: error.into(),
    })
}

#[cfg(test)]
pub mod tests {
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// An object of this process and its content, removed in the end.
    pub struct Object {
        pub key: String,
        path: PathBuf,
    }

    impl Object {
        pub fn of(content: &[u8]) -> Object {
            static COUNT: AtomicUsize = AtomicUsize::new(0);
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("forebay-test-{}-{number}", std::process::id());
            let path = PathBuf::from(format!("{FOLDER}{name}"));
            std::fs::write(&path, content).unwrap();
            Object {
                key: format!("/{name}"),
                path,
            }
        }

        pub fn content(&self) -> Vec<u8> {
            std::fs::read(&self.path).unwrap()
        }
    }

    impl Drop for Object {
        fn drop(&mut self) {
            std::fs::remove_file(&self.path).unwrap();
        }
    }

    fn text(error: RegionError) -> String {
        error.to_string()
    }

    #[test]
    fn a_region_is_a_window_into_an_object() {
        let object = Object::of(b"0123456789");
        let regions = Regions::default();
        regions.register("r", &object.key, 2, 6).unwrap();
        let place = regions.place("r", 1, 3).unwrap();
        assert_eq!(place.read().unwrap(), "345");
        place.write(b"ab").unwrap();
        assert_eq!(object.content(), b"012ab56789");
        let all = regions.place("r", 0, 6).unwrap();
        assert_eq!(all.read().unwrap(), "2ab567");
        for (offset, byte_size) in [(0, 7), (6, 1), (u64::MAX, 2), (1, u64::MAX)] {
            let outside = regions.place("r", offset, byte_size).unwrap_err();
            assert!(text(outside).starts_with("Invalid offset + byte size"));
        }
    }

    #[test]
    fn names_come_and_go_while_a_place_stays_open() {
        let object = Object::of(b"0123");
        let regions = Regions::default();
        regions.register("a", &object.key, 0, 4).unwrap();
        regions
            .register("b", object.key.trim_start_matches('/'), 1, 3)
            .unwrap();
        let place = regions.place("a", 0, 2).unwrap();
        let listed = regions.list("").unwrap();
        let listed: Vec<_> = listed
            .iter()
            .map(|(name, region)| (&name[..], region.offset))
            .collect();
        assert_eq!(listed, [("a", 0), ("b", 1)]);
        assert!(matches!(
            regions.register("a", &object.key, 0, 4),
            Err(RegionError::Taken(_))
        ));
        regions.unregister("a");
        regions.unregister("a");
        assert!(matches!(regions.list("a"), Err(RegionError::Unknown(_))));
        assert!(matches!(
            regions.place("a", 0, 1),
            Err(RegionError::Unknown(_))
        ));
        assert_eq!(place.read().unwrap(), "01");
        regions.unregister("");
        assert!(regions.list("").unwrap().is_empty());
    }

    #[test]
    fn a_truncated_object_is_an_error() {
        let object = Object::of(b"0123");
        let regions = Regions::default();
        regions.register("r", &object.key, 0, 4).unwrap();
        let place = regions.place("r", 0, 4).unwrap();
        File::options()
            .write(true)
            .open(&object.path)
            .unwrap()
            .set_len(2)
            .unwrap();
        assert!(text(place.read().unwrap_err()).contains("cannot be read"));
    }

    #[test]
    fn only_objects_that_are_there_are_registered() {
        let object = Object::of(b"0123");
        let regions = Regions::default();
        let register = |name: &str, key: &str, offset, size| {
            text(regions.register(name, key, offset, size).unwrap_err())
        };
        for key in [
            "",
            "/",
            ".",
            "..",
            "/..",
            "a/b",
            "//a",
            "../etc/passwd",
            "a\0b",
        ] {
            assert!(
                register("r", key, 0, 1).contains("is not the name of an object"),
                "{key}"
            );
        }
        assert!(register("r", &"k".repeat(256), 0, 1).contains("is not the name"));
        assert!(register("", &object.key, 0, 1).contains("name of a shared memory region"));
        assert!(register(&"r".repeat(256), &object.key, 0, 1).contains("has 256 bytes"));
        assert!(register("r", "/forebay-test-nothing", 0, 1).starts_with("Unable to open"));
        for (offset, size) in [(0, 0), (0, 5), (4, 1), (u64::MAX, 1), (1, u64::MAX)] {
            let refused = register("r", &object.key, offset, size);
            assert!(refused.starts_with("failed to register"), "{refused}");
        }
        let link = PathBuf::from(format!("{}-link", object.path.display()));
        std::os::unix::fs::symlink(&object.path, &link).unwrap();
        let refused = register("r", &format!("{}-link", object.key), 0, 1);
        std::fs::remove_file(&link).unwrap();
        assert!(refused.starts_with("Unable to open"), "{refused}");
    }

    #[test]
    fn regions_are_bounded() {
        let object = Object::of(b"0123");
        let regions = Regions::default();
        for number in 0..MAX_REGIONS {
            regions
                .register(&number.to_string(), &object.key, 0, 4)
                .unwrap();
        }
        assert!(matches!(
            regions.register("r", &object.key, 0, 4),
            Err(RegionError::TooMany)
        ));
    }
}
