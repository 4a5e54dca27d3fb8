//! Steps over the fields of a protobuf message, of which nothing is copied:
//! <https://protobuf.dev/programming-guides/encoding/>.
//!
//! Groups, which the protocols here never had, are malformed.

/// Why a field cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The bytes ended within a field.
    Truncated,
    Malformed,
}

pub struct Reader<'a> {
    rest: &'a [u8],
}

/// A field, as far as all fields are alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    pub number: u32,
    /// Of a string, bytes or a message; None: it is a number.
    pub content: Option<&'a [u8]>,
    /// All of it, its key included.
    pub whole: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next field, whatever it is; None at the end.
    pub fn field(&mut self) -> Result<Option<Field<'a>>, Stop> {
        if self.is_empty() {
            return Ok(None);
        }
        let start = self.rest;
        let (number, wire_type) = self.key()?;
        let content = match wire_type {
            2 => Some(self.delimited()?),
            _ => {
                self.skip(wire_type)?;
                None
            }
        };
        let whole = &start[..start.len() - self.rest.len()];
        Ok(Some(Field {
            number,
            content,
            whole,
        }))
    }

    /// Field number and wire type.
    pub fn key(&mut self) -> Result<(u32, u8), Stop> {
        let key = u32::try_from(self.varint()?).map_err(|_| Stop::Malformed)?;
        let number = key >> 3;
        if number == 0 {
            return Err(Stop::Malformed);
        }
        Ok((number, (key & 7) as u8))
    }

    pub fn string(&mut self, wire_type: u8) -> Result<&'a str, Stop> {
        if wire_type != 2 {
            return Err(Stop::Malformed);
        }
        std::str::from_utf8(self.delimited()?).map_err(|_| Stop::Malformed)
    }

    pub fn skip(&mut self, wire_type: u8) -> Result<(), Stop> {
        match wire_type {
            0 => self.varint().map(drop),
            1 => self.bytes(8).map(drop),
            2 => self.delimited().map(drop),
            5 => self.bytes(4).map(drop),
            _ => Err(Stop::Malformed),
        }
    }

    pub fn delimited(&mut self) -> Result<&'a [u8], Stop> {
        let length = i32::try_from(self.varint()?).map_err(|_| Stop::Malformed)?;
        self.bytes(usize::try_from(length).map_err(|_| Stop::Malformed)?)
    }

    pub(super) fn eight(&mut self) -> Result<[u8; 8], Stop> {
        self.bytes(8)?.try_into().map_err(|_| Stop::Truncated)
    }

    /// What there is of a delimited field that may go on beyond the end.
    pub(super) fn delimited_head(&mut self) -> Result<&'a [u8], Stop> {
        let length = i32::try_from(self.varint()?).map_err(|_| Stop::Malformed)?;
        let length = usize::try_from(length).map_err(|_| Stop::Malformed)?;
        self.bytes(length.min(self.rest.len()))
    }

    /// The value of a field as it stands there, without the length that a string or message begins with.
    pub fn value(&mut self, wire_type: u8) -> Result<&'a [u8], Stop> {
        if wire_type == 2 {
            return self.delimited();
        }
        let before = self.rest;
        self.skip(wire_type)?;
        Ok(&before[..before.len() - self.rest.len()])
    }

    fn bytes(&mut self, length: usize) -> Result<&'a [u8], Stop> {
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(Stop::Truncated)?;
        self.rest = rest;
        Ok(bytes)
    }

    /// Seven bits a byte, the lowest first; ten bytes at most, of which the last holds a single bit.
    pub(super) fn varint(&mut self) -> Result<u64, Stop> {
        let mut value = 0;
        for (position, &byte) in self.rest.iter().take(10).enumerate() {
            if position == 9 && byte > 1 {
                return Err(Stop::Malformed);
            }
            value |= u64::from(byte & 0x7f) << (7 * position);
            if byte < 0x80 {
                self.rest = &self.rest[position + 1..];
                return Ok(value);
            }
        }
        Err(Stop::Truncated)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_are_given_whole() {
        let message = [&[1 << 3 | 2, 2][..], b"ab", &[12 << 3, 0x80, 1]].concat();
        let mut reader = Reader::new(&message);
        let text = reader.field().unwrap().unwrap();
        assert_eq!((text.number, text.content), (1, Some(&b"ab"[..])));
        assert_eq!(text.whole, &message[..4]);
        let number = reader.field().unwrap().unwrap();
        assert_eq!((number.number, number.content), (12, None));
        assert_eq!(number.whole, &message[4..]);
        assert_eq!(reader.field(), Ok(None));
        assert_eq!(Reader::new(&message[..3]).field(), Err(Stop::Truncated));
        assert_eq!(Reader::new(&[0, 0]).field(), Err(Stop::Malformed));
    }

    proptest! {
        #[test]
        fn whole_fields_make_up_the_message(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut reader = Reader::new(&bytes);
            let mut read = Vec::new();
            while let Ok(Some(field)) = reader.field() {
                prop_assert!(!field.whole.is_empty());
                read.extend_from_slice(field.whole);
            }
            prop_assert!(bytes.starts_with(&read));
        }
    }
}
