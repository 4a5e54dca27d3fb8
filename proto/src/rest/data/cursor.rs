//! A place in the text of tensor data, and the tokens read there.

use serde_json::value::RawValue;

use super::DataError;
use crate::tensor::encode_bytes_element;

/// A place in JSON that is known to be valid, which is why commas can be passed over like blanks.
pub(super) struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(json: &'a RawValue) -> Self {
        Self {
            text: json.get(),
            at: 0,
        }
    }

    /// The text from here on.
    pub(super) fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// Passes over a token, or a part of one, of this many bytes.
    pub(super) fn advance(&mut self, length: usize) {
        self.at += length;
    }

    /// The byte at which the next token begins. At the end of the text, which valid JSON never reaches, a byte
    /// that no token begins with.
    pub(super) fn peek(&mut self) -> u8 {
        let bytes = self.text.as_bytes();
        while let Some(&byte) = bytes.get(self.at) {
            match byte {
                b' ' | b'\n' | b'\r' | b'\t' | b',' => self.at += 1,
                other => return other,
            }
        }
        0
    }

    /// The byte at which the token after the next begins, which has one byte.
    pub(super) fn second(&self) -> u8 {
        let mut ahead = Cursor {
            text: self.text,
            at: self.at + 1,
        };
        ahead.peek()
    }

    pub(super) fn number(&mut self, index: u64) -> Result<&'a str, DataError> {
        let rest = self.rest();
        let length = rest
            .bytes()
            .position(|byte| !matches!(byte, b'0'..=b'9' | b'.' | b'-' | b'+' | b'e' | b'E'))
            .unwrap_or(rest.len());
        if length == 0 {
            return Err(self.wrong_type(index, "a number"));
        }
        self.at += length;
        Ok(&rest[..length])
    }

    pub(super) fn boolean(&mut self, index: u64) -> Result<bool, DataError> {
        let rest = self.rest();
        for (text, value) in [("true", true), ("false", false)] {
            if rest.starts_with(text) {
                self.at += text.len();
                return Ok(value);
            }
        }
        Err(self.wrong_type(index, "true or false"))
    }

    pub(super) fn string(&mut self, index: u64, out: &mut Vec<u8>) -> Result<(), DataError> {
        let rest = self.rest();
        let Some(inside) = rest.strip_prefix('"') else {
            return Err(self.wrong_type(index, "a string"));
        };
        let special = inside.bytes().position(|byte| matches!(byte, b'"' | b'\\'));
        if let Some(length) = special
            && inside.as_bytes()[length] == b'"'
        {
            self.at += length + 2;
            encode_bytes_element(&inside.as_bytes()[..length], out)?;
            return Ok(());
        }
        let mut strings = serde_json::Deserializer::from_str(rest).into_iter::<String>();
        match strings.next() {
            Some(Ok(text)) => {
                self.at += strings.byte_offset();
                encode_bytes_element(text.as_bytes(), out)?;
                Ok(())
            }
            Some(Err(error)) => Err(DataError::Text {
                index,
                reason: error.to_string(),
            }),
            None => Err(self.wrong_type(index, "a string")),
        }
    }

    fn wrong_type(&self, index: u64, wanted: &'static str) -> DataError {
        DataError::WrongType {
            index,
            found: kind(self.text.as_bytes().get(self.at).copied().unwrap_or(0)),
            wanted,
        }
    }
}

/// What kind of value begins with a byte.
pub(super) fn kind(first: u8) -> &'static str {
    match first {
        b'"' => "a string",
        b't' | b'f' => "a boolean",
        b'n' => "null",
        b'[' => "an array",
        b'{' => "an object",
        b'-' | b'0'..=b'9' => "a number",
        _ => "missing",
    }
}
