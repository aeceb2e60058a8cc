//! Where a tensor is that the files have as rows of a larger one.

use std::ops::Range;

/// Rows of a tensor, which may have more than two dimensions: all but the last one count rows.
#[derive(Debug, Clone)]
pub struct FusedRows {
    pub tensor: String,
    pub shape: Vec<usize>,
    pub rows: Range<usize>,
}
