//! What became of the answers that were looked for in Redis, and of those written there.

use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Default)]
pub struct Counts {
    lookups: [AtomicU64; Lookup::ALL.len()],
    writes: [AtomicU64; Write::ALL.len()],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    Hit,
    Miss,
    /// Something is there, but no answer of this format to this request.
    Unreadable,
    /// Redis did not answer in time, or with an error, or is away.
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    Kept,
    Failed,
    /// Redis is away, or too many are under way.
    Dropped,
}

impl Lookup {
    pub const ALL: [Self; 4] = [Self::Hit, Self::Miss, Self::Unreadable, Self::Failed];

    pub fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Unreadable => "unreadable",
            Self::Failed => "failed",
        }
    }
}

impl Write {
    pub const ALL: [Self; 3] = [Self::Kept, Self::Failed, Self::Dropped];

    pub fn name(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}

impl Counts {
    pub fn looked(&self, lookup: Lookup) {
        self.lookups[lookup as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn wrote(&self, write: Write) {
        self.writes[write as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn lookups(&self, lookup: Lookup) -> u64 {
        self.lookups[lookup as usize].load(Ordering::Relaxed)
    }

    pub fn writes(&self, write: Write) -> u64 {
        self.writes[write as usize].load(Ordering::Relaxed)
    }
}
