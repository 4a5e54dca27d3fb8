//! A key stands for a whole request: equal keys mean equal requests, and nothing is compared on a hit.
//!
//! So nobody may be able to make two requests with one key, or they could plant an answer for others. BLAKE3 with 256
//! bits is such a hash, needs no secret (processes that share answers need not share one), and is four times as fast
//! as SHA-256 with the processor's own instructions for it.

use std::hash::{BuildHasherDefault, Hash, Hasher};

/// 256 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key([u8; 32]);

impl Key {
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Hash for Key {
    /// A digest is as random as a hash can be: its first bytes are enough.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        state.write_u64(u64::from_le_bytes([a, b, c, d, e, f, g, h]));
    }
}

/// A key in the making. Whoever writes into it sees to it that no two requests are written down alike.
#[derive(Debug, Clone, Default)]
pub struct Digest(blake3::Hasher);

impl Digest {
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes of a length that is known from elsewhere.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub fn number(&mut self, number: usize) {
        self.0.update(&(number as u64).to_le_bytes());
    }

    /// Bytes of any length, after their length.
    pub fn field(&mut self, bytes: &[u8]) {
        self.number(bytes.len());
        self.0.update(bytes);
    }

    pub fn key(&self) -> Key {
        Key(*self.0.finalize().as_bytes())
    }
}

/// Hashes keys no further.
pub type Digested = BuildHasherDefault<Taken>;

/// The number it is given.
#[derive(Debug, Clone, Default)]
pub struct Taken(u64);

impl Hasher for Taken {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(write: impl FnOnce(&mut Digest)) -> Key {
        let mut digest = Digest::new();
        write(&mut digest);
        digest.key()
    }

    #[test]
    fn fields_know_where_they_end() {
        let fields = |fields: &[&str]| {
            key(|digest| {
                for field in fields {
                    digest.field(field.as_bytes());
                }
            })
        };
        assert_eq!(fields(&["ab", "c"]), fields(&["ab", "c"]));
        assert_ne!(fields(&["ab", "c"]), fields(&["a", "bc"]));
        assert_ne!(fields(&["", "a"]), fields(&["a", ""]));
        assert_ne!(fields(&[]), fields(&[""]));
    }

    #[test]
    fn a_key_is_the_digest_of_what_was_written() {
        // The published test vector for no input at all.
        let empty = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        let bytes: Vec<u8> = (0..empty.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&empty[at..at + 2], 16).unwrap())
            .collect();
        assert_eq!(key(|_| ()).as_bytes()[..], bytes);
    }
}
