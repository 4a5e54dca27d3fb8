//! Fields of a protobuf message, one after the other, without decoding them.

/// Why reading ended early.
pub(super) enum Stop {
    /// The bytes ended within a field.
    Truncated,
    Malformed,
}

/// The wire format: <https://protobuf.dev/programming-guides/encoding/>.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Field number and wire type.
    pub(super) fn key(&mut self) -> Result<(u32, u8), Stop> {
        let key = u32::try_from(self.varint()?).map_err(|_| Stop::Malformed)?;
        let number = key >> 3;
        if number == 0 {
            return Err(Stop::Malformed);
        }
        Ok((number, (key & 7) as u8))
    }

    pub(super) fn string(&mut self, wire_type: u8) -> Result<&'a str, Stop> {
        if wire_type != 2 {
            return Err(Stop::Malformed);
        }
        std::str::from_utf8(self.delimited()?).map_err(|_| Stop::Malformed)
    }

    pub(super) fn skip(&mut self, wire_type: u8) -> Result<(), Stop> {
        match wire_type {
            0 => self.varint().map(drop),
            1 => self.bytes(8).map(drop),
            2 => self.delimited().map(drop),
            5 => self.bytes(4).map(drop),
            _ => Err(Stop::Malformed),
        }
    }

    pub(super) fn delimited(&mut self) -> Result<&'a [u8], Stop> {
        let length = i32::try_from(self.varint()?).map_err(|_| Stop::Malformed)?;
        self.bytes(usize::try_from(length).map_err(|_| Stop::Malformed)?)
    }

    /// The value of a field as it stands there, without the length that a string or message begins with.
    pub(super) fn value(&mut self, wire_type: u8) -> Result<&'a [u8], Stop> {
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
    fn varint(&mut self) -> Result<u64, Stop> {
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
