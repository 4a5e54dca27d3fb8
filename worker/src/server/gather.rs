//! Bytes of a body as they arrive: the first piece is kept as it is, only further ones are copied together.
//!
//! Memory grows with what has arrived and never with what was announced.

use bytes::{Bytes, BytesMut};

use crate::server::bodies::{Bodies, NoRoom, Share};

/// What has arrived and was not taken yet.
#[derive(Debug)]
pub struct Gathered {
    pieces: Pieces,
    share: Share,
}

#[derive(Debug)]
enum Pieces {
    One(Bytes),
    Copied(BytesMut),
}

impl Gathered {
    /// What arrives is booked with `bodies`.
    pub fn new(bodies: &Bodies) -> Gathered {
        Gathered {
            pieces: Pieces::One(Bytes::new()),
            share: bodies.share(),
        }
    }

    /// # Errors
    /// There is no room for it.
    pub fn push(&mut self, data: Bytes) -> Result<(), NoRoom> {
        self.share.grow(data.len())?;
        match &mut self.pieces {
            Pieces::One(piece) if piece.is_empty() => *piece = data,
            Pieces::One(piece) => {
                let mut copied = BytesMut::from(std::mem::take(piece));
                copied.extend_from_slice(&data);
                self.pieces = Pieces::Copied(copied);
            }
            Pieces::Copied(copied) => copied.extend_from_slice(&data),
        }
        Ok(())
    }

    /// For more that belongs to the same body.
    pub fn share(&self) -> Share {
        self.share.another()
    }

    pub fn bytes(&self) -> &[u8] {
        match &self.pieces {
            Pieces::One(piece) => piece,
            Pieces::Copied(copied) => copied,
        }
    }

    /// Takes the first `length` bytes, which stay booked while they are there. Panics when fewer are here.
    pub fn take(&mut self, length: usize) -> Bytes {
        let taken = match &mut self.pieces {
            Pieces::One(piece) => piece.split_to(length),
            Pieces::Copied(copied) => copied.split_to(length).freeze(),
        };
        if self.bytes().is_empty() {
            self.pieces = Pieces::One(Bytes::new());
        }
        self.share.split(length).hold(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_piece_is_not_copied() {
        let piece = Bytes::from(vec![1, 2, 3]);
        let mut gathered = Gathered::new(&Bodies::unbounded());
        gathered.push(piece.clone()).unwrap();
        assert_eq!(gathered.take(2).as_ptr(), piece.as_ptr());
        gathered.push(Bytes::from_static(&[4])).unwrap();
        assert_eq!(gathered.take(2), [3, 4][..]);
        assert!(gathered.bytes().is_empty());
    }
    #[test]
    fn a_claim_within_the_limit_takes_no_memory() {
        let mut gathered = Gathered::new(&Bodies::unbounded());
        gathered.push(Bytes::from_static(b"x")).unwrap();
        gathered.push(Bytes::from_static(b"y")).unwrap();
        let Pieces::Copied(copied) = &gathered.pieces else {
            panic!("two pieces are copied together, unlike {gathered:?}");
        };
        assert!(copied.capacity() < 1 << 10, "{}", copied.capacity());
    }

    #[test]
    fn what_arrived_is_booked_until_it_is_gone() {
        let bodies = Bodies::new(100 << 10);
        let mut gathered = Gathered::new(&bodies);
        for _ in 0..3 {
            gathered.push(Bytes::from(vec![1; 30 << 10])).unwrap();
        }
        assert!(gathered.push(Bytes::from(vec![1; 11 << 10])).is_err());
        let message = gathered.take(40 << 10);
        assert_eq!(bodies.held(), 90 << 10);
        drop(gathered);
        assert_eq!(bodies.held(), 40 << 10);
        drop(message);
        assert_eq!(bodies.held(), 0);
    }
}
