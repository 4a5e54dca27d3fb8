//! How much a built-in step may be made to do, whatever a request looks like.
//!
//! A request is bounded in bytes, but a few bytes may stand for much more: a small picture for one of full size, an
//! empty text for a padded row, a shape without elements for any number of rows. So the work is measured before it
//! is done, and refused beyond these limits. They are far above what one request needs.

use super::{Input, StepError, strings};
use crate::engine::content;

/// Bytes of all that one step makes for one request.
pub const MAX_BYTES: usize = 256 << 20;
/// Rows of a tensor that a step takes, also where no model of the ensemble has a limit.
pub const MAX_ROWS: usize = 1 << 16;
/// What the dimensions of a tensor without elements may come to without those that are 0.
const MAX_EMPTY: i64 = 1 << 16;

/// Whether the shape is one that the data bears out, with no more rows than a step takes.
pub fn check(input: &Input) -> Result<(), StepError> {
    let shape = &input.tensor.shape;
    content::shape(&input.name, shape).map_err(StepError::Invalid)?;
    let span: i64 = shape.iter().map(|size| (*size).max(1)).product();
    if shape.contains(&0) && span > MAX_EMPTY {
        let what = format!(
            "the shape {shape:?} has no elements, its other dimensions may come to {MAX_EMPTY} at most"
        );
        return Err(strings::invalid(input, &what));
    }
    let rows = shape.first().copied().unwrap_or(1);
    if rows > MAX_ROWS as i64 {
        let what = format!("{rows} rows, a step takes {MAX_ROWS} at most");
        return Err(strings::invalid(input, &what));
    }
    Ok(())
}

/// The bytes of `rows` rows of `row_bytes` each, if a step may make so many.
pub fn bytes(rows: usize, row_bytes: usize) -> Result<usize, StepError> {
    let whole = rows.checked_mul(row_bytes);
    whole.filter(|whole| *whole <= MAX_BYTES).ok_or_else(|| {
        StepError::Invalid(format!(
            "{rows} rows become {row_bytes} bytes each, a step makes {MAX_BYTES} bytes at most"
        ))
    })
}
