//! The waiting requests of one group, in the order in which they go.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::books::Books;
use super::{Cut, Dropped, Group, Standing, Waiting};

/// The order of requests: by priority, then by arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    pub priority: u32,
    pub number: u64,
}

impl Rank {
    pub fn of(item: &impl Waiting) -> Self {
        Self {
            priority: item.priority(),
            number: item.number(),
        }
    }
}

#[derive(Debug)]
struct Entry<T> {
    item: T,
    arrived: Instant,
}

#[derive(Debug)]
pub(super) struct Members<T> {
    group: Group,
    entries: BTreeMap<Rank, Entry<T>>,
    rows: usize,
    deadlines: BTreeSet<(Instant, Rank)>,
}

impl<T: Waiting> Members<T> {
    pub fn new(group: Group) -> Self {
        Self {
            group,
            entries: BTreeMap::new(),
            rows: 0,
            deadlines: BTreeSet::new(),
        }
    }

    pub fn group(&self) -> &Group {
        &self.group
    }

    pub fn head(&self) -> Option<Rank> {
        self.entries.keys().next().copied()
    }

    pub fn contains(&self, rank: Rank) -> bool {
        self.entries.contains_key(&rank)
    }

    /// The earliest of all deadlines.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// None if nobody waits.
    pub fn standing(&self) -> Option<Standing<'_>> {
        Some(Standing {
            group: &self.group,
            rows: self.rows,
            first: {
                let (_, entry) = self.entries.first_key_value()?;
                (entry.item.weight(), entry.item.rows())
            },
            oldest: self.oldest()?,
            deadline: self.deadline(),
        })
    }

    pub fn insert(&mut self, item: T, arrived: Instant, books: &mut Books) {
        let rank = Rank::of(&item);
        books.enter(&item);
        self.rows += item.rows();
        if let Some(deadline) = item.deadline() {
            self.deadlines.insert((deadline, rank));
        }
        self.entries.insert(rank, Entry { item, arrived });
    }

    pub fn remove(&mut self, rank: Rank, books: &mut Books) -> Option<T> {
        Some(self.take(rank, books)?.item)
    }

    /// Takes requests from the head as `cut` says; at least one, unless all are cancelled.
    pub fn cut(&mut self, cut: Cut, books: &mut Books, dropped: &mut Vec<(T, Dropped)>) -> Vec<T> {
        let mut batch = Vec::new();
        let mut taken = 0;
        while let Some((rank, entry)) = self.entries.first_key_value() {
            let (rank, rows) = (*rank, entry.item.rows());
            let cancelled = entry.item.is_cancelled();
            let part = match (cancelled, self.group == Group::Alone) {
                (true, _) => Part::Whole,
                (false, true) if batch.is_empty() => Part::Whole,
                (false, true) => Part::Nothing,
                (false, false) => part(cut, taken, rows),
            };
            if part == Part::Nothing {
                break;
            }
            let Some(Entry { item, arrived }) = self.take(rank, books) else {
                break;
            };
            if cancelled {
                dropped.push((item, Dropped::Cancelled));
                continue;
            }
            let wanting = cut.rows.saturating_sub(taken).max(1);
            if let (Some(done_at), Some(deadline)) = (cut.done_at, item.deadline())
                && deadline < done_at
                && self.rows >= wanting
            {
                let late = Dropped::TooLate(done_at.saturating_duration_since(arrived));
                dropped.push((item, late));
                if cut.whole == usize::MAX {
                    // The next one has an expectation of its own.
                    break;
                }
                continue;
            }
            let (item, rest) = match part {
                Part::First(rows) => match item.split(rows) {
                    Ok((item, rest)) => (item, Some(rest)),
                    Err(item) => (item, None),
                },
                Part::Whole | Part::Nothing => (item, None),
            };
            taken += item.rows();
            batch.push(item);
            if let Some(rest) = rest {
                self.insert(rest, arrived, books);
                break;
            }
        }
        batch
    }

    /// Removes everybody whose deadline has come.
    pub fn expire(&mut self, now: Instant, books: &mut Books, dropped: &mut Vec<(T, Dropped)>) {
        while let Some((deadline, rank)) = self.deadlines.first().copied() {
            if deadline > now {
                break;
            }
            self.deadlines.remove(&(deadline, rank));
            if let Some(item) = self.remove(rank, books) {
                let cancelled = item.is_cancelled();
                let reason = if cancelled {
                    Dropped::Cancelled
                } else {
                    Dropped::Expired
                };
                dropped.push((item, reason));
            }
        }
    }

    fn take(&mut self, rank: Rank, books: &mut Books) -> Option<Entry<T>> {
        let entry = self.entries.remove(&rank)?;
        books.strike(&entry.item);
        self.rows -= entry.item.rows();
        if let Some(deadline) = entry.item.deadline() {
            self.deadlines.remove(&(deadline, rank));
        }
        Some(entry)
    }

    /// When the oldest request came: the first of one of the priorities.
    fn oldest(&self) -> Option<Instant> {
        let mut oldest: Option<Instant> = None;
        let mut next = self.entries.first_key_value();
        while let Some((rank, entry)) = next {
            oldest = Some(oldest.map_or(entry.arrived, |oldest| oldest.min(entry.arrived)));
            let Some(priority) = rank.priority.checked_add(1) else {
                break;
            };
            let below = Rank {
                priority,
                number: 0,
            };
            next = self.entries.range(below..).next();
        }
        oldest
    }
}

/// How much of a request goes into a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Nothing,
    Whole,
    /// So many of its first rows.
    First(usize),
}

/// What a batch that has `taken` rows takes of a request of `rows` rows.
fn part(cut: Cut, taken: usize, rows: usize) -> Part {
    let room = cut.rows.saturating_sub(taken);
    if rows <= room {
        return Part::Whole;
    }
    let too_large = rows > cut.whole;
    match (taken, room) {
        (0, 0) => Part::Whole,
        (0, room) if too_large => Part::First(room),
        (0, _) => Part::Whole,
        (_, 0) => Part::Nothing,
        (taken, room) if too_large || taken < cut.fill => Part::First(room),
        _ => Part::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_takes_whole_requests_and_parts_where_that_pays() {
        let cut = Cut {
            rows: 8,
            whole: 16,
            fill: 4,
            done_at: None,
        };
        let cases = [
            (0, 8, Part::Whole),
            (0, 16, Part::Whole),
            (0, 17, Part::First(8)),
            (3, 5, Part::Whole),
            (3, 6, Part::First(5)),
            (4, 6, Part::Nothing),
            (4, 17, Part::First(4)),
            (8, 1, Part::Nothing),
            (8, 17, Part::Nothing),
            (20, 1, Part::Nothing),
        ];
        for (taken, rows, expected) in cases {
            assert_eq!(
                part(cut, taken, rows),
                expected,
                "{taken} taken, {rows} rows"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn a_part_is_smaller_than_the_request_and_fits(
            rows in 1usize..64, whole in 1usize..64, fill in 0usize..64, taken in 0usize..64, asked in 1usize..200,
        ) {
            match part(Cut { rows, whole, fill, done_at: None }, taken, asked) {
                Part::Whole => proptest::prop_assert!(taken + asked <= rows || taken == 0),
                Part::First(part) => {
                    proptest::prop_assert!(part > 0 && part < asked && taken + part == rows);
                }
                Part::Nothing => proptest::prop_assert!(taken > 0),
            }
        }
    }
}
