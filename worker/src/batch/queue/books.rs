//! The sums over all that wait, kept entry by entry so that nobody has to add them up.

use std::collections::BTreeMap;

use super::{Waiting, Weight};

/// Rows that wait, by priority and class of weight. A request that goes alone counts for one.
pub type Backlog = BTreeMap<(u32, Weight), usize>;

#[derive(Debug, Default)]
pub(super) struct Books {
    pub requests: usize,
    pub rows: usize,
    pub backlog: Backlog,
}

impl Books {
    pub fn enter(&mut self, item: &impl Waiting) {
        self.requests += 1;
        self.rows += item.rows();
        *self.backlog.entry(key(item)).or_default() += amount(item);
    }

    pub fn strike(&mut self, item: &impl Waiting) {
        self.requests -= 1;
        self.rows -= item.rows();
        if let Some(waiting) = self.backlog.get_mut(&key(item)) {
            *waiting -= amount(item);
        }
    }
}

fn key(item: &impl Waiting) -> (u32, Weight) {
    (item.priority(), item.weight().class())
}

fn amount(item: &impl Waiting) -> usize {
    match item.weight() {
        Weight::Alone { .. } => 1,
        Weight::Rows { .. } => item.rows(),
    }
}
