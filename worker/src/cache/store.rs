//! Answers kept in memory, never more bytes of them than were allowed.
//!
//! What goes first is decided by S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP
//! 2023), as crate `quick_cache` has it: an answer asked for once leaves before one that is asked for again, so a
//! run over many different inputs does not empty the cache. Kept tensors are copies: an answer is often a slice
//! of a whole batch's output, and keeping the slice would keep the batch.

use std::sync::Arc;

use bytes::Bytes;
use quick_cache::unsync::Cache;
use quick_cache::{Lifecycle, Weighter};

use super::key::{Digested, Key};
use crate::inference::Tensor;

/// The outputs of one request.
pub type Kept = Arc<[Tensor]>;

/// Bytes that an entry and each of its tensors take besides the data, roughly.
const ENTRY: usize = 160;
const TENSOR: usize = 96;
/// What an answer is taken to weigh when the table is made.
const USUAL_ENTRY: u64 = 4 << 10;
const MAX_RESERVED: u64 = 16 << 10;

/// Bounded by bytes.
pub struct Store {
    kept: Cache<Key, Kept, Weight, Digested, Evictions>,
    limit: u64,
    evictions: u64,
}

impl Store {
    /// `limit`: bytes.
    pub fn new(limit: u64) -> Store {
        let entries = (limit / USUAL_ENTRY).clamp(16, MAX_RESERVED);
        let entries = usize::try_from(entries).unwrap_or(usize::MAX);
        Store {
            kept: Cache::with(entries, limit, Weight, Digested::default(), Evictions),
            limit,
            evictions: 0,
        }
    }

    pub fn get(&self, key: &Key) -> Option<Kept> {
        self.kept.get(key).cloned()
    }

    /// Keeps an answer, and gives back what had to go for it, so that the caller frees it when no lock is held.
    pub fn insert(&mut self, key: Key, answer: Kept) -> Vec<Kept> {
        let mut evicted = Vec::new();
        self.kept.insert_with_lifecycle(key, answer, &mut evicted);
        self.evictions += evicted.len() as u64;
        evicted
    }

    /// Whether an answer of so many bytes could be kept at all.
    pub fn has_room_for(&self, bytes: u64) -> bool {
        bytes <= self.limit
    }

    pub fn bytes(&self) -> u64 {
        self.kept.weight()
    }

    pub fn entries(&self) -> usize {
        self.kept.len()
    }

    /// Answers that had to go for others.
    pub fn evictions(&self) -> u64 {
        self.evictions
    }
}

/// Copies of the tensors, which pin nothing else.
pub fn keep(outputs: &[Tensor]) -> Kept {
    let copy = |tensor: &Tensor| Tensor {
        datatype: tensor.datatype,
        shape: tensor.shape.clone(),
        data: Bytes::copy_from_slice(&tensor.data),
    };
    outputs.iter().map(copy).collect()
}

/// Bytes that keeping these takes.
pub fn weight(outputs: &[Tensor]) -> u64 {
    let tensor = |tensor: &Tensor| TENSOR + tensor.shape.len() * 8 + tensor.data.len();
    (ENTRY + outputs.iter().map(tensor).sum::<usize>()) as u64
}

#[derive(Debug, Clone)]
struct Weight;

impl Weighter<Key, Kept> for Weight {
    fn weight(&self, _: &Key, answer: &Kept) -> u64 {
        weight(answer)
    }
}

#[derive(Debug, Clone)]
struct Evictions;

impl Lifecycle<Key, Kept> for Evictions {
    type RequestState = Vec<Kept>;

    fn on_evict(&self, evicted: &mut Vec<Kept>, _: Key, answer: Kept) {
        evicted.push(answer);
    }
}

#[cfg(test)]
mod tests {
    use forebay_proto::tensor::DataType;
    use proptest::prelude::*;

    use super::*;
    use crate::inference::InferRequest;

    fn outputs(bytes: usize) -> Vec<Tensor> {
        vec![Tensor {
            datatype: DataType::Uint8,
            shape: vec![bytes as i64],
            data: Bytes::from(vec![7; bytes]),
        }]
    }

    fn key(number: usize) -> Key {
        Key::of(&InferRequest {
            inputs: vec![],
            outputs: vec![number],
            rows: 1,
            deadline: None,
            priority: 0,
            trace: None,
        })
    }

    proptest! {
        #[test]
        fn never_more_bytes_than_allowed(
            limit in 0_u64..20_000,
            sizes in prop::collection::vec((0_usize..40, 0_usize..4_000), 0..200)
        ) {
            let mut store = Store::new(limit);
            let mut kept = 0;
            let mut gone = 0;
            for (number, size) in sizes {
                let outputs = outputs(size);
                if !store.has_room_for(weight(&outputs)) || store.get(&key(number)).is_some() {
                    continue;
                }
                kept += 1;
                gone += store.insert(key(number), keep(&outputs)).len();
                prop_assert!(store.bytes() <= limit, "{} of {limit}", store.bytes());
                prop_assert_eq!(store.entries(), kept - gone);
                prop_assert_eq!(store.evictions(), gone as u64);
            }
        }
    }

    #[test]
    fn what_is_asked_for_again_outlives_a_scan() {
        let room = 20 * weight(&outputs(1_000));
        let mut store = Store::new(room);
        for popular in 0..4 {
            store.insert(key(popular), keep(&outputs(1_000)));
        }
        for stranger in 100..400 {
            for popular in 0..4 {
                assert!(store.get(&key(popular)).is_some(), "gone at {stranger}");
            }
            store.insert(key(stranger), keep(&outputs(1_000)));
        }
        assert!(store.evictions() > 0);
    }

    #[test]
    fn a_kept_slice_does_not_pin_the_batch() {
        let batch = Bytes::from(vec![1; 1_000]);
        let answer = [Tensor {
            datatype: DataType::Uint8,
            shape: vec![1, 10],
            data: batch.slice(20..30),
        }];
        let kept = keep(&answer);
        assert_eq!(kept[0], answer[0]);
        drop(answer);
        assert!(batch.is_unique(), "somebody holds the batch");
    }
}
