//! Framing of BYTES tensors: each element is its length as a little-endian `u32`, then that many bytes.

use super::{DataType, TensorError};

const LENGTH_FIELD: usize = 4;

/// Most rows without elements that [`bytes_row_offsets`] lists: such rows are claimed by no data at all.
const MAX_EMPTY_ROWS: usize = 1 << 20;

/// The elements of a framed BYTES tensor in order, each without its length field. Ends after the first error.
pub fn bytes_elements(data: &[u8]) -> BytesElements<'_> {
    BytesElements { data, offset: 0 }
}

/// See [`bytes_elements`].
#[derive(Clone, Debug)]
pub struct BytesElements<'a> {
    data: &'a [u8],
    offset: usize,
}

impl BytesElements<'_> {
    /// Where the next element's length field begins.
    pub fn offset(&self) -> usize {
        self.offset
    }

    fn fail(&mut self, needed: usize, left: usize) -> TensorError {
        let offset = self.offset;
        self.offset = self.data.len();
        TensorError::BytesTruncated {
            offset,
            needed,
            left,
        }
    }
}

impl<'a> Iterator for BytesElements<'a> {
    type Item = Result<&'a [u8], TensorError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = &self.data[self.offset..];
        if rest.is_empty() {
            return None;
        }
        let Some((length, body)) = rest.split_first_chunk::<LENGTH_FIELD>() else {
            return Some(Err(self.fail(LENGTH_FIELD, rest.len())));
        };
        let length = u32::from_le_bytes(*length) as usize;
        let Some(element) = body.get(..length) else {
            return Some(Err(
                self.fail(LENGTH_FIELD.saturating_add(length), rest.len())
            ));
        };
        self.offset += LENGTH_FIELD + length;
        Some(Ok(element))
    }
}

/// Checks that the data is framed rightly and holds this many elements.
///
/// # Errors
/// An element that is cut short, or another number of elements.
pub fn check_bytes(data: &[u8], count: u64) -> Result<(), TensorError> {
    let mut actual = 0;
    for element in bytes_elements(data) {
        element?;
        actual += 1;
    }
    if actual != count {
        return Err(TensorError::ElementCount {
            datatype: DataType::Bytes,
            expected: count,
            actual,
        });
    }
    Ok(())
}

/// Appends one element with its length field.
///
/// # Errors
/// An element longer than its length field can say; nothing is appended then.
pub fn encode_bytes_element(element: &[u8], out: &mut Vec<u8>) -> Result<(), TensorError> {
    let length = u32::try_from(element.len())
        .map_err(|_| TensorError::BytesElementTooLong(element.len()))?;
    out.reserve(LENGTH_FIELD + element.len());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(element);
    Ok(())
}

/// Where rows begin in a BYTES tensor, and, last, where the tensor ends: `rows + 1` offsets, so that row `r` is
/// `data[offsets[r]..offsets[r + 1]]`. No more is allocated than the data can bear out; rows without elements,
/// which no data bears out, are limited to a million.
///
/// # Errors
/// An element that is cut short, another number of elements than `rows × elements_per_row`, or too many rows
/// without elements.
pub fn bytes_row_offsets(
    data: &[u8],
    rows: usize,
    elements_per_row: usize,
) -> Result<Vec<usize>, TensorError> {
    let expected = (rows as u64).saturating_mul(elements_per_row as u64);
    if elements_per_row == 0 {
        check_bytes(data, 0)?;
        if rows > MAX_EMPTY_ROWS {
            return Err(TensorError::TooManyEmptyRows {
                rows,
                limit: MAX_EMPTY_ROWS,
            });
        }
        return Ok(vec![0; rows + 1]);
    }
    let borne_out = data.len() / LENGTH_FIELD / elements_per_row;
    let mut offsets = Vec::with_capacity(rows.min(borne_out) + 1);
    offsets.push(0);
    let mut elements = bytes_elements(data);
    let mut actual = 0_u64;
    let mut in_row = 0;
    while let Some(element) = elements.next() {
        element?;
        actual += 1;
        in_row += 1;
        if in_row == elements_per_row {
            in_row = 0;
            offsets.push(elements.offset());
        }
    }
    if actual != expected {
        return Err(TensorError::ElementCount {
            datatype: DataType::Bytes,
            expected,
            actual,
        });
    }
    Ok(offsets)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn framed(elements: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        for element in elements {
            encode_bytes_element(element, &mut out).unwrap();
        }
        out
    }

    #[test]
    fn frames_as_the_protocol_says() {
        assert_eq!(framed(&[b"ab", b""]), b"\x02\0\0\0ab\0\0\0\0");
    }

    #[test]
    fn elements_cut_short_are_refused() {
        let error = check_bytes(b"\x02\0\0", 1).unwrap_err();
        assert_eq!(
            error,
            TensorError::BytesTruncated {
                offset: 0,
                needed: 4,
                left: 3
            }
        );
        let error = check_bytes(b"\x01\0\0\0a\xff\xff\xff\xffb", 2).unwrap_err();
        assert_eq!(
            error,
            TensorError::BytesTruncated {
                offset: 5,
                needed: 4_294_967_299,
                left: 5
            }
        );
    }

    #[test]
    fn the_number_of_elements_must_agree() {
        let data = framed(&[b"a", b"b"]);
        assert_eq!(check_bytes(&data, 2), Ok(()));
        for count in [0, 1, 3, u64::MAX] {
            let error = check_bytes(&data, count).unwrap_err();
            assert!(matches!(error, TensorError::ElementCount { .. }), "{error}");
        }
    }

    #[test]
    fn an_error_ends_the_elements() {
        let results: Vec<_> = bytes_elements(b"\0\0\0\0\x09\0\0\0").collect();
        assert_eq!(results.len(), 2);
        assert!(results[0].is_ok() && results[1].is_err());
    }

    #[test]
    fn rows_begin_where_their_first_element_does() {
        let data = framed(&[b"a", b"", b"ccc", b"dd"]);
        assert_eq!(bytes_row_offsets(&data, 2, 2), Ok(vec![0, 9, 22]));
        assert_eq!(bytes_row_offsets(&data, 4, 1), Ok(vec![0, 5, 9, 16, 22]));
        assert_eq!(bytes_row_offsets(&[], 3, 0), Ok(vec![0, 0, 0, 0]));
        assert_eq!(bytes_row_offsets(&[], 0, 5), Ok(vec![0]));
        assert!(bytes_row_offsets(&data, 3, 1).is_err());
        assert!(bytes_row_offsets(&data, 2, 0).is_err());
    }

    #[test]
    fn claims_without_data_allocate_nothing() {
        assert!(bytes_row_offsets(&[], usize::MAX, usize::MAX).is_err());
        assert!(bytes_row_offsets(&[], usize::MAX, 1).is_err());
        assert!(matches!(
            bytes_row_offsets(&[], usize::MAX, 0),
            Err(TensorError::TooManyEmptyRows { .. })
        ));
    }

    proptest! {
        #[test]
        fn elements_are_read_back(elements in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 0..20)) {
            let slices: Vec<&[u8]> = elements.iter().map(Vec::as_slice).collect();
            let data = framed(&slices);
            let back: Result<Vec<&[u8]>, _> = bytes_elements(&data).collect();
            prop_assert_eq!(back.unwrap(), slices);
        }

        #[test]
        fn any_bytes_are_read_without_panic(data: Vec<u8>, rows in 0..5_usize, per_row in 0..5_usize) {
            let read: usize = bytes_elements(&data).map_while(Result::ok).map(|element| element.len() + 4).sum();
            prop_assert!(read <= data.len());
            if let Ok(offsets) = bytes_row_offsets(&data, rows, per_row) {
                prop_assert_eq!(offsets.len(), rows + 1);
                prop_assert_eq!(offsets.last().copied(), Some(data.len()));
            }
        }
    }
}
