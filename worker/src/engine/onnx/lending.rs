//! Large outputs are handed out where ONNX Runtime put them; small ones are copied.
//!
//! Copying a large output costs memory bandwidth and page faults; handing it out keeps memory of the session's
//! arena from its next runs for as long as the slowest reader of the answer takes, and the arena never shrinks.
//! So what is out at any time is bounded, and beyond the bound outputs are copied like small ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use ort::value::{DynValue, PrimitiveTensorElementType};
use zerocopy::{Immutable, IntoBytes};

/// Smaller outputs are copied: that costs a microsecond or two.
const WORTH_LENDING: usize = 64 << 10;
/// Of one session, in bytes.
const LENT_AT_MOST: usize = 64 << 20;

/// What one session has handed out.
#[derive(Debug, Default)]
pub(super) struct Lending {
    bytes: Arc<AtomicUsize>,
}

impl Lending {
    /// The elements of a tensor of `T`, copied or not.
    ///
    /// # Errors
    /// The value is not a tensor of `T` that the CPU can read.
    pub(super) fn bytes<T>(&self, value: DynValue) -> ort::Result<Bytes>
    where
        T: PrimitiveTensorElementType + IntoBytes + Immutable + Send + 'static,
    {
        let (_, elements) = value.try_extract_tensor::<T>()?;
        let bytes = elements.as_bytes();
        if bytes.len() < WORTH_LENDING || !self.book(bytes.len()) {
            return Ok(Bytes::copy_from_slice(bytes));
        }
        Ok(Bytes::from_owner(Lent::<T> {
            length: bytes.len(),
            value,
            lent: Arc::clone(&self.bytes),
            element: std::marker::PhantomData,
        }))
    }

    /// False if it would be too much.
    fn book(&self, length: usize) -> bool {
        let before = self.bytes.fetch_add(length, Ordering::Relaxed);
        let fits = before.saturating_add(length) <= LENT_AT_MOST;
        if !fits {
            self.bytes.fetch_sub(length, Ordering::Relaxed);
        }
        fits
    }
}

/// An output in the runtime's memory, given back when its last reader is done.
struct Lent<T> {
    value: DynValue,
    length: usize,
    lent: Arc<AtomicUsize>,
    element: std::marker::PhantomData<T>,
}

impl<T> AsRef<[u8]> for Lent<T>
where
    T: PrimitiveTensorElementType + IntoBytes + Immutable,
{
    fn as_ref(&self) -> &[u8] {
        let (_, elements) = self
            .value
            .try_extract_tensor::<T>()
            .expect("it was extracted when it was lent");
        elements.as_bytes()
    }
}

impl<T> Drop for Lent<T> {
    fn drop(&mut self) {
        self.lent.fetch_sub(self.length, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use ort::value::Tensor;

    use super::*;
    use crate::engine::onnx;

    fn ones(elements: usize) -> DynValue {
        onnx::load(None).expect("these tests need ONNX Runtime");
        Tensor::<f32>::from_array(([elements], vec![1.0; elements]))
            .unwrap()
            .into_dyn()
    }

    #[test]
    fn large_outputs_stay_where_they_are_until_the_last_reader_is_done() {
        let lending = Lending::default();
        let value = ones(WORTH_LENDING / 4);
        let address = value.try_extract_tensor::<f32>().unwrap().1.as_ptr().addr();
        let bytes = lending.bytes::<f32>(value).unwrap();
        assert_eq!(bytes.as_ptr().addr(), address);
        assert_eq!(bytes.len(), WORTH_LENDING);
        let row = bytes.slice(4..8);
        drop(bytes);
        assert_eq!(lending.bytes.load(Ordering::Relaxed), WORTH_LENDING);
        assert_eq!(&row[..], 1.0f32.to_le_bytes());
        drop(row);
        assert_eq!(lending.bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn small_outputs_and_what_would_be_too_much_are_copied() {
        let lending = Lending::default();
        let small = lending.bytes::<f32>(ones(WORTH_LENDING / 4 - 1)).unwrap();
        assert_eq!(lending.bytes.load(Ordering::Relaxed), 0);
        assert_eq!(small.len(), WORTH_LENDING - 4);
        assert!(lending.book(LENT_AT_MOST - WORTH_LENDING));
        let last = lending.bytes::<f32>(ones(WORTH_LENDING / 4)).unwrap();
        assert_eq!(lending.bytes.load(Ordering::Relaxed), LENT_AT_MOST);
        let beyond = lending.bytes::<f32>(ones(WORTH_LENDING / 4)).unwrap();
        assert_eq!(lending.bytes.load(Ordering::Relaxed), LENT_AT_MOST);
        assert_eq!(beyond, last);
    }

    #[test]
    fn another_type_is_an_error() {
        assert!(Lending::default().bytes::<i64>(ones(1)).is_err());
    }
}
