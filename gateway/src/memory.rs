//! How much of the process's memory bodies and held-back answers may take, all requests together.
//!
//! What arrives is counted as it arrives and given back by a guard, so a client that only announces a large body
//! takes nothing. When there is no more room, the request that would need it is refused: the gateway sheds load
//! before the system ends it. The more a request holds already, the more of the last eighth it leaves to others, all
//! of it from a mebibyte on: so large ones, and those that are about to be, give way before small ones are shut out.
//!
//! Not counted: what connections themselves buffer, which their flow control bounds, what streams through the proxy
//! without being kept, and what is unpacked for a moment on one thread.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::refusal::Refusal;

/// Who holds so much leaves the last eighth to others.
const LARGE: u64 = 1 << 20;
/// Without any word about it, half of the memory that there is.
const SHARE: u64 = 2;
/// Where the machine's memory cannot be read.
const FALLBACK: u64 = 1 << 30;
/// When it may pay to ask again: requests come and go by the second.
const PAUSE: Duration = Duration::from_secs(1);

pub struct Memory {
    most: AtomicU64,
    held: AtomicU64,
    refused: AtomicU64,
}

/// Bytes that one request holds; given back when dropped.
pub struct Held {
    memory: Arc<Memory>,
    bytes: u64,
}

impl Memory {
    /// None: what suits the machine.
    pub fn new(most: Option<u64>) -> Arc<Self> {
        Arc::new(Self {
            most: AtomicU64::new(most.unwrap_or_else(suitable)),
            held: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        })
    }

    /// From now on; what is held stays.
    pub fn resize(&self, most: Option<u64>) {
        let most = most.unwrap_or_else(suitable);
        self.most.store(most, Ordering::Relaxed);
    }

    /// For one request, which holds nothing yet.
    pub fn hold(self: &Arc<Self>) -> Held {
        Held {
            memory: self.clone(),
            bytes: 0,
        }
    }

    pub fn most(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }

    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Requests that found no room.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// What may be held in all, for a request that holds so much of it.
    fn room(&self, own: u64) -> u64 {
        let most = self.most();
        let share = own.min(LARGE) as f64 / LARGE as f64;
        most - (most as f64 / 8.0 * share) as u64
    }
}

impl Held {
    /// Nothing more, for the same process.
    pub fn another(&self) -> Self {
        self.memory.hold()
    }

    /// Whether so many bytes more would find room now.
    ///
    /// # Errors
    /// They would not.
    pub fn expect(&self, bytes: u64) -> Result<(), Refusal> {
        let room = self.memory.room(self.bytes.saturating_add(bytes));
        match self.memory.held().saturating_add(bytes) <= room {
            true => Ok(()),
            false => Err(self.refuse()),
        }
    }

    /// Holds so many bytes more.
    ///
    /// # Errors
    /// There is no room for them; what was held before still is.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Refusal> {
        match self.try_grow(bytes) {
            true => Ok(()),
            false => Err(self.refuse()),
        }
    }

    /// The same where it is no refusal if there is no room.
    pub fn try_grow(&mut self, bytes: usize) -> bool {
        let bytes = bytes as u64;
        let own = self.bytes.saturating_add(bytes);
        let room = self.memory.room(own);
        let all = &self.memory.held;
        let grown = all.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
            held.checked_add(bytes).filter(|held| *held <= room)
        });
        if grown.is_ok() {
            self.bytes = own;
        }
        grown.is_ok()
    }

    /// Holds so many bytes more, room or not: they are there already.
    pub fn must_grow(&mut self, bytes: usize) {
        self.memory.held.fetch_add(bytes as u64, Ordering::Relaxed);
        self.bytes += bytes as u64;
    }

    /// There was no room for what it needs.
    pub fn refuse(&self) -> Refusal {
        self.memory.refused.fetch_add(1, Ordering::Relaxed);
        Refusal::OutOfMemory { retry_after: PAUSE }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.memory.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

fn suitable() -> u64 {
    let machine = std::fs::read_to_string("/proc/meminfo").ok();
    let machine = machine.and_then(|meminfo| total(&meminfo));
    let group = std::fs::read_to_string("/proc/self/cgroup").ok();
    let group = group.and_then(|cgroup| group_limit(&cgroup));
    let all = machine.into_iter().chain(group).min();
    all.map_or(FALLBACK, |all| all / SHARE)
}

/// `MemTotal` of `/proc/meminfo`, in bytes.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// The least `memory.max` of the process's control group and those around it ("Control Group v2" of the kernel).
fn group_limit(cgroup: &str) -> Option<u64> {
    let own = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    let root = Path::new("/sys/fs/cgroup");
    let own: PathBuf = root.join(own.trim_start_matches('/'));
    let groups = own.ancestors().take_while(|group| group.starts_with(root));
    let limit = |group: &Path| -> Option<u64> {
        let text = std::fs::read_to_string(group.join("memory.max")).ok()?;
        text.trim().parse().ok()
    };
    groups.filter_map(limit).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn what_is_held_is_given_back() {
        let memory = Memory::new(Some(10));
        let mut one = memory.hold();
        let mut other = one.another();
        assert!(one.grow(6).is_ok() && other.grow(4).is_ok());
        assert!(one.grow(1).is_err() && one.expect(1).is_err());
        assert_eq!((memory.held(), memory.refused()), (10, 2));
        drop(other);
        assert_eq!(memory.held(), 6);
        one.must_grow(100);
        assert_eq!(memory.held(), 106);
        assert!(!one.try_grow(1));
        drop(one);
        assert_eq!((memory.held(), memory.refused()), (0, 2));
    }

    #[test]
    fn large_ones_leave_room_for_small_ones() {
        let memory = Memory::new(Some(64 << 20));
        let mut large: Vec<Held> = (0..7).map(|_| memory.hold()).collect();
        for held in &mut large {
            assert!(held.grow(8 * MIB).is_ok());
        }
        assert!(large[0].grow(1).is_err());
        assert!(memory.hold().expect(8 << 20).is_err());
        let mut small: Vec<Held> = (0..500).map(|_| memory.hold()).collect();
        assert!(small.iter_mut().all(|held| held.grow(16 << 10).is_ok()));
        assert!(small[0].grow(MIB).is_err(), "it is not small any more");
    }

    #[test]
    fn a_flood_that_grows_bit_by_bit_gives_way_to_what_is_smaller() {
        let memory = Memory::new(Some(64 << 20));
        let mut flood: Vec<Held> = (0..1_000).map(|_| memory.hold()).collect();
        while flood.iter_mut().any(|held| held.try_grow(16 << 10)) {}
        assert!(memory.hold().grow(2 << 10).is_ok());
    }

    #[test]
    fn a_new_bound_holds_at_once() {
        let memory = Memory::new(Some(10));
        let mut held = memory.hold();
        assert!(held.grow(10).is_ok());
        memory.resize(Some(5));
        assert!(held.grow(1).is_err());
        memory.resize(Some(11));
        assert!(held.grow(1).is_ok());
    }

    #[test]
    fn the_machine_is_read() {
        assert_eq!(
            total("MemTotal:       16000 kB\nMemFree: 1 kB"),
            Some(16_384_000)
        );
        assert_eq!(total("MemFree: 1 kB"), None);
        assert_eq!(group_limit("1:cpu:/x"), None);
        assert!(suitable() > 0);
    }
}
