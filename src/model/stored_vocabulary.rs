//! Which rows of the embedding and the head of the files are the model's.

use super::storage::Rows;

/// Which rows of the embedding and the head there are.
#[derive(Debug)]
pub struct StoredVocabulary {
    pub rows: Vec<usize>,
    /// Rows in the files.
    pub whole: usize,
}

impl StoredVocabulary {
    /// The stored shape of a tensor with a row for each token, and which of them are meant.
    pub fn of_tokens(&self, shape: &[usize]) -> (Vec<usize>, Rows) {
        ([&[self.whole], &shape[1..]].concat(), Rows::Listed(self.rows.clone()))
    }
}
