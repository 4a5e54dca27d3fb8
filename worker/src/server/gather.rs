//! Bytes of a body as they arrive: the first piece is kept as it is, only further ones are copied together.
//!
//! Memory grows with what has arrived and never with what was announced.

use bytes::{Bytes, BytesMut};

/// What has arrived and was not taken yet.
#[derive(Debug)]
pub enum Gathered {
    OnePiece(Bytes),
    Copied(BytesMut),
}

impl Default for Gathered {
    fn default() -> Gathered {
        Gathered::OnePiece(Bytes::new())
    }
}

impl Gathered {
    pub fn push(&mut self, data: Bytes) {
        match self {
            Gathered::OnePiece(piece) if piece.is_empty() => *piece = data,
            Gathered::OnePiece(piece) => {
                let mut copied = BytesMut::from(std::mem::take(piece));
                copied.extend_from_slice(&data);
                *self = Gathered::Copied(copied);
            }
            Gathered::Copied(copied) => copied.extend_from_slice(&data),
        }
    }

    pub fn bytes(&self) -> &[u8] {
        match self {
            Gathered::OnePiece(piece) => piece,
            Gathered::Copied(copied) => copied,
        }
    }

    /// Takes the first `length` bytes. Panics when fewer are here.
    pub fn take(&mut self, length: usize) -> Bytes {
        let taken = match self {
            Gathered::OnePiece(piece) => piece.split_to(length),
            Gathered::Copied(copied) => copied.split_to(length).freeze(),
        };
        if self.bytes().is_empty() {
            *self = Gathered::default();
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_piece_is_not_copied() {
        let piece = Bytes::from(vec![1, 2, 3]);
        let mut gathered = Gathered::default();
        gathered.push(piece.clone());
        assert_eq!(gathered.take(2).as_ptr(), piece.as_ptr());
        gathered.push(Bytes::from_static(&[4]));
        assert_eq!(gathered.take(2), [3, 4][..]);
        assert!(gathered.bytes().is_empty());
    }
}
