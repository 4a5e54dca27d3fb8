//! Flows that take turns: the one that was served longest ago is next, and a new one comes last.

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What has requests in it: a line, or flows of flows.
pub(super) trait Lengthy: Default {
    fn len(&self) -> usize;
}

/// Holds no flow that is empty.
#[derive(Debug)]
pub(super) struct Turns<F> {
    flows: HashMap<u64, Flow<F>>,
    /// By turn.
    order: BTreeMap<u64, u64>,
    /// By length, then by key.
    lengths: BTreeSet<(usize, u64)>,
    length: usize,
    turns: u64,
}

#[derive(Debug)]
struct Flow<F> {
    turn: u64,
    content: F,
}

impl<F: Lengthy> Turns<F> {
    pub fn get(&self, key: u64) -> Option<&F> {
        self.flows.get(&key).map(|flow| &flow.content)
    }

    pub fn len(&self) -> usize {
        self.length
    }

    /// Of those in here, how many are served before one that has `own` others of its flow before it. `known`: the
    /// flow is among those in here.
    pub fn ahead(&self, own: usize, known: bool) -> usize {
        let others = self.flows.len() - usize::from(known);
        let turns = others.saturating_mul(own.saturating_add(1));
        own.saturating_add(turns).min(self.length)
    }

    /// Changes the flow, which is made if there is none.
    pub fn change(&mut self, key: u64, change: impl FnOnce(&mut F)) {
        let flow = self.flows.entry(key).or_insert_with(|| {
            self.turns += 1;
            self.order.insert(self.turns, key);
            Flow {
                turn: self.turns,
                content: F::default(),
            }
        });
        let before = flow.content.len();
        change(&mut flow.content);
        self.settle(key, before);
    }

    /// Changes the flow, if there is one.
    pub fn visit<R>(&mut self, key: u64, change: impl FnOnce(&mut F) -> R) -> Option<R> {
        let flow = self.flows.get_mut(&key)?;
        let before = flow.content.len();
        let result = change(&mut flow.content);
        self.settle(key, before);
        Some(result)
    }

    /// Changes the first flow, in the order of their turns, for which `serve` has something.
    pub fn serve_any<R>(&mut self, mut serve: impl FnMut(u64, &mut F) -> Option<R>) -> Option<R> {
        let mut turn = 0;
        loop {
            let (next, key) = self.order.range(turn..).next()?;
            turn = *next + 1;
            let key = *key;
            if let Some(served) = self.serve_flow(key, |flow| serve(key, flow)).flatten() {
                return Some(served);
            }
        }
    }

    /// Changes the flow whose turn it is.
    pub fn serve<R>(&mut self, serve: impl FnOnce(&mut F) -> R) -> Option<R> {
        let key = *self.order.first_key_value()?.1;
        self.serve_flow(key, serve)
    }

    /// If it is shorter afterwards, it has had its turn.
    fn serve_flow<R>(&mut self, key: u64, serve: impl FnOnce(&mut F) -> R) -> Option<R> {
        let flow = self.flows.get_mut(&key)?;
        let before = flow.content.len();
        let result = serve(&mut flow.content);
        if flow.content.len() < before {
            self.order.remove(&flow.turn);
            self.turns += 1;
            flow.turn = self.turns;
            self.order.insert(self.turns, key);
        }
        self.settle(key, before);
        Some(result)
    }

    /// The longest flow, once a newcomer to the flow `own` is counted; it is the newcomer's if that is as long as any.
    pub fn longest_beside(&self, own: Option<u64>) -> Option<u64> {
        let (longest, key) = *self.lengths.last()?;
        let Some(own) = own else {
            return Some(key);
        };
        let with_newcomer = self.get(own).map_or(0, F::len) + 1;
        Some(if with_newcomer >= longest { own } else { key })
    }

    /// Puts in order what depends on the flow's length.
    fn settle(&mut self, key: u64, before: usize) {
        let Some(flow) = self.flows.get(&key) else {
            return;
        };
        let (turn, after) = (flow.turn, flow.content.len());
        self.length = self.length - before + after;
        if before != after {
            self.lengths.remove(&(before, key));
        }
        if after == 0 {
            self.order.remove(&turn);
            self.flows.remove(&key);
        } else {
            self.lengths.insert((after, key));
        }
    }
}

impl<F> Default for Turns<F> {
    fn default() -> Self {
        Self {
            flows: HashMap::new(),
            order: BTreeMap::new(),
            lengths: BTreeSet::new(),
            length: 0,
            turns: 0,
        }
    }
}

impl<F: Lengthy> Lengthy for Turns<F> {
    fn len(&self) -> usize {
        self.length
    }
}
